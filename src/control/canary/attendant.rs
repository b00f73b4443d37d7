//! Counts while a canary is under way, says what it counted, and judges if it is this load balancer that holds the lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::counts::{Report, Ring, SAMPLE_EACH, Totals, Unrouted, Window};
use super::judge::{Verdict, judge};
use super::register::{Promotion, Register, Running};
use super::standing::{CHANGED, Standing, WHOLE};
use super::trials::told;
use crate::control::staged::Heard;
use crate::control::store::Lease;
use crate::drain::{Gate, Phase};
use crate::routing::Snapshot;
use crate::routing::canary::{Canary, Outcome};
use crate::routing::staged::StagingError;
use crate::routing::swap::Reader;
use crate::telemetry::Vitals;

/// Looks in the time of a canary, but no more often than each half second and no more rarely than each five.
const LOOKS: u32 = 60;
const LOOK_EACH: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];
/// Between two tries for the lock, on average.
const LOCK_EACH: Duration = Duration::from_secs(2);
/// A load balancer that says nothing new in as many looks as this takes, and some more, is not heard of any more. Looks are counted,
/// not time: while Consul is away nobody is heard.
const SILENCE: Duration = Duration::from_secs(10);
const MORE_LOOKS: u32 = 3;

/// What the task is made of.
pub struct Attendant {
    pub register: Register,
    /// This load balancer's name.
    pub node: String,
    pub table: Reader<Snapshot>,
    pub vitals: Arc<Vitals>,
    pub gate: Gate,
    pub canaries: watch::Receiver<Option<Arc<Canary>>>,
    /// Moves on with each answer about documents.
    pub heard: watch::Receiver<Heard>,
}

impl Attendant {
    /// Ends when nobody can tell of canaries any more.
    pub async fn run(mut self) {
        let mut ring = Ring::default();
        let process = format!("{:016x}", fastrand::u64(..));
        loop {
            ring.note(Instant::now(), &self.totals().await);
            let canary = self.canaries.borrow_and_update().clone();
            if let Some(canary) = canary {
                self.attend(&canary, &process, &mut ring).await;
            } else {
                tokio::select! {
                    _ = self.canaries.changed() => {}
                    () = sleep(SAMPLE_EACH) => {}
                }
            }
            if self.canaries.has_changed().is_err() {
                return;
            }
        }
    }

    /// Large tables take milliseconds: no watch and no probe waits for them.
    async fn totals(&self) -> Arc<Totals> {
        let (table, vitals) = (self.table.full(), self.vitals.clone());
        let counting = spawn_blocking(move || Arc::new(Totals::of(&table, &vitals)));
        counting
            .await
            .expect("it adds numbers and does nothing else")
    }

    /// Until it is over.
    async fn attend(&mut self, canary: &Arc<Canary>, process: &str, ring: &mut Ring) {
        let heard = Instant::now();
        let begun = self.totals().await;
        let past = ring.at(Instant::now(), canary.lasting()).cloned();
        let unrouted = Unrouted::of(canary);
        let before = past.map_or_else(Window::default, |past| begun.since(&past, unrouted));
        let each = (canary.lasting() / LOOKS).clamp(LOOK_EACH[0], LOOK_EACH[1]);
        let mut bench = Bench::new(each);
        let is_second = self.is_second(canary, process, each).await;
        let mut has_announced = false;
        // The table may come after the word.
        let (mut has_tried, mut is_taken_off) = (false, false);
        let mut beat = 0;
        while self.is_under_way(canary) {
            let totals = self.totals().await;
            ring.note(Instant::now(), &totals);
            beat += 1;
            let is_trying = self.table.full().is_trying;
            has_tried |= is_trying;
            is_taken_off |= has_tried && !is_trying;
            let report = Report {
                process: process.to_owned(),
                is_second,
                is_leaving: self.is_leaving(),
                is_taken_off,
                heard_ms: heard.elapsed().as_millis() as u64,
                ..Report::of(canary, beat, &before, &totals.since(&begun, unrouted))
            };
            let looked = match self.register.report(&self.node, &report).await {
                Ok(()) => {
                    bench
                        .look(&self.register, canary, heard.elapsed(), &mut self.heard)
                        .await
                }
                Err(error) => Err(error),
            };
            bench.tell(looked.err());
            tokio::select! {
                _ = self.canaries.wait_for(|now| !is_same(now, canary)) => {}
                () = self.gate.reached(Phase::Announced), if !has_announced => has_announced = true,
                () = sleep(each) => {}
            }
        }
        bench.clear(&self.register, &self.node).await;
    }

    /// Whether another process of this name has reported of it; nothing is reported until that is known.
    async fn is_second(&self, canary: &Canary, process: &str, each: Duration) -> bool {
        while self.is_under_way(canary) {
            match self.register.reports(&canary.id).await {
                Ok(reports) => {
                    let before = reports.get(&self.node);
                    return before.is_some_and(|one| one.is_second || one.process != process);
                }
                Err(error) => tracing::debug!(%error, "reports of the canary cannot be read yet"),
            }
            sleep(each).await;
        }
        false
    }

    fn is_leaving(&self) -> bool {
        self.gate.phase() != Phase::Serving || self.table.full().node_drained
    }

    fn is_under_way(&self, canary: &Canary) -> bool {
        self.canaries.has_changed().is_ok() && is_same(&self.canaries.borrow(), canary)
    }
}

fn is_same(now: &Option<Arc<Canary>>, canary: &Canary) -> bool {
    now.as_ref().is_some_and(|now| now.id == canary.id)
}

/// What is known of a canary by who judges it.
struct Bench {
    lease: Option<Lease>,
    /// When the lock is tried for again.
    again: tokio::time::Instant,
    /// The last words of each load balancer, and in how many looks they were nothing new.
    seen: BTreeMap<String, (u64, u32)>,
    patience: u32,
    /// Whether documents were looked at since they were last heard of.
    is_checked: bool,
    /// What was last told as wrong.
    told: Option<String>,
}

impl Bench {
    fn new(each: Duration) -> Bench {
        Bench {
            lease: None,
            again: tokio::time::Instant::now(),
            seen: BTreeMap::new(),
            patience: (SILENCE.as_millis() / each.as_millis()) as u32 + MORE_LOOKS,
            is_checked: false,
            told: None,
        }
    }

    async fn look(
        &mut self,
        register: &Register,
        canary: &Canary,
        known_for: Duration,
        heard: &mut watch::Receiver<Heard>,
    ) -> Result<(), StagingError> {
        if !self.holds(register).await? {
            return Ok(());
        }
        if heard.has_changed().unwrap_or(false) {
            heard.borrow_and_update();
            self.is_checked = false;
        }
        if !self.is_checked {
            if register.is_writing().await? {
                return Ok(());
            }
            let Some(running) = register.running_still(&canary.id).await? else {
                return Ok(());
            };
            match register.standing(&running).await? {
                Standing::Untouched => self.is_checked = true,
                Standing::Overtaken => {
                    let why = CHANGED.to_owned();
                    return conclude(register, running, Outcome::RolledBack, why).await;
                }
                Standing::Begun | Standing::Whole => {
                    return promote(register, canary, WHOLE.to_owned()).await;
                }
            }
        }
        let reports = self.present(register.reports(&canary.id).await?);
        match judge(canary, &reports, known_for).verdict {
            Verdict::Wait => Ok(()),
            Verdict::RollBack(why) => end(register, canary, Outcome::RolledBack, why).await,
            Verdict::Promote(why) => promote(register, canary, why).await,
        }
    }

    async fn holds(&mut self, register: &Register) -> Result<bool, StagingError> {
        if self.lease.as_ref().is_some_and(Lease::is_held) {
            return Ok(true);
        }
        self.lease = None;
        if tokio::time::Instant::now() < self.again {
            return Ok(false);
        }
        self.again = tokio::time::Instant::now() + LOCK_EACH.mul_f64(0.5 + fastrand::f64());
        self.lease = register.lock().await?;
        Ok(self.lease.is_some())
    }

    /// Those that said something new lately, or that they leave.
    fn present(&mut self, mut reports: BTreeMap<String, Report>) -> BTreeMap<String, Report> {
        reports.retain(|node, report| {
            let (beat, looks) = self.seen.entry(node.clone()).or_default();
            match *beat == report.beat {
                true => *looks += 1,
                false => (*beat, *looks) = (report.beat, 0),
            }
            *looks <= self.patience || report.is_leaving
        });
        reports
    }

    /// Once for each thing that is wrong.
    fn tell(&mut self, wrong: Option<StagingError>) {
        let wrong = wrong.map(|error| error.to_string());
        if wrong != self.told {
            if let Some(why) = &wrong {
                tracing::warn!("the canary is neither counted nor judged here: {why}");
            }
            self.told = wrong;
        }
    }

    /// Nobody needs what was written of it.
    async fn clear(self, register: &Register, node: &str) {
        if let Err(error) = register.forget_report(node).await {
            tracing::debug!(%error, "what was counted of a canary is left");
        }
        if let Some(lease) = self.lease {
            if let Err(error) = register.sweep(&lease).await {
                tracing::debug!(%error, "what is left of a canary is swept with the next one");
            }
            lease.release().await;
        }
    }
}

async fn promote(register: &Register, canary: &Canary, why: String) -> Result<(), StagingError> {
    match register.promote(&canary.id, &why).await? {
        Promotion::Done => end(register, canary, Outcome::Promoted, why).await,
        Promotion::Lost(why) => end(register, canary, Outcome::RolledBack, why).await,
        Promotion::Over => Ok(()),
    }
}

/// Read again: what is heard may be a moment old.
async fn end(
    register: &Register,
    canary: &Canary,
    outcome: Outcome,
    why: String,
) -> Result<(), StagingError> {
    match register.running_still(&canary.id).await? {
        Some(running) => conclude(register, running, outcome, why).await,
        None => Ok(()),
    }
}

async fn conclude(
    register: &Register,
    running: Running,
    outcome: Outcome,
    why: String,
) -> Result<(), StagingError> {
    let Some(ended) = register.end(running, outcome, why).await? else {
        return Ok(());
    };
    match ended.outcome {
        Outcome::Promoted => tracing::info!("{}", told(&ended)),
        Outcome::RolledBack => tracing::warn!("{}", told(&ended)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_new_is_no_more_heard_of_and_comes_back_with_the_next_word() {
        let mut bench = Bench::new(LOOK_EACH[1]);
        let mut hear = |one, two| {
            let report = |beat| Report {
                beat,
                ..Report::default()
            };
            let reports = [
                ("lb-1".to_owned(), report(one)),
                ("lb-2".into(), report(two)),
            ];
            bench
                .present(reports.into())
                .into_keys()
                .collect::<Vec<_>>()
        };
        let heard = (1..=20).map(|beat| hear(beat, 1).len());
        let heard: Vec<usize> = heard.collect();
        assert_eq!(heard.iter().filter(|count| **count == 2).count(), 6);
        assert_eq!(heard[19], 1);
        assert_eq!(hear(21, 2), ["lb-1", "lb-2"]);
    }

    #[test]
    fn what_one_has_counted_that_drained_counts_on_without_it() {
        let mut bench = Bench::new(LOOK_EACH[1]);
        let leaving = Report {
            is_leaving: true,
            ..Report::default()
        };
        let reports = BTreeMap::from([("lb-1".to_owned(), leaving)]);
        for _ in 0..1000 {
            assert_eq!(bench.present(reports.clone()).len(), 1);
        }
    }
}
