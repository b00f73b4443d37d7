//! Requests that failed or were sent again, noted for `rota why ID`: bounded rings for each worker, which no other request touches.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::outcome::{Outcome, Reason};
use crate::routing::measured::{AttemptOutcome, Counter};
use crate::routing::path::without_query;
use crate::routing::{HostPattern, Prefix, Route, ServiceName};

/// A host or path is cut there, in bytes.
pub const MAX_TEXT_BYTES: usize = 512;
/// Attempts of one request that are told, the last one besides: more than retry policies allow.
pub const MAX_ATTEMPTS: usize = 32;
/// Requests with one id that are told: who asks for others keeps theirs over their own retries.
pub const MAX_ALIKE: usize = 16;

/// One attempt at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub upstream: Arc<str>,
    pub outcome: AttemptOutcome,
    /// What went wrong, in words; empty: it answered.
    pub error: &'static str,
    /// Of its answer; None: there was none, or none that counts.
    pub status: Option<u16>,
    pub lasted: Duration,
}

/// The route that a request took, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTaken {
    pub name: Arc<str>,
    pub host: HostPattern,
    pub path: Prefix,
    pub service: ServiceName,
}

/// A request that failed or was sent again.
#[derive(Clone, Debug)]
pub struct NotedRequest {
    pub id: Box<str>,
    /// When it ended.
    pub at: SystemTime,
    pub duration: Duration,
    pub listener: Box<str>,
    pub client: IpAddr,
    pub version: &'static str,
    pub method: Box<str>,
    pub host: Box<str>,
    /// Without its query, which may hold what is secret.
    pub path: Box<str>,
    pub route: RouteTaken,
    /// 0: no answer was sent.
    pub status: u16,
    pub reason: Reason,
    /// How many there were; [`NotedRequest::tried`] may hold fewer.
    pub attempts: u32,
    pub tried: Vec<Attempt>,
}

impl NotedRequest {
    /// Whether there is something to explain: it was sent again, failed at a server, or its client got a 5xx or nothing.
    pub fn is_wanted(outcome: &Outcome<'_>, tried: &[Attempt]) -> bool {
        !tried.is_empty() || outcome.status >= 500 || outcome.status == 0
    }

    /// Of a request that ended just now.
    pub fn new(outcome: &Outcome<'_>, route: &Route, tried: Vec<Attempt>) -> NotedRequest {
        NotedRequest {
            id: outcome.request_id.into(),
            at: SystemTime::now(),
            duration: outcome.duration,
            listener: outcome.listener.into(),
            client: outcome.client,
            version: outcome.version,
            method: cut(outcome.method).into(),
            host: cut(outcome.host).into(),
            path: cut(without_query(outcome.target)).into(),
            route: RouteTaken {
                name: route.name.clone(),
                host: route.host.clone(),
                path: route.path.clone(),
                service: route.service.name.clone(),
            },
            status: outcome.status,
            reason: outcome.reason,
            attempts: outcome.attempts,
            tried,
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

/// Requests of one kind, in the order in which they ended.
#[derive(Debug, Default)]
struct Ring {
    /// Each in memory of its own, which it gives back: a place that the other ring has the request for is a pointer's.
    requests: VecDeque<Box<NotedRequest>>,
    has_dropped: bool,
}

impl Ring {
    fn drop_oldest(&mut self) -> bool {
        let dropped = self.requests.pop_front().is_some();
        self.has_dropped |= dropped;
        dropped
    }

    fn oldest(&self) -> SystemTime {
        let oldest = self.requests.front();
        oldest.map_or_else(SystemTime::now, |oldest| oldest.at)
    }
}

/// Those whose clients went away are as many as clients like: they have the places that the others leave.
#[derive(Debug, Default)]
struct Rings {
    failed: Ring,
    aborted: Ring,
}

impl Rings {
    fn len(&self) -> usize {
        self.failed.requests.len() + self.aborted.requests.len()
    }

    fn push(&mut self, request: NotedRequest, limit: usize) {
        let ring = if request.reason == Reason::ClientAborted {
            &mut self.aborted
        } else {
            &mut self.failed
        };
        let requests = &mut ring.requests;
        if requests.len() == requests.capacity() {
            // Doubled, but never beyond the limit and the newest: else that one alone would double the memory of 2,048, for ever.
            let room = limit.saturating_sub(requests.len()) + 1;
            requests.reserve_exact(requests.len().max(4).min(room));
        }
        requests.push_back(Box::new(request));
    }

    /// Gives how many had to go.
    fn shrink(&mut self, limit: usize) -> usize {
        let beyond = self.len().saturating_sub(limit);
        for _ in 0..beyond {
            let _ = self.aborted.drop_oldest() || self.failed.drop_oldest();
        }
        beyond
    }
}

/// One worker's.
#[derive(Debug, Default)]
pub struct Noted {
    rings: Mutex<Rings>,
    held: AtomicUsize,
    /// Noted ones that had to go for newer ones, and those that came while somebody looked.
    pub dropped: Counter,
}

impl Noted {
    /// To be called by the worker alone, which never waits. At most `limit` are held: those whose clients went away go first, of the others
    /// the oldest.
    pub fn note(&self, request: NotedRequest, limit: usize) {
        let Ok(mut rings) = self.rings.try_lock() else {
            return self.dropped.add(1);
        };
        rings.push(request, limit);
        let gone = rings.shrink(limit);
        self.dropped.add(gone as u64);
        self.held.store(rings.len(), Relaxed);
    }

    /// To be called by the worker alone: no more than that are held from now on, and those beyond it give their memory back. While
    /// somebody looks nothing happens: it is to be called again.
    pub fn keep(&self, limit: usize) {
        if self.held() <= limit {
            return;
        }
        if let Ok(mut rings) = self.rings.try_lock() {
            let gone = rings.shrink(limit);
            rings.failed.requests.shrink_to_fit();
            rings.aborted.requests.shrink_to_fit();
            self.dropped.add(gone as u64);
            self.held.store(rings.len(), Relaxed);
        }
    }

    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Newest first, [`MAX_ALIKE`] at most.
    pub fn named(&self, id: &str) -> Vec<NotedRequest> {
        let rings = self.rings.lock().expect("no panic while held");
        let all = [&rings.failed, &rings.aborted];
        let all = all
            .into_iter()
            .flat_map(|ring| ring.requests.iter().rev().map(Box::as_ref));
        let mut alike: Vec<&NotedRequest> = all.filter(|request| &*request.id == id).collect();
        alike.sort_by_key(|request| std::cmp::Reverse(request.at));
        alike.into_iter().take(MAX_ALIKE).cloned().collect()
    }

    /// Since when all are held that ended; None: all that there ever were are.
    pub fn reaches_back_to(&self) -> Option<SystemTime> {
        let rings = self.rings.lock().expect("no panic while held");
        let all = [&rings.failed, &rings.aborted];
        let cut = all.into_iter().filter(|ring| ring.has_dropped);
        let is_whole = self.dropped.value() == 0;
        (!is_whole).then(|| {
            let reach = cut.map(Ring::oldest).max();
            reach.unwrap_or_else(|| rings.failed.oldest())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn request(id: &str, at: u64) -> NotedRequest {
        NotedRequest {
            id: id.into(),
            at: UNIX_EPOCH + Duration::from_secs(at),
            duration: Duration::ZERO,
            listener: "web".into(),
            client: IpAddr::from([127, 0, 0, 1]),
            version: "HTTP/1.1",
            method: "GET".into(),
            host: "a".into(),
            path: "/".into(),
            route: RouteTaken {
                name: "a".into(),
                host: HostPattern::Any,
                path: Prefix::parse("/").unwrap(),
                service: "app".into(),
            },
            status: 502,
            reason: Reason::UpstreamBroken,
            attempts: 1,
            tried: Vec::new(),
        }
    }

    #[test]
    fn the_newest_are_held_and_what_had_to_go_is_counted() {
        let noted = Noted::default();
        for at in 0..10 {
            noted.note(request(&format!("r{at}"), at), 4);
        }
        assert_eq!((noted.held(), noted.dropped.value()), (4, 6));
        assert!(noted.named("r5").is_empty());
        assert_eq!(noted.named("r6").len(), 1);
        let reach = noted.reaches_back_to().unwrap();
        assert_eq!(reach, UNIX_EPOCH + Duration::from_secs(6));
        noted.note(request("r10", 10), 0);
        assert_eq!((noted.held(), noted.dropped.value()), (0, 11));
    }

    #[test]
    fn a_full_ring_has_room_for_its_limit_and_the_newest_alone() {
        let noted = Noted::default();
        (0..200).for_each(|at| noted.note(request("r", at), 64));
        assert_eq!(noted.held(), 64);
        assert_eq!(noted.rings.lock().unwrap().failed.requests.capacity(), 65);
    }

    fn bytes_of_places<T>(places: &VecDeque<T>) -> usize {
        places.capacity() * size_of::<T>()
    }

    #[test]
    fn failures_after_a_flood_of_clients_that_went_away_take_the_memory_of_one_limit() {
        let noted = Noted::default();
        (0..200).for_each(|at| noted.note(aborted("gone", at), 64));
        (200..400).for_each(|at| noted.note(request("failed", at), 64));
        let rings = noted.rings.lock().unwrap();
        let places = [&rings.failed, &rings.aborted].map(|ring| bytes_of_places(&ring.requests));
        let places: usize = places.iter().sum();
        assert!(places <= 65 * size_of::<NotedRequest>(), "{places} bytes");
    }

    #[test]
    fn requests_with_one_id_are_told_newest_first() {
        let noted = Noted::default();
        (0..20).for_each(|at| noted.note(request("same", at), 100));
        let named = noted.named("same");
        assert_eq!(named.len(), MAX_ALIKE);
        assert_eq!(named[0].at, UNIX_EPOCH + Duration::from_secs(19));
        assert_eq!(noted.reaches_back_to(), None);
    }

    #[test]
    fn a_worker_never_waits_for_who_looks() {
        let noted = Noted::default();
        let looking = noted.rings.lock().unwrap();
        noted.note(request("r", 1), 4);
        drop(looking);
        assert_eq!((noted.held(), noted.dropped.value()), (0, 1));
    }

    fn aborted(id: &str, at: u64) -> NotedRequest {
        NotedRequest {
            reason: Reason::ClientAborted,
            status: 0,
            ..request(id, at)
        }
    }

    #[test]
    fn clients_that_go_away_push_out_no_failure_but_each_other() {
        let noted = Noted::default();
        noted.note(request("failed", 0), 4);
        (1..100).for_each(|at| noted.note(aborted("gone", at), 4));
        assert_eq!((noted.held(), noted.dropped.value()), (4, 96));
        assert_eq!(noted.named("failed").len(), 1);
        let gone = noted.named("gone");
        assert_eq!(gone[0].at, UNIX_EPOCH + Duration::from_secs(99));
        let reach = noted.reaches_back_to().unwrap();
        assert_eq!(reach, UNIX_EPOCH + Duration::from_secs(97));
        (100..104).for_each(|at| noted.note(request("failed", at), 4));
        assert_eq!(noted.named("failed").len(), 4);
        assert!(noted.named("gone").is_empty());
        noted.note(aborted("gone", 104), 4);
        assert_eq!(noted.named("failed").len(), 4);
    }

    #[test]
    fn a_lower_limit_frees_what_is_beyond_it_without_another_request() {
        let noted = Noted::default();
        (0..8).for_each(|at| noted.note(request(&format!("r{at}"), at), 8));
        noted.keep(8);
        assert_eq!((noted.held(), noted.dropped.value()), (8, 0));
        noted.keep(2);
        assert_eq!((noted.held(), noted.dropped.value()), (2, 6));
        assert!(noted.named("r5").is_empty() && noted.named("r6").len() == 1);
        noted.keep(0);
        assert_eq!(noted.held(), 0);
        assert_eq!(noted.rings.lock().unwrap().failed.requests.capacity(), 0);
    }
}
