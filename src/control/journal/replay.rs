//! Comes to the table that a journal tells of: its events go into a model of their own, at the times at which they went into the one
//! that wrote them. Pure but for the reader.

use std::path::Path;
use std::time::SystemTime;

use super::changes::Answers;
use super::digest::Digests;
use super::reader::{read, segments};
use super::{Begin, Record, What};
use crate::control::assembly::Assembly;
use crate::control::bounds::Bounds;
use crate::control::event::{Effect, Event};
use crate::control::model::{Model, Terms};
use crate::routing::Snapshot;
use crate::telemetry::rfc3339;

/// Where a replay ended.
pub struct Replayed {
    pub node: String,
    /// The moment that all is told of.
    pub at: SystemTime,
    pub snapshot: Snapshot,
    /// Events that were applied, and tables that came out as they were published.
    pub events: u64,
    pub tables: u64,
    /// What was not as the journal says, or is not in it; in words.
    pub notes: Vec<String>,
}

/// Replays a journal (its folder, or one segment) up to a moment, or to its end. Blocking.
///
/// # Errors
/// It cannot be read, or tells of nothing before that moment.
pub fn replay(journal: &Path, until: Option<SystemTime>) -> Result<Replayed, String> {
    let found = segments(journal).map_err(|error| format!("{}: {error}", journal.display()))?;
    let mut stage = Stage::default();
    for path in found {
        let segment = read(&path)?;
        for record in segment.records {
            if until.is_some_and(|until| record.at > until) {
                return stage.end(until).ok_or_else(|| nothing(journal));
            }
            stage.take(record)?;
        }
        if let Some(damage) = segment.damage {
            stage.notes.push(format!("{}: {damage}", path.display()));
        }
    }
    stage.end(until).ok_or_else(|| nothing(journal))
}

fn nothing(journal: &Path) -> String {
    format!(
        "{}: it tells of nothing before that moment",
        journal.display()
    )
}

#[derive(Default)]
pub(super) struct Stage {
    /// None: nothing has begun.
    scene: Option<Scene>,
    /// What is restated is known already.
    is_skipping: bool,
    answers: Answers,
    notes: Vec<String>,
    events: u64,
    tables: u64,
}

struct Scene {
    run: String,
    segment: u64,
    node: String,
    model: Model,
    assembly: Assembly,
    digests: Digests,
    at: SystemTime,
    generation: u64,
    /// What is restated was not published table by table.
    is_restating: bool,
}

impl Stage {
    pub(super) fn take(&mut self, record: Record) -> Result<(), String> {
        let Record { at, what } = record;
        match (what, &mut self.scene) {
            (What::Begin(begin), _) => {
                self.begin(*begin, at);
                return Ok(());
            }
            (_, None) => return Err("it does not begin with a first record".to_owned()),
            (What::Restated, Some(scene)) => {
                scene.is_restating = false;
                self.is_skipping = false;
            }
            (What::Event(event), Some(scene)) => {
                self.answers.see(&event);
                if !self.is_skipping {
                    scene.apply(event, at);
                    self.events += 1;
                }
            }
            (What::Changes(_) | What::Table { .. }, Some(_)) if self.is_skipping => {}
            (What::Changes(changes), Some(scene)) => match self.answers.event(&changes) {
                Some(event) => {
                    scene.apply(event, at);
                    self.events += 1;
                }
                None => self.notes.push(format!(
                    "documents changed at {} that are not in it",
                    rfc3339::text(at)
                )),
            },
            (What::Table { generation, digest }, Some(scene)) => {
                if scene.publish(generation, at) == digest {
                    self.tables += 1;
                } else if self.notes.len() < 20 {
                    let at = rfc3339::text(at);
                    self.notes.push(format!(
                        "the table {generation} of {at} does not come out as it was published ({digest})"
                    ));
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin, at: SystemTime) {
        let before = self.scene.as_mut();
        let goes_on = before.filter(|scene| {
            begin.lost == 0 && (&scene.run, scene.segment + 1) == (&begin.run, begin.segment)
        });
        if let Some(scene) = goes_on {
            scene.segment = begin.segment;
            self.is_skipping = true;
            return;
        }
        if begin.lost > 0 {
            let (lost, at) = (begin.lost, rfc3339::text(at));
            self.notes.push(format!(
                "{lost} records before the segment of {at} were lost"
            ));
        }
        self.is_skipping = false;
        self.answers = Answers::default();
        self.scene = Some(Scene::begin(begin, at));
    }

    /// None: nothing has begun.
    pub(super) fn end(self, until: Option<SystemTime>) -> Option<Replayed> {
        let mut scene = self.scene?;
        let at = until.unwrap_or(scene.at);
        scene.model.apply(Event::Tick, at);
        let (mut snapshot, _) = scene.assembly.build(&scene.model, at);
        snapshot.generation = scene.generation;
        Some(Replayed {
            node: scene.node,
            at,
            snapshot,
            events: self.events,
            tables: self.tables,
            notes: self.notes,
        })
    }
}

impl Scene {
    fn begin(begin: Begin, at: SystemTime) -> Scene {
        let consul = begin.file.consul.as_ref();
        let terms = Terms {
            bounds: Bounds {
                allow: consul.map_or_else(Vec::new, |consul| consul.allow_upstreams.clone()),
                own: begin.own,
                // Of the machine that wrote it no more is known.
                is_local: |ip| ip.is_loopback(),
            },
            consul_prefix: consul.map(|consul| consul.prefix.clone()),
            certificates: begin.certificates,
            tags: consul.map_or_else(Default::default, |consul| consul.tags.clone()),
        };
        let assembly = Assembly::on_paper(&begin.node);
        let mut model = Model::new(terms, begin.file, at);
        model.apply(Event::Tick, at);
        Scene {
            run: begin.run,
            segment: begin.segment,
            node: begin.node,
            model,
            assembly,
            digests: Digests::default(),
            at,
            generation: 0,
            is_restating: true,
        }
    }

    fn apply(&mut self, event: Event, at: SystemTime) {
        if self.is_restating {
            self.tick_until(at);
        }
        if let Event::Ejected { key, unfit, .. } = &event
            && let Some(upstream) = self.assembly.upstream(key)
        {
            // As a worker does it, before it tells.
            let _ = upstream.set(*unfit);
        }
        self.model.apply(event, at);
        for effect in self.model.take_effects() {
            if let Effect::GiveBack { key, unfit } = effect
                && let Some(upstream) = self.assembly.upstream(&key)
            {
                upstream.forgive();
                let _ = upstream.clear(unfit);
            }
        }
        self.at = at;
    }

    /// Moments at which time itself did something are not restated.
    fn tick_until(&mut self, at: SystemTime) {
        while let Some(next) = self.model.next_tick().filter(|next| *next < at) {
            self.model.apply(Event::Tick, next);
        }
    }

    /// The digest of what would be published now.
    fn publish(&mut self, generation: u64, at: SystemTime) -> String {
        (self.generation, self.at) = (generation, at);
        // Mistakes are dated by it, and upstreams made.
        drop(self.assembly.build(&self.model, at));
        let digest = self.digests.of(&self.model);
        self.model.forget_unwanted();
        digest
    }
}
