//! Journals on a real disk, and what a replay makes of them.

use std::time::Duration;
use std::time::Instant;

use super::reader::{line_of, parse, read, segments};
use super::replay::{Replayed, replay};
use super::*;
use crate::control::consul::{CheckStatus, Document, Observation, Subtree};
use crate::control::tests::{World, instance, passing, watch};
use crate::routing::{PassiveFault, Unfit};

const TWO: [&str; 2] = ["10.0.0.1:80", "10.0.0.2:80"];

fn folder(name: &str) -> std::path::PathBuf {
    let unique = format!(
        "rota-journal-{name}-{}-{}",
        std::process::id(),
        fastrand::u32(..)
    );
    std::env::temp_dir().join(unique)
}

/// A world whose events go into a journal, as the control task's do.
struct Written {
    world: World,
    journal: Journal,
    vitals: Arc<Vitals>,
    state_dir: std::path::PathBuf,
    generation: u64,
}

impl Written {
    fn begin(name: &str, size: u64) -> Written {
        let state_dir = folder(name);
        let world = World::with_consul("");
        let vitals = Arc::new(Vitals::new(1));
        let (terms, file) = (world.terms.clone(), world.model.file().clone());
        let started = Journal::start(&state_dir, size, (&terms, &file), world.now, vitals.clone());
        let mut written = Written {
            journal: started.unwrap(),
            world,
            vitals,
            state_dir,
            generation: 0,
        };
        written.publish();
        written
    }

    fn apply(&mut self, event: Event) {
        self.world.now += Duration::from_millis(10);
        self.journal.note(&self.world.model, &event, self.world.now);
        self.world.apply(event);
        self.publish();
    }

    fn publish(&mut self) {
        self.generation += 1;
        drop(self.world.build());
        let world = &mut self.world;
        self.journal
            .published(&world.model, self.generation, world.now);
        world.model.forget_unwanted();
    }

    fn answer(&mut self, addresses: &[&str]) {
        self.apply(Event::Consul(Observation::Instances {
            watch: watch(),
            instances: passing(addresses),
        }));
    }

    fn folder(&self) -> std::path::PathBuf {
        self.state_dir.join("journal")
    }

    /// Waits until the journal tells of the newest table, and replays it.
    fn replayed(&self) -> Replayed {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match replay(&self.folder(), None) {
                Ok(replayed) if replayed.snapshot.generation == self.generation => return replayed,
                other => {
                    let found = other.map(|replayed| replayed.snapshot.generation);
                    assert!(Instant::now() < end, "{found:?} of {}", self.generation);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.state_dir);
    }
}

/// Servers with all that is said of them.
fn told(snapshot: &crate::routing::Snapshot) -> Vec<String> {
    let members = snapshot.services.values().flat_map(|it| it.members.iter());
    members
        .map(|member| {
            format!(
                "{} {} {:?}",
                member.upstream.label(),
                member.weight,
                member.standing
            )
        })
        .collect()
}

#[test]
fn a_replay_comes_to_the_same_table_with_the_same_reasons() {
    let mut written = Written::begin("same", 1 << 20);
    written.answer(&TWO);
    written.apply(Event::Ejected {
        key: crate::control::tests::key(TWO[0]),
        unfit: Unfit::Refused,
        fault: PassiveFault::Refused,
        failures: 3,
    });
    written.apply(Event::Consul(Observation::Documents {
        subtree: Subtree::Routes,
        documents: [Document {
            name: "shop".into(),
            value: (*b"host = \"shop.test\"\nservice = \"app\"").into(),
            create_index: 1,
            modify_index: 1,
            is_locked: false,
        }]
        .into(),
    }));
    written.apply(Event::Consul(Observation::Instances {
        watch: watch(),
        instances: vec![instance(TWO[1], CheckStatus::Critical)],
    }));
    let replayed = written.replayed();
    assert_eq!(replayed.notes, Vec::<String>::new());
    assert_eq!(replayed.tables, written.generation);
    assert_eq!(told(&replayed.snapshot), told(&written.world.build()));
    assert_eq!(replayed.snapshot.routes.routes().count(), 2);
}

#[test]
fn a_replay_goes_to_a_moment_and_no_further() {
    let mut written = Written::begin("moment", 1 << 20);
    written.answer(&TWO[..1]);
    let then = written.world.now;
    written.answer(&TWO);
    written.replayed();
    let at = |moment| replay(&written.folder(), Some(moment));
    assert_eq!(told(&at(then).unwrap().snapshot).len(), 1);
    let before = at(then - Duration::from_secs(60)).map(|_| ());
    assert!(before.unwrap_err().contains("nothing before that moment"));
}

#[test]
fn what_is_left_after_the_oldest_segments_went_still_gives_the_table() {
    let mut written = Written::begin("rotated", 128 << 10);
    for turn in 0..400 {
        written.answer(&TWO[..1 + turn % 2]);
        if turn % 20 == 0 {
            // As slow as life: the writer keeps up.
            drop(written.replayed());
        }
    }
    let replayed = written.replayed();
    let files = segments(&written.folder()).unwrap();
    assert!((2..=4).contains(&files.len()), "{files:?}");
    let first = &read(&files[0]).unwrap().records[0];
    let What::Begin(begin) = &first.what else {
        panic!("{first:?}");
    };
    assert!(begin.segment > 0, "the first one went");
    assert_eq!(replayed.notes, Vec::<String>::new());
    let labels = |snapshot| -> Vec<String> {
        let servers = told(snapshot).into_iter();
        servers.map(|it| it.split(' ').take(2).collect()).collect()
    };
    assert_eq!(labels(&replayed.snapshot), labels(&written.world.build()));
    let size: u64 = files.iter().map(|it| it.metadata().unwrap().len()).sum();
    assert!(size <= 160 << 10, "{size}");
}

#[test]
fn good_probes_that_say_nothing_new_are_not_written() {
    let mut written = Written::begin("probes", 1 << 20);
    written.apply(Event::File(crate::control::tests::file(
        "[consul]\naddress = \"http://127.0.0.1:8500\"\nprefix = \"rota/p\"\n[[service]]\nname = \"app\"\nconsul = { service = \"app\" }\n[service.health.active]\npath = \"/\"\n[[route]]\nhost = \"*\"\nservice = \"app\"\n",
    )));
    written.answer(&TWO);
    for _ in 0..1000 {
        written.apply(Event::Probed {
            key: crate::control::tests::key(TWO[0]),
            result: Ok(()),
        });
    }
    let replayed = written.replayed();
    assert!(replayed.events < 20, "{}", replayed.events);
    assert_eq!(told(&replayed.snapshot), told(&written.world.build()));
}

#[test]
fn a_line_that_a_crash_cut_short_costs_that_line_alone() {
    let mut written = Written::begin("torn", 1 << 20);
    written.answer(&TWO);
    written.replayed();
    let path = &segments(&written.folder()).unwrap()[0];
    let text = std::fs::read_to_string(path).unwrap();
    let whole = parse(&text).unwrap();
    assert!(whole.damage.is_none());
    let torn = parse(&text[..text.len() - 3]).unwrap();
    assert_eq!(torn.records.len(), whole.records.len() - 1);
    assert!(torn.damage.unwrap().contains("cut short"));
    let changed = parse(&text.replacen("10.0.0.2", "10.0.0.3", 1)).unwrap();
    assert!(changed.damage.unwrap().contains("checksum"));
    assert!(
        parse("rota-journal 2\n")
            .unwrap_err()
            .contains("another version")
    );
}

#[test]
fn a_disk_that_refuses_costs_the_journal_alone_and_is_asked_again() {
    let mut written = Written::begin("refused", 1 << 20);
    written.replayed();
    // A file stands where the folder was: nothing can be made in it.
    std::fs::remove_dir_all(written.folder()).unwrap();
    std::fs::write(written.folder(), b"").unwrap();
    written.journal.is_wanted.store(true, Relaxed);
    written.answer(&TWO);
    let end = Instant::now() + Duration::from_secs(30);
    while written.vitals.journal_lost.load(Relaxed) == 0 {
        assert!(Instant::now() < end);
        written.answer(&TWO[..1]);
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_file(written.folder()).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !written.journal.is_wanted.load(Relaxed) {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    written.answer(&TWO);
    let replayed = written.replayed();
    assert!(
        replayed.notes[0].contains("were lost"),
        "{:?}",
        replayed.notes
    );
    assert_eq!(told(&replayed.snapshot).len(), 2);
}

#[test]
fn no_secret_is_in_a_line() {
    let text = "[consul]\ntoken = \"s3cret-token\"\n[[service]]\nname = \"app\"\nconsul = { service = \"app\" }\n[service.health.active]\npath = \"/\"\nheaders = { Authorization = \"s3cret-header\" }\n";
    let document = Document {
        name: "shop".into(),
        value: (*b"servers = [\"10.0.0.1:80\"]\nhealth.active.headers.Cookie = \"s3cret-cookie\"")
            .into(),
        create_index: 1,
        modify_index: 1,
        is_locked: false,
    };
    let events = [
        Event::File(crate::control::tests::file(text)),
        Event::Consul(Observation::Documents {
            subtree: Subtree::Services,
            documents: [document].into(),
        }),
    ];
    for event in events {
        let what = What::Event(event);
        let at = SystemTime::UNIX_EPOCH;
        let line = line_of(&Record { at, what });
        assert!(!line.contains("s3cret"), "{line}");
        let again = parse(&format!("{}{line}", reader::first_line())).unwrap();
        assert_eq!(again.damage, None);
    }
}
