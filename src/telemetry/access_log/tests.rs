//! The queue's promises, on real files and on sinks that block or fail.

use super::*;
use crate::telemetry::Reason;
use std::sync::{Condvar, Mutex};

fn outcome() -> Outcome<'static> {
    Outcome {
        listener: "web",
        client: [127, 0, 0, 1].into(),
        version: "HTTP/1.1",
        tls: false,
        method: "GET",
        host: "a.example",
        target: "/",
        request_id: "r",
        status: 200,
        reason: Reason::Answered,
        route: None,
        service: None,
        upstream: None,
        attempts: 1,
        duration: Duration::from_millis(1),
        received: 0,
        sent: 0,
    }
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("rota-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn lines(path: &PathBuf) -> usize {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .count()
}

fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited 10 s in vain");
        thread::yield_now();
    }
}

/// Blocks until opened.
#[derive(Clone, Default)]
struct Stuck(Arc<(Mutex<bool>, Condvar)>);

impl Stuck {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let open = self.0.0.lock().unwrap();
        let _open = self.0.1.wait_while(open, |open| !*open).unwrap();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_sink_costs_lines_that_are_counted_and_never_a_workers_time() {
    let vitals = Arc::new(Vitals::new(1));
    let stuck = Stuck::default();
    let sink = Box::new(stuck.clone());
    let (log, written) = AccessLog::start_with(Target::Stdout, sink, vitals.clone(), 4).unwrap();
    let mut worker = log.line_buffer();
    let begun = Instant::now();
    for _ in 0..10_000 {
        worker.record(&outcome());
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    let dropped = vitals.access_log_dropped.load(Relaxed);
    assert!((1..10_000).contains(&dropped), "{dropped}");
    stuck.open();
    drop((log, worker));
    assert!(written.wait(Duration::from_secs(10)));
}

#[test]
fn every_line_is_written_or_counted() {
    let path = scratch("counted");
    let vitals = Arc::new(Vitals::new(2));
    let target = Target::File(path.clone());
    let (log, written) = AccessLog::start(target, vitals.clone()).unwrap();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let mut worker = log.line_buffer();
            thread::spawn(move || (0..20_000).for_each(|_| worker.record(&outcome())))
        })
        .collect();
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
    drop(log);
    assert!(written.wait(Duration::from_secs(10)));
    let dropped = vitals.access_log_dropped.load(Relaxed) as usize;
    assert_eq!(lines(&path) + dropped, 40_000);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_batch_waits_no_longer_than_its_age() {
    let path = scratch("age");
    let target = Target::File(path.clone());
    let (log, _written) = AccessLog::start(target, Arc::new(Vitals::new(1))).unwrap();
    let mut worker = log.line_buffer();
    worker.record(&outcome());
    worker.flush_if_due(Instant::now());
    assert_eq!(worker.lines, 1, "not due yet");
    worker.flush_if_due(Instant::now() + BATCH_AGE);
    eventually(|| lines(&path) == 1);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_file_moved_away_is_made_anew_on_reopen_even_when_nothing_is_written() {
    let path = scratch("reopen");
    let moved = path.with_extension("1");
    let target = Target::File(path.clone());
    let (log, _written) = AccessLog::start(target, Arc::new(Vitals::new(1))).unwrap();
    let mut worker = log.line_buffer();
    worker.record(&outcome());
    worker.flush();
    eventually(|| lines(&path) == 1);
    std::fs::rename(&path, &moved).unwrap();
    log.reopen();
    eventually(|| path.exists());
    worker.record(&outcome());
    worker.flush();
    eventually(|| lines(&path) == 1);
    assert_eq!(lines(&moved), 1);
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(moved).unwrap();
}

#[test]
fn a_full_disk_is_counted() {
    let vitals = Arc::new(Vitals::new(1));
    let target = Target::File("/dev/full".into());
    let (log, written) = AccessLog::start(target, vitals.clone()).unwrap();
    let mut worker = log.line_buffer();
    (0..3).for_each(|_| worker.record(&outcome()));
    drop((log, worker));
    assert!(written.wait(Duration::from_secs(10)));
    assert_eq!(vitals.access_log_failed.load(Relaxed), 3);
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let target = Target::File("/nowhere/access.log".into());
    let error = AccessLog::start(target, Arc::new(Vitals::new(1))).unwrap_err();
    assert!(error.to_string().contains("/nowhere/access.log"), "{error}");
}
