//! The thread that writes segments: what a disk refuses is named once, counted, and tried again with a new segment.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::reader::{EXTENSION, first_line, line_of, segments};
use super::{Begin, Entry, Record, What};
use crate::telemetry::Vitals;

/// Into so many segments a journal is divided: the oldest goes as a whole.
const SEGMENTS: u64 = 4;
/// What was written is on the disk after so long, if the machine dies.
const SYNC_EACH: Duration = Duration::from_secs(5);
/// A disk that refused is asked again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// Records that are written at once, at most.
const BATCH: usize = 256;

struct Writer {
    folder: PathBuf,
    /// Of all segments.
    size: u64,
    segment: Option<Segment>,
    is_wanted: Arc<AtomicBool>,
    vitals: Arc<Vitals>,
    /// When a disk that refused is asked again.
    retry: Option<Instant>,
    /// It was said that the disk refuses.
    is_said: bool,
    /// Since the last segment began.
    lost: u64,
}

struct Segment {
    file: File,
    len: u64,
    /// Of what it restates.
    base: u64,
    synced: Instant,
    is_dirty: bool,
}

/// Goes on until the journal's other end is dropped.
pub(super) fn start(
    folder: PathBuf,
    size: u64,
    entries: Receiver<Entry>,
    is_wanted: Arc<AtomicBool>,
    vitals: Arc<Vitals>,
) -> io::Result<()> {
    let mut writer = Writer {
        folder,
        size,
        segment: None,
        is_wanted,
        vitals,
        retry: None,
        is_said: false,
        lost: 0,
    };
    let run = move || writer.run(&entries);
    thread::Builder::new().name("journal".into()).spawn(run)?;
    Ok(())
}

impl Writer {
    fn run(&mut self, entries: &Receiver<Entry>) {
        loop {
            match entries.recv_timeout(SYNC_EACH) {
                Ok(entry) => self.take(entry, entries),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.sync_if_due();
            if self.retry.take_if(|at| *at <= Instant::now()).is_some() {
                self.is_wanted.store(true, Relaxed);
            }
        }
        if let Some(segment) = &self.segment {
            // Nobody is left to be told.
            let _ = segment.file.sync_data();
        }
    }

    /// Writes what is there already with it.
    fn take(&mut self, first: Entry, entries: &Receiver<Entry>) {
        let mut records = Vec::new();
        let mut next = Some(first);
        while let Some(entry) = next {
            match entry {
                Entry::Record(record) => records.push(record),
                Entry::Segment(base) => {
                    self.write(&records);
                    records.clear();
                    self.begin(&base);
                }
            }
            next = match records.len() < BATCH {
                true => entries.try_recv().ok(),
                false => None,
            };
        }
        self.write(&records);
    }

    fn begin(&mut self, base: &[Arc<Record>]) {
        self.sync();
        self.segment = None;
        match self.open(base) {
            Ok(segment) => {
                self.segment = Some(segment);
                self.lost = 0;
                if std::mem::take(&mut self.is_said) {
                    tracing::info!(folder = %self.folder.display(), "the journal is written again");
                }
                self.drop_oldest();
            }
            Err(error) => self.refused(&error, base.len()),
        }
    }

    fn open(&self, base: &[Arc<Record>]) -> io::Result<Segment> {
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(0o700).create(&self.folder)?;
        let mut text = first_line();
        for record in base {
            text.push_str(&match &record.what {
                What::Begin(begin) => line_of(&self.with_losses(record, begin)),
                What::Event(_) | What::Changes(_) | What::Restated | What::Table { .. } => {
                    line_of(record)
                }
            });
        }
        let mut file = made(&self.folder)?;
        file.write_all(text.as_bytes())?;
        Ok(Segment {
            file,
            len: text.len() as u64,
            base: text.len() as u64,
            synced: Instant::now(),
            is_dirty: true,
        })
    }

    /// What was lost here is known here alone.
    fn with_losses(&self, record: &Record, begin: &Begin) -> Record {
        let mut begin = begin.clone();
        begin.lost += self.lost;
        Record {
            at: record.at,
            what: What::Begin(Box::new(begin)),
        }
    }

    fn write(&mut self, records: &[Arc<Record>]) {
        if records.is_empty() {
            return;
        }
        let Some(segment) = &mut self.segment else {
            self.lose(records.len());
            return;
        };
        let mut text = String::new();
        records
            .iter()
            .for_each(|record| text.push_str(&line_of(record)));
        if let Err(error) = segment.file.write_all(text.as_bytes()) {
            self.refused(&error, records.len());
            return;
        }
        segment.len += text.len() as u64;
        segment.is_dirty = true;
        // What is restated each time may be most of it.
        if segment.len >= (self.size / SEGMENTS).max(2 * segment.base) {
            self.is_wanted.store(true, Relaxed);
        }
    }

    fn refused(&mut self, error: &io::Error, records: usize) {
        self.segment = None;
        self.retry = Some(Instant::now() + RETRY);
        self.lose(records);
        if !std::mem::replace(&mut self.is_said, true) {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "the journal cannot be written: what happens meanwhile is not in it");
        }
    }

    fn lose(&mut self, records: usize) {
        self.lost += records as u64;
        self.vitals.journal_lost.fetch_add(records as u64, Relaxed);
    }

    fn sync_if_due(&mut self) {
        let is_due = |segment: &Segment| segment.synced.elapsed() >= SYNC_EACH;
        if self.segment.as_ref().is_some_and(is_due) {
            self.sync();
        }
    }

    fn sync(&mut self) {
        let Some(segment) = self.segment.as_mut().filter(|segment| segment.is_dirty) else {
            return;
        };
        (segment.is_dirty, segment.synced) = (false, Instant::now());
        if let Err(error) = segment.file.sync_data() {
            self.refused(&error, 0);
        }
    }

    /// As many of the oldest as it takes to leave room for the one that is being written.
    fn drop_oldest(&self) {
        let Ok(found) = segments(&self.folder) else {
            return;
        };
        let len = |path: &PathBuf| fs::metadata(path).map_or(0, |it| it.len());
        let room = self.size - self.size / SEGMENTS;
        let mut total: u64 = found.iter().map(len).sum();
        for path in found.iter().take(found.len().saturating_sub(1)) {
            if total <= room {
                break;
            }
            total -= len(path);
            // What stays is tried again with the next segment.
            let _ = fs::remove_file(path);
        }
    }
}

/// The moment in the youngest segment's name.
fn newest(folder: &Path) -> io::Result<Option<u128>> {
    let found = segments(folder)?;
    let moment = |path: &PathBuf| path.file_stem()?.to_str()?.split('-').next()?.parse().ok();
    Ok(found.iter().filter_map(moment).max())
}

/// Names sort in the order in which segments were begun, whatever the wall clock was set to in between; two of one moment differ by a
/// number.
fn made(folder: &Path) -> io::Result<File> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_millis();
    let now = newest(folder)?.map_or(now, |newest| now.max(newest + 1));
    let mut number = 0;
    loop {
        let path = folder.join(format!("{now:013}-{number:02}.{EXTENSION}"));
        let mut options = OpenOptions::new();
        match options.append(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 99 => {
                number += 1
            }
            made => return made,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_sorts_behind_those_that_are_there_whatever_the_clock_says() {
        let name = format!("rota-segments-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        // A clock that was two centuries ahead.
        File::create(folder.join("8000000000000-00.journal")).unwrap();
        for _ in 0..3 {
            made(&folder).unwrap();
        }
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let names: Vec<_> = segments(&folder).unwrap().iter().map(name).collect();
        let expected = [0, 1, 2, 3].map(|n| format!("800000000000{n}-00.journal"));
        assert_eq!(names, expected);
        fs::remove_dir_all(&folder).unwrap();
    }
}
