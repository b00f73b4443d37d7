//! Random histories: whatever happens in whatever order, nobody who is well disappears by Consul's silence, no table empties without a
//! reason, and the journal leads to the same end.
//!
//! Long because what may happen, how it is lived through and what it is held to are read together.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::reader::{first_line, line_of, parse};
use super::replay::{Replayed, Stage};
use super::*;
use crate::config::ConsulService;
use crate::control::consul::{
    Blame, CheckStatus, Document, Finding, Instance, Observation, Subtree,
};
use crate::control::tests::{World, instance, key, watch};
use crate::routing::operator::{Matter, Order, Reach, Target};
use crate::routing::{PassiveFault, Snapshot, Standing, Unfit, Verdict};

const ADDRESSES: [&str; 6] = [
    "10.0.0.1:80",
    "10.0.0.2:80",
    "10.0.0.3:80",
    "10.0.0.4:80",
    "10.0.0.5:80",
    "10.0.0.6:80",
];
/// How long an operator accepts what Consul says.
const ACCEPTED: Duration = Duration::from_secs(60);
/// `guard.window` where nobody says otherwise.
const WINDOW: Duration = Duration::from_secs(60);
/// How many are tried where it has to be quick.
const QUICK: u32 = 64;
/// How many make the bar.
const MANY: u32 = 100_000;

#[derive(Clone, Debug)]
enum Step {
    /// Who is named, and what is said of each: two bits a server.
    Answer(u8, u16),
    /// The leader's word, asked for or not.
    Reread(u8, Finding),
    /// Who of another service is named.
    Other(u8),
    /// An operator's word that what is gone is gone, for a minute.
    Accept,
    Probe(usize, bool),
    Eject(usize, bool),
    Tried(usize, bool),
    /// Documents of routes: which are there, and which of them are wrong.
    Routes(u8, u8),
    /// Documents of services, and of domains that are theirs: the same.
    Services(u8, u8),
    Domains(u8, u8),
    /// The mark of a change of several transactions.
    Apply(bool),
    /// Who is drained for the whole pod; None: nobody.
    PodDrain(Option<Option<usize>>),
    /// What is accepted of the other service for the whole pod.
    PodAccept(bool),
    /// Of the tuning: whether it is there, and well.
    Tuning(Option<bool>),
    /// What is tried: whether here, of which routes, and whether with another tuning; None: nothing is.
    Canary(Option<(bool, u8, bool)>),
    /// Its id: none, the first one, or another.
    Pod(u8),
    /// An operator's word that the documents are those that are there, for a minute.
    AcceptDocuments,
    Drain(Option<usize>, Option<u64>),
    Undrain(Option<usize>),
    Failing(bool),
    Reload(bool),
    Wait(u64),
    /// The journal begins a segment.
    Segment,
}

fn step() -> impl Strategy<Value = Step> {
    let server = 0usize..6;
    let whom = proptest::option::of(0usize..6);
    let finding = prop_oneof![
        3 => Just(Finding::AsItIs),
        1 => Just(Finding::WentBack),
        1 => Just(Finding::Hidden)
    ];
    prop_oneof![
        6 => (0u8..64, any::<u16>()).prop_map(|(mask, words)| Step::Answer(mask, words & (words >> 1))),
        1 => Just(Step::Answer(0, 0)),
        1 => (0u8..64, finding).prop_map(|(mask, finding)| Step::Reread(mask, finding)),
        2 => (0u8..16).prop_map(Step::Other),
        1 => Just(Step::Accept),
        6 => (server.clone(), any::<bool>()).prop_map(|(server, well)| Step::Probe(server, well)),
        2 => (server.clone(), any::<bool>()).prop_map(|(server, refused)| Step::Eject(server, refused)),
        2 => (server, any::<bool>()).prop_map(|(server, well)| Step::Tried(server, well)),
        2 => (0u8..8, 0u8..8).prop_map(|(there, wrong)| Step::Routes(there, wrong)),
        1 => (0u8..8, 0u8..8).prop_map(|(there, wrong)| Step::Services(there, wrong)),
        1 => (0u8..8, 0u8..8).prop_map(|(there, wrong)| Step::Domains(there, wrong)),
        1 => any::<bool>().prop_map(Step::Apply),
        1 => proptest::option::of(whom.clone()).prop_map(Step::PodDrain),
        1 => any::<bool>().prop_map(Step::PodAccept),
        1 => proptest::option::of(any::<bool>()).prop_map(Step::Tuning),
        2 => proptest::option::of((any::<bool>(), 0u8..8, any::<bool>())).prop_map(Step::Canary),
        1 => (0u8..3).prop_map(Step::Pod),
        1 => Just(Step::AcceptDocuments),
        1 => (whom.clone(), proptest::option::of(1u64..90)).prop_map(|(whom, span)| Step::Drain(whom, span)),
        1 => whom.prop_map(Step::Undrain),
        1 => any::<bool>().prop_map(Step::Failing),
        1 => any::<bool>().prop_map(Step::Reload),
        3 => prop_oneof![0u64..30, 0u64..700].prop_map(Step::Wait),
        1 => Just(Step::Segment),
    ]
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..40)
}

/// A live world with a journal that goes nowhere but here.
struct Life {
    world: World,
    journal: Journal,
    entries: Receiver<Entry>,
    text: Vec<String>,
    generation: u64,
}

const FILE: &str = "[consul]\naddress = \"http://127.0.0.1:8500\"\nprefix = \"rota/p\"\n[[service]]\nname = \"blog\"\nconsul = { service = \"blog\" }\n[[service]]\nname = \"app\"\nconsul = { service = \"app\" }\n[[route]]\nhost = \"blog.test\"\nservice = \"blog\"\n[[route]]\nhost = \"*\"\nservice = \"app\"\n";
const PROBED: &str = "[service.health.active]\npath = \"/\"\nfall = 2\nrise = 3\n";

fn text(is_probed: bool) -> String {
    match is_probed {
        true => FILE.replacen("[[route]]", &format!("{PROBED}[[route]]"), 1),
        false => FILE.to_owned(),
    }
}

/// Documents below `canary/`: some routes as they would be, the others gone.
fn canary((is_here, there, is_tuned): (bool, u8, bool)) -> Vec<(String, String)> {
    let node = if is_here { "lb-1" } else { "lb-2" };
    let head = crate::routing::canary::Canary {
        nodes: vec![node.to_owned()],
        ..Default::default()
    };
    let route = |bit: u8| match there & (1 << bit) {
        0 => (format!("gone/routes/r{bit}"), String::new()),
        _ => (
            format!("config/routes/r{bit}"),
            format!("host = \"c{bit}.test\"\nservice = \"app\""),
        ),
    };
    let tuning = (
        "config/tuning".to_owned(),
        "timeouts = { response = \"9s\" }".to_owned(),
    );
    let head = ("head".to_owned(), serde_json::to_string(&head).unwrap());
    let tuning = is_tuned.then_some(tuning);
    (0..3).map(route).chain(tuning).chain([head]).collect()
}

impl Life {
    fn begin() -> Life {
        let world = World::of(&text(false));
        let file = world.model.file().clone();
        let vitals = Arc::new(Vitals::new(1));
        let (journal, entries) = Journal::open((&world.terms, &file), world.now, vitals);
        let mut life = Life {
            world,
            journal,
            entries,
            text: Vec::new(),
            generation: 0,
        };
        life.publish();
        life
    }

    fn apply(&mut self, event: Event) {
        let now = self.world.now;
        self.journal.note(&self.world.model, &event, now);
        self.world.apply(event);
    }

    /// As the control task does it after each burst of events.
    fn publish(&mut self) {
        self.generation += 1;
        drop(self.world.build());
        let world = &mut self.world;
        self.journal
            .published(&world.model, self.generation, world.now);
        world.model.forget_unwanted();
        for entry in self.entries.try_iter() {
            match entry {
                Entry::Record(record) => {
                    let segment = self.text.last_mut().unwrap();
                    segment.push_str(&line_of(&record));
                }
                Entry::Segment(records) => {
                    let lines = records.iter().map(|record| line_of(record));
                    self.text.push(first_line() + &lines.collect::<String>());
                }
            }
        }
    }

    fn observe(&mut self, observation: Observation) {
        self.apply(Event::Consul(observation));
    }

    fn documents(&mut self, subtree: Subtree, documents: Vec<(String, String)>) {
        let documents = documents.into_iter().map(|(name, text)| Document {
            name,
            value: text.into_bytes().into(),
            create_index: 1,
            modify_index: 1,
            is_locked: false,
        });
        let documents = documents.collect();
        self.observe(Observation::Documents { subtree, documents });
    }

    fn live(&mut self, step: &Step) {
        // No two events are of one moment.
        self.world.now += Duration::from_millis(1);
        match step.clone() {
            Step::Answer(mask, words) => self.observe(Observation::Instances {
                watch: watch(),
                instances: named(mask, words),
            }),
            Step::Reread(mask, finding) => self.observe(Observation::Reread {
                watch: watch(),
                instances: named(mask, 0),
                finding,
            }),
            Step::Other(mask) => self.observe(Observation::Instances {
                watch: ConsulService {
                    service: "blog".into(),
                    ..watch()
                },
                instances: (1..=4u8)
                    .filter(|bit| mask & (1 << (bit - 1)) != 0)
                    .map(|bit| instance(&format!("10.0.1.{bit}:80"), CheckStatus::Passing))
                    .collect(),
            }),
            Step::Accept => self.apply(Event::Ordered(Order::Accept {
                matter: Matter::Service("app".into()),
                reach: Reach::Here,
                by: "alice".into(),
                lasting: ACCEPTED,
            })),
            Step::Probe(server, well) => self.apply(Event::Probed {
                key: key(ADDRESSES[server]),
                result: result(well),
            }),
            Step::Eject(server, refused) => self.eject(server, refused),
            Step::Tried(server, well) => self.apply(Event::Tried {
                key: key(ADDRESSES[server]),
                result: result(well),
            }),
            Step::Routes(there, wrong) => {
                let route = |bit| match bit {
                    0 => "host = \"h0.test\"\nservice = \"s0\"".to_owned(),
                    _ => format!("host = \"h{bit}.test\"\nservice = \"app\""),
                };
                let documents = three((there, wrong), |bit| (format!("r{bit}"), route(bit)));
                self.documents(Subtree::Routes, documents);
            }
            Step::Services(there, wrong) => {
                let service = |bit| format!("servers = [\"10.0.2.{}:80\"]", bit + 1);
                let documents = three((there, wrong), |bit| (format!("s{bit}"), service(bit)));
                self.documents(Subtree::Services, documents);
            }
            Step::Domains(there, wrong) => {
                let domain = |bit| (format!("d{bit}.test"), format!("service = \"s{bit}\""));
                self.documents(Subtree::Domains, three((there, wrong), domain));
            }
            Step::Apply(there) => {
                let mark = there.then(|| (String::new(), "lb-2".to_owned()));
                self.documents(Subtree::Apply, mark.into_iter().collect());
            }
            Step::PodDrain(whom) => {
                let name = whom.map(|server| match server {
                    Some(server) => format!("app/{}", ADDRESSES[server]),
                    None => "app".to_owned(),
                });
                let drain = name.map(|name| (name, "{\"by\": \"ops\", \"at\": 1}".to_owned()));
                self.documents(Subtree::OperatorDrain, drain.into_iter().collect());
            }
            Step::PodAccept(there) => {
                let until = "{\"by\": \"ops\", \"at\": 1, \"until\": 4000000000}";
                let accept = there.then(|| ("blog".to_owned(), until.to_owned()));
                self.documents(Subtree::OperatorAccept, accept.into_iter().collect());
            }
            Step::Tuning(well) => {
                let text = |well| {
                    if well {
                        "guard = { max_loss = 0.9 }"
                    } else {
                        "guard = 1"
                    }
                };
                let one = well.map(|well| (String::new(), text(well).to_owned()));
                self.documents(Subtree::Tuning, one.into_iter().collect());
            }
            Step::Canary(tried) => {
                let documents = tried.map(canary);
                self.documents(Subtree::Canary, documents.unwrap_or_default());
            }
            Step::Pod(which) => {
                let id = (which > 0).then(|| (String::new(), format!("id-{which}")));
                self.documents(Subtree::Pod, id.into_iter().collect());
            }
            Step::AcceptDocuments => self.apply(Event::Ordered(Order::Accept {
                matter: Matter::Documents,
                reach: Reach::Here,
                by: "alice".into(),
                lasting: ACCEPTED,
            })),
            Step::Drain(whom, span) => self.apply(Event::Ordered(Order::Drain {
                target: target(whom),
                reach: Reach::Here,
                by: "alice".into(),
                lasting: span.map(Duration::from_secs),
            })),
            Step::Undrain(whom) => self.apply(Event::Ordered(Order::Undrain {
                target: target(whom),
                reach: Reach::Here,
                by: "alice".into(),
            })),
            Step::Failing(true) => self.observe(Observation::Failing {
                watch: "app".into(),
                error: "503".into(),
                blame: Blame::default(),
            }),
            Step::Failing(false) => self.observe(Observation::Recovered {
                watch: "app".into(),
            }),
            Step::Reload(is_probed) => {
                let file = crate::control::tests::file(&text(is_probed));
                self.apply(Event::File(file));
            }
            Step::Wait(seconds) => self.wait(Duration::from_secs(seconds)),
            Step::Segment => self.journal.is_wanted.store(true, Relaxed),
        }
        self.publish();
    }

    fn eject(&mut self, server: usize, refused: bool) {
        let unfit = if refused {
            Unfit::Refused
        } else {
            Unfit::Failing
        };
        let key = key(ADDRESSES[server]);
        if let Some(upstream) = self.world.assembly.upstream(&key) {
            let _ = upstream.set(unfit);
        }
        self.apply(Event::Ejected {
            key,
            unfit,
            fault: PassiveFault::Refused,
            failures: 1,
        });
    }

    fn wait(&mut self, span: Duration) {
        let end = self.world.now + span;
        while let Some(next) = self.world.model.next_tick().filter(|next| *next <= end) {
            self.world.now = next.max(self.world.now);
            self.apply(Event::Tick);
        }
        self.world.now = end;
        self.apply(Event::Tick);
    }

    fn standings(&mut self) -> Vec<(String, Arc<Standing>)> {
        self.standings_of("app")
    }

    fn standings_of(&mut self, service: &str) -> Vec<(String, Arc<Standing>)> {
        let service = self.world.service(service);
        let members = service.members.iter();
        members
            .map(|member| (member.upstream.label().to_string(), member.standing.clone()))
            .collect()
    }

    /// What the last segments of the journal lead to.
    fn replayed(&self, segments: &[String]) -> Replayed {
        let mut stage = Stage::default();
        for text in segments {
            let segment = parse(text).unwrap();
            assert_eq!(segment.damage, None);
            for record in segment.records {
                stage.take(record).unwrap();
            }
        }
        stage.end(Some(self.world.now)).unwrap()
    }
}

/// Up to three documents: which are there, and which of them nobody can read.
fn three(
    (there, wrong): (u8, u8),
    document: impl Fn(u8) -> (String, String),
) -> Vec<(String, String)> {
    let named = (0..3u8).filter(|bit| there & (1 << bit) != 0);
    let text = |bit: u8| match (wrong & (1 << bit), document(bit)) {
        (0, well) => well,
        (_, (name, _)) => (name, "hots = 1".to_owned()),
    };
    named.map(text).collect()
}

fn named(mask: u8, words: u16) -> Vec<Instance> {
    let named = (0..6).filter(|bit| mask & (1 << bit) != 0);
    let status = |bit: usize| match (words >> (2 * bit)) & 3 {
        0 => CheckStatus::Passing,
        1 => CheckStatus::Warning,
        2 => CheckStatus::Critical,
        _ => CheckStatus::Maintenance,
    };
    named
        .map(|bit| instance(ADDRESSES[bit], status(bit)))
        .collect()
}

fn result(well: bool) -> Result<(), String> {
    well.then_some(()).ok_or_else(|| "refused".to_owned())
}

fn target(whom: Option<usize>) -> Target {
    match whom {
        Some(server) => Target::Server("app".into(), ADDRESSES[server].to_owned()),
        None => Target::Service("app".into()),
    }
}

/// Why a server may go without being missed.
fn has_reason_to_leave(standing: &Standing) -> bool {
    standing.consul.reason == "maintenance"
        || standing.operator.verdict == Verdict::Unfit
        || standing.probe.verdict == Verdict::Unfit
}

/// Lines of all that is said of servers, mistakes and routes.
fn told(snapshot: &Snapshot) -> Vec<String> {
    let members = snapshot.services.values().flat_map(|it| it.members.iter());
    let members = members.map(|member| {
        let (upstream, standing) = (&member.upstream, &member.standing);
        format!(
            "{} {} {} {standing:?}",
            upstream.label(),
            member.weight,
            upstream.is_fit()
        )
    });
    let mistakes = snapshot
        .mistakes
        .iter()
        .map(|mistake| format!("{mistake:?}"));
    let mut routes: Vec<String> = snapshot
        .routes
        .routes()
        .map(|it| it.host.to_string())
        .collect();
    routes.sort();
    members.chain(mistakes).chain(routes).collect()
}

/// What the guard has promised of one window: how many Consul's answers may take of the most that they named in it.
#[derive(Default)]
struct Toll {
    /// How many each answer named, and when.
    named: Vec<(SystemTime, u32)>,
    /// Who is missed, since when.
    missed: BTreeMap<String, SystemTime>,
}

impl Toll {
    /// Gives how many are missed, and the most that were named.
    fn take(
        &mut self,
        (now, mask): (SystemTime, u8),
        missed: &[&str],
        is_there: impl Fn(&str) -> bool,
    ) -> (usize, u32) {
        self.named.push((now, mask.count_ones()));
        for label in missed {
            self.missed.insert((*label).to_owned(), now);
        }
        let is_past = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age >= WINDOW);
        self.missed
            .retain(|label, at| !is_there(label) && !is_past(*at));
        // The one before the window's first was in force when it began.
        while self.named.len() > 1 && is_past(self.named[1].0) {
            self.named.remove(0);
        }
        let most = self.named.iter().map(|(_, count)| *count).max();
        (self.missed.len(), most.unwrap_or_default())
    }
}

/// Lives through a history, and holds it to what is promised at each step and at its end.
fn holds(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut life = Life::begin();
    let mut most_loss = 0.5;
    let mut accepted = life.world.now;
    let mut toll = Toll::default();
    for step in steps {
        let before = life.standings();
        let others = life.standings_of("blog");
        life.live(step);
        match step {
            Step::Tuning(Some(true)) => most_loss = 0.9,
            Step::Accept => accepted = life.world.now + ACCEPTED,
            _ => {}
        }
        let after = life.standings();
        let is_there = |label: &str| after.iter().any(|(other, _)| other == label);
        let left = before.iter().filter(|(label, _)| !is_there(label));
        let missed: Vec<&str> = left
            .filter(|(_, standing)| !has_reason_to_leave(standing))
            .map(|(label, _)| &**label)
            .collect();
        let is_accepted = life.world.now <= accepted;
        if let Step::Answer(mask, _) | Step::Reread(mask, Finding::AsItIs | Finding::WentBack) =
            step
        {
            let (lost, most) = toll.take((life.world.now, *mask), &missed, is_there);
            prop_assert!(
                is_accepted || lost as f64 <= f64::from(most) * most_loss,
                "answers of one window take {lost} of {most}"
            );
        }
        if is_accepted {
            toll.missed.clear();
        }
        if !matches!(step, Step::Other(_) | Step::PodAccept(_) | Step::Wait(_)) {
            let left = life.standings_of("blog").len();
            prop_assert!(
                left >= others.len(),
                "{step:?} takes servers of another service"
            );
        }
        match step {
            Step::Accept => {}
            Step::Answer(..) | Step::Reread(..) if is_accepted => {}
            Step::Answer(0, _) | Step::Reread(0, _) => {
                prop_assert_eq!(missed.len(), 0, "an empty answer takes nobody");
            }
            Step::Reread(_, Finding::Hidden) => {
                prop_assert!(missed.is_empty(), "what may not be read takes {missed:?}");
            }
            Step::Answer(..) | Step::Reread(..) => {}
            // A doubt has a deadline, but the last one stays.
            Step::Wait(_) => prop_assert!(missed.is_empty() || !after.is_empty()),
            Step::Probe(server, false) => {
                prop_assert!(missed.iter().all(|label| *label == ADDRESSES[*server]));
            }
            _ => prop_assert!(missed.is_empty(), "{step:?} takes {missed:?}"),
        }
        let is_probed = matches!(step, Step::Probe(..));
        let empties = after.is_empty() && !missed.is_empty();
        prop_assert!(
            !empties || is_probed || is_accepted,
            "{step:?} empties the table"
        );
    }
    ends_the_same(&mut life)
}

/// All that the journal has leads to the same end, to the moment.
fn ends_the_same(life: &mut Life) -> Result<(), TestCaseError> {
    let live = life.world.build();
    let replayed = life.replayed(&life.text);
    prop_assert_eq!(told(&replayed.snapshot), told(&live));
    prop_assert_eq!(&replayed.notes, &Vec::<String>::new());
    prop_assert_eq!(replayed.tables, life.generation);
    // What is left once the oldest segments went can be told of too; how near it comes is not held to each history.
    for first in 1..life.text.len() {
        let rest = life.replayed(&life.text[first..]);
        prop_assert_eq!(rest.snapshot.generation, life.generation);
    }
    Ok(())
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Cases {
        cases,
        ..Cases::default()
    })
}

#[test]
fn no_history_loses_who_is_well_nor_its_replay() {
    let run = runner(QUICK).run(&history(), |steps| holds(&steps));
    run.unwrap_or_else(|error| panic!("{error}"));
}

/// The bar: `cargo test --release --lib histories -- --ignored --nocapture`. `HISTORIES` makes it other than 100,000.
#[test]
#[ignore = "a figure: minutes"]
fn one_hundred_thousand_histories_lose_nobody_who_is_well() {
    let start = Instant::now();
    let asked = std::env::var("HISTORIES").ok();
    let many = asked.map_or(MANY, |text| text.parse().unwrap());
    let run = runner(many).run(&history(), |steps| holds(&steps));
    run.unwrap_or_else(|error| panic!("{error}"));
    println!("figure: {many} histories in {:?}", start.elapsed());
}

#[test]
fn a_mark_that_stays_is_dated_the_same_in_a_replay() {
    let steps = [Step::Apply(true), Step::Wait(15), Step::Failing(true)];
    holds(&steps).unwrap();
}

#[test]
fn an_alarm_that_begins_as_the_window_passes_is_dated_the_same_in_a_replay() {
    let steps = [
        Step::Answer(29, 39),
        Step::Other(3),
        Step::Answer(2, 0),
        Step::Other(4),
        Step::Answer(22, 0),
        Step::Wait(60),
        Step::Answer(0, 0),
        Step::Answer(0, 0),
    ];
    holds(&steps).unwrap();
}

#[test]
fn an_alarm_ends_with_the_tuning_that_ends_it() {
    let steps = [
        Step::Other(1),
        Step::Answer(28, 0),
        Step::Other(2),
        Step::Answer(4, 0),
        Step::Tuning(Some(true)),
    ];
    holds(&steps).unwrap();
}

#[test]
fn drains_are_dated_by_the_first_of_an_unbroken_row_whatever_segments_are_left() {
    let mut life = Life::begin();
    let steps = [
        Step::Answer(3, 0),
        Step::Drain(None, Some(600)),
        Step::Wait(10),
        Step::Drain(None, Some(600)),
        Step::Drain(Some(0), None),
        Step::Segment,
        Step::Wait(5),
    ];
    steps.iter().for_each(|step| life.live(step));
    let live = life.standings();
    let last = life.text.len() - 1;
    assert!(last > 0);
    let rest = life.replayed(&life.text[last..]).snapshot;
    let members = rest.services["app"].members.iter();
    let operators: Vec<_> = members.map(|it| it.standing.operator.clone()).collect();
    let expected: Vec<_> = live.iter().map(|(_, it)| it.operator.clone()).collect();
    assert_eq!(operators, expected);
}

#[test]
fn what_is_left_of_a_journal_doubts_another_id_of_the_pod_as_long_as_it_is_doubted() {
    let mut life = Life::begin();
    let begun = [
        Step::Pod(1),
        Step::Routes(1, 0),
        Step::Wait(2_000),
        Step::Pod(0),
        Step::Routes(2, 0),
        Step::Pod(2),
        Step::Wait(2_000),
        Step::Segment,
        Step::Wait(5),
    ];
    begun.iter().for_each(|step| life.live(step));
    is_told_by_the_last(&mut life);
    assert!(!life.world.mistakes().is_empty());
    let accepted = [Step::AcceptDocuments, Step::Wait(2_000), Step::Segment];
    accepted.iter().for_each(|step| life.live(step));
    life.live(&Step::Wait(5));
    is_told_by_the_last(&mut life);
    assert!(life.world.mistakes().is_empty());
}

/// The newest segment alone leads to the mistakes and routes that there are.
fn is_told_by_the_last(life: &mut Life) {
    let last = life.text.len() - 1;
    assert!(last > 0);
    let rest = life.replayed(&life.text[last..]).snapshot;
    let live = life.world.build();
    let routes = |of: &Snapshot| {
        let routes = of.routes.routes().map(|route| route.host.to_string());
        routes.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(routes(&rest), routes(&live));
    let entries = |of: &Snapshot| {
        let mistakes = of.mistakes.iter();
        mistakes.map(|one| one.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(entries(&rest), entries(&live));
}
