//! The access log: a JSON object a line, through a bounded queue that never makes a worker wait. Hot path.
//!
//! Each worker formats into a batch of its own and hands full or old batches to one writer thread. A queue that is full, a disk that is
//! full, a pipe that nobody reads: lines are lost and counted (`rota_access_log_dropped_total`, `rota_access_log_failed_total`), requests
//! go on. Fields: `time`, `listener`, `client`, `version`, `tls`, `method`, `host`, `target`, `status`, `reason`, `route`, `service`,
//! `upstream`, `attempts`, `duration_ms`, `received`, `sent`, `request_id`; `route`, `service` and `upstream` are null where there was none.

mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::outcome::Outcome;
use super::rfc3339;
use super::vitals::Vitals;

/// A batch is handed over once it holds this many bytes.
pub const BATCH_BYTES: usize = 16 * 1024;
/// A batch is handed over once its first line is this old.
pub const BATCH_AGE: Duration = Duration::from_millis(200);
/// Batches that wait for the writer; more are dropped and counted. With [`BATCH_BYTES`] this bounds the queue near 8 MiB.
pub const QUEUE_BATCHES: usize = 512;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    /// Appended to; made if absent; opened anew by [`AccessLog::reopen`].
    File(PathBuf),
}

struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

enum Message {
    Batch(Batch),
    /// Look at the reopen flag, although there is nothing to write.
    Wake,
}

/// The running log: makes each worker's own end of it.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    reopen: Arc<AtomicBool>,
    vitals: Arc<Vitals>,
}

/// Tells when everything handed over was written.
#[derive(Debug)]
pub struct Written(Receiver<()>);

impl Written {
    /// Waits until the writer has written what it was given, which is after every [`AccessLog`] and [`WorkerLog`] is dropped. False: it
    /// took longer than `patience`.
    pub fn wait(self, patience: Duration) -> bool {
        !matches!(
            self.0.recv_timeout(patience),
            Err(mpsc::RecvTimeoutError::Timeout)
        )
    }
}

impl AccessLog {
    /// Opens the target and starts the writer thread. The error names the path.
    pub fn start(target: Target, vitals: Arc<Vitals>) -> io::Result<(AccessLog, Written)> {
        let sink = open(&target)?;
        Self::start_with(target, sink, vitals, QUEUE_BATCHES)
    }

    fn start_with(
        target: Target,
        sink: Sink,
        vitals: Arc<Vitals>,
        batches: usize,
    ) -> io::Result<(AccessLog, Written)> {
        let (queue, incoming) = mpsc::sync_channel(batches);
        let (done, written) = mpsc::channel();
        let reopen = Arc::new(AtomicBool::new(false));
        let writer = LogWriter {
            target,
            sink,
            reopen: reopen.clone(),
            vitals: vitals.clone(),
            torn: false,
            failing: false,
        };
        thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                writer.run(&incoming);
                drop(done);
            })?;
        let log = AccessLog {
            queue,
            reopen,
            vitals,
        };
        Ok((log, Written(written)))
    }

    /// A worker's own end.
    pub fn line_buffer(&self) -> WorkerLog {
        WorkerLog {
            queue: self.queue.clone(),
            vitals: self.vitals.clone(),
            batch: Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 4),
            lines: 0,
            oldest: None,
            clock: rfc3339::Writer::default(),
        }
    }

    /// Opens the file anew (it was moved away); what is queued goes to the new one. A file that cannot be opened leaves the old one in
    /// use, and the log says so.
    pub fn reopen(&self) {
        self.reopen.store(true, Relaxed);
        // A full queue means that the writer is awake, and looks at the flag before its next batch.
        let _ = self.queue.try_send(Message::Wake);
    }
}

/// One worker's end of the log; hands over what it holds when dropped.
#[derive(Debug)]
pub struct WorkerLog {
    queue: SyncSender<Message>,
    vitals: Arc<Vitals>,
    batch: Vec<u8>,
    lines: u64,
    oldest: Option<Instant>,
    clock: rfc3339::Writer,
}

impl WorkerLog {
    /// Adds one line. Never waits; allocates only when a batch was handed over.
    pub fn record(&mut self, outcome: &Outcome<'_>) {
        if self.oldest.is_none() {
            self.oldest = Some(Instant::now());
        }
        let time = self.clock.write(SystemTime::now());
        line::write(&mut self.batch, time, outcome);
        self.lines += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Hands the batch over if its first line is older than [`BATCH_AGE`]: to be called by the worker's tick.
    pub fn flush_if_due(&mut self, now: Instant) {
        if self
            .oldest
            .is_some_and(|oldest| now.saturating_duration_since(oldest) >= BATCH_AGE)
        {
            self.flush();
        }
    }

    /// Hands the batch over, or drops it and counts its lines if the queue is full.
    pub fn flush(&mut self) {
        self.oldest = None;
        if self.lines == 0 {
            return;
        }
        let room = BATCH_BYTES + BATCH_BYTES / 4;
        let bytes = std::mem::replace(&mut self.batch, Vec::with_capacity(room));
        let lines = std::mem::take(&mut self.lines);
        let batch = Message::Batch(Batch { bytes, lines });
        if self.queue.try_send(batch).is_err() {
            self.vitals.access_log_dropped.fetch_add(lines, Relaxed);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

type Sink = Box<dyn Write + Send>;

fn open(target: &Target) -> io::Result<Sink> {
    match target {
        Target::Stdout => Ok(Box::new(io::stdout())),
        Target::File(path) => Ok(Box::new(open_file(path)?)),
    }
}

fn open_file(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("access log {}: {error}", path.display()),
            )
        })
}

/// The writer thread's own.
struct LogWriter {
    target: Target,
    sink: Sink,
    reopen: Arc<AtomicBool>,
    vitals: Arc<Vitals>,
    /// The last write failed in the middle of a line.
    torn: bool,
    failing: bool,
}

impl LogWriter {
    fn run(mut self, incoming: &Receiver<Message>) {
        while let Ok(message) = incoming.recv() {
            if self.reopen.swap(false, Relaxed) {
                self.reopen();
            }
            match message {
                Message::Batch(batch) => self.write(&batch),
                Message::Wake => {}
            }
        }
    }

    fn reopen(&mut self) {
        match open(&self.target) {
            Ok(sink) => {
                self.sink = sink;
                self.torn = false;
            }
            Err(error) => tracing::error!("{error}; the old one stays in use"),
        }
    }

    fn write(&mut self, batch: &Batch) {
        match self.try_write(&batch.bytes) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the access log can be written again");
                }
            }
            Err(error) => {
                let lost = &self.vitals.access_log_failed;
                lost.fetch_add(batch.lines, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!("access log: {error}; lines are lost and counted");
                }
            }
        }
    }

    fn try_write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.torn {
            self.sink.write_all(b"\n")?;
            self.torn = false;
        }
        while !bytes.is_empty() {
            match self.sink.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.torn = bytes[count - 1] != b'\n';
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests;
