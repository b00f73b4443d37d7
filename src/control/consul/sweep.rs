//! One watch over all services of a datacenter, for more of them than the agent has connections for.
//!
//! Blocking queries say that something changed: the checks that are critical or warn, all checks, and the catalogue of services. What
//! they differ in from last time names the services to read again, by plain questions, a few at a time. Those checks that do not pass
//! are a short answer, at once; all of them are megabytes, so that is asked once a second at most, as is every answer that is long. A change that none shows (an
//! instance without checks came to a service that has others) moves the catalogue's index alone: then all are read again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::client::{Client, When};
use super::error::ConsulError;
use super::follow::{Pause, Watched, follow};
use super::parse::CheckStates;
use super::subject::{News, Outlet, Subject, Topic};
use super::unread::{Cause, Unread, Urgency};
use super::watcher::Task;
use crate::config::ConsulService;

/// The states that checks leave and come to when a server does.
const TELLING: [&str; 2] = ["critical", "warning"];
const ALL: &str = "any";
/// Between two answers about all checks, or about many.
const ALL_EACH: Duration = Duration::from_secs(1);
/// Of an outage, each with its output, these are some 100 KiB.
const MANY_CHECKS: usize = 500;
/// Connections of a sweep's watches.
pub(super) const WATCHES: usize = TELLING.len() + 2;
/// Services read at once.
pub(super) const READERS: usize = 16;
/// All services are read again so often, whatever the watches said: the bound on how long a check's text may be old.
const EVERYTHING_EACH: Duration = Duration::from_secs(60);
/// Between two readings of everything.
const EVERYTHING_GAP: Duration = Duration::from_secs(5);

/// Services of one datacenter under one watch.
pub(super) struct Sweep {
    bell: Bell,
    readers: usize,
    _tasks: Vec<Task>,
}

/// Which services are to be read, and by whom.
#[derive(Default)]
struct Queue {
    members: Mutex<BTreeMap<ConsulService, Arc<Subject>>>,
    unread: Mutex<Unread>,
    everything: Notify,
    /// One more waits for a laggard.
    later: Notify,
}

impl Queue {
    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().expect("no panic while held")
    }
}

impl Sweep {
    /// Nothing is read before there are readers.
    pub(super) fn start(client: &Client, outlet: &Outlet, datacenter: Option<String>) -> Sweep {
        let bell = Bell {
            queue: Arc::new(Queue::default()),
            work: Arc::new(Semaphore::new(0)),
            places: Arc::new(Semaphore::new(0)),
        };
        let subject = |topic| Subject::new(topic, outlet.clone());
        let checks = |state| {
            let watch = ChecksWatch {
                client: client.clone(),
                state,
                subject: subject(Topic::Checks(state, datacenter.clone())),
                datacenter: datacenter.clone(),
                bell: bell.clone(),
                known: None,
            };
            Task::spawn(follow(watch))
        };
        let mut tasks: Vec<Task> = TELLING.map(checks).into();
        tasks.extend([
            checks(ALL),
            Task::spawn(follow(CatalogWatch {
                client: client.clone(),
                subject: subject(Topic::AllServices(datacenter.clone())),
                datacenter,
                bell: bell.clone(),
                known: None,
            })),
            Task::spawn(bell.clone().ring_for_everything()),
            Task::spawn(bell.clone().ring_again()),
        ]);
        tasks.extend((0..READERS).map(|_| Task::spawn(bell.clone().read(client.clone()))));
        Sweep {
            bell,
            readers: 0,
            _tasks: tasks,
        }
    }

    /// So many questions at once from now on, at most [`READERS`]. One under way takes its place along: until this is asked again there
    /// may be more.
    pub(super) fn set_readers(&mut self, wanted: usize) {
        let places = &self.bell.places;
        places.add_permits(wanted.saturating_sub(self.readers));
        let gone = self.readers.saturating_sub(wanted);
        self.readers = self.readers.max(wanted) - places.forget_permits(gone);
    }

    /// From now on these; those that are new are read at once.
    pub(super) fn set_members(&self, members: BTreeMap<ConsulService, Arc<Subject>>) {
        let mut known = self.bell.queue.members.lock().expect("no panic while held");
        let before = std::mem::replace(&mut *known, members);
        drop(known);
        self.bell
            .ring(Cause::Change, |service, _| !before.contains_key(service));
    }
}

/// Rings for the readers.
#[derive(Clone)]
struct Bell {
    queue: Arc<Queue>,
    /// A permit for each service in the queue.
    work: Arc<Semaphore>,
    /// Questions at once.
    places: Arc<Semaphore>,
}

impl Bell {
    fn ring(&self, cause: Cause, is_meant: impl Fn(&ConsulService, &Subject) -> bool) {
        let members = self.queue.members.lock().expect("no panic while held");
        let mut unread = self.queue.unread();
        let now = Instant::now();
        unread.forget_told(now);
        for (service, subject) in members.iter() {
            if is_meant(service, subject) && unread.add(service, cause, now) {
                self.work.add_permits(1);
            }
        }
    }

    /// What is most urgent once there is a place for the question, and that place.
    async fn next(&self) -> Option<(ConsulService, Arc<Subject>, Urgency, SemaphorePermit<'_>)> {
        self.work.acquire().await.ok()?.forget();
        let place = self.places.acquire().await.ok()?;
        let (service, urgency) = self.queue.unread().take()?;
        let members = self.queue.members.lock().expect("no panic while held");
        let subject = members.get(&service)?.clone();
        Some((service, subject, urgency, place))
    }

    /// One reader. It waits for no laggard itself: others may have changed meanwhile.
    async fn read(self, client: Client) {
        let mut pause = Pause::default();
        loop {
            let Some((service, subject, urgency, place)) = self.next().await else {
                continue;
            };
            let read = read_service(&client, &service, &subject).await;
            drop(place);
            match read {
                Ok(news) => {
                    pause = Pause::default();
                    let is_missed = news == News::None && urgency.expects_news();
                    if is_missed || news == News::Older {
                        self.queue.unread().add_later(service, Instant::now());
                        self.queue.later.notify_one();
                    }
                }
                Err(error) => {
                    subject.failed(&error).await;
                    drop(subject);
                    pause.rest().await;
                    self.ring(Cause::Change, |member, _| *member == service);
                }
            }
        }
    }

    async fn ring_for_everything(self) {
        loop {
            let due = Instant::now() + EVERYTHING_EACH;
            let _ = timeout_at(due, self.queue.everything.notified()).await;
            self.ring(Cause::Routine, |_, _| true);
            sleep(EVERYTHING_GAP).await;
        }
    }

    async fn ring_again(self) {
        loop {
            let due = self.queue.unread().next_due();
            match due {
                Some(at) => sleep_until(at).await,
                None => self.queue.later.notified().await,
            }
            let more = self.queue.unread().rouse(Instant::now());
            self.work.add_permits(more);
        }
    }
}

async fn read_service(
    client: &Client,
    service: &ConsulService,
    subject: &Subject,
) -> Result<News, ConsulError> {
    let mut reply = client.instances(service, When::Now).await?;
    // It is asked anew: nothing of it is outdated.
    let _ = client
        .restore_hidden_instances(service, subject, When::Now, &mut reply)
        .await?;
    if !subject.believes(&reply) {
        return reply.sound_index().map(|_| News::None);
    }
    Ok(subject.learned_instances(service, reply).await)
}

/// The checks that are in a state: which services' changed, and which nodes'.
struct ChecksWatch {
    client: Client,
    state: &'static str,
    subject: Subject,
    datacenter: Option<String>,
    bell: Bell,
    known: Option<CheckStates>,
}

impl Watched for ChecksWatch {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        if let When::Beyond(_) = when {
            sleep(rest_before(self.state, self.known.as_ref())).await;
        }
        let asked = self
            .client
            .check_states(self.state, self.datacenter.clone(), when);
        let reply = asked.await?;
        let index = reply.sound_index()?;
        self.subject.answered().await;
        self.subject.outlet().contact();
        let Some(known) = &self.known else {
            // Services may have been read before this first state: what changed between would stay unseen.
            if self.state == ALL {
                self.bell.queue.everything.notify_one();
            }
            self.known = Some(reply.content);
            return Ok(index);
        };
        let services = differing(&known.services, &reply.content.services);
        let nodes = differing(&known.nodes, &reply.content.nodes);
        if !services.is_empty() || !nodes.is_empty() {
            let cause = match self.state {
                ALL => Cause::AnyCheck,
                _ => Cause::Change,
            };
            self.bell.ring(cause, |service, subject| {
                services.contains(&service.service)
                    || nodes.iter().any(|node| subject.has_instance_on(node))
            });
        }
        self.known = Some(reply.content);
        Ok(index)
    }

    async fn failed(&mut self, error: ConsulError) {
        self.subject.failed(&error).await;
    }
}

/// `known` is what the last answer held, of checks in this state.
fn rest_before(state: &str, known: Option<&CheckStates>) -> Duration {
    let are_many = known.is_some_and(|known| known.checks >= MANY_CHECKS);
    match state == ALL || are_many {
        true => ALL_EACH,
        false => Duration::ZERO,
    }
}

/// The names of all services with their tags: which came, went, or are tagged anew.
struct CatalogWatch {
    client: Client,
    subject: Subject,
    datacenter: Option<String>,
    bell: Bell,
    known: Option<(u64, HashMap<String, Vec<String>>)>,
}

impl Watched for CatalogWatch {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        let asked = self.client.services(self.datacenter.clone(), when);
        let reply = asked.await?;
        let index = reply.sound_index()?;
        self.subject.answered().await;
        self.subject.outlet().contact();
        if let Some((last, known)) = &self.known {
            let services = differing(known, &reply.content);
            if !services.is_empty() {
                self.bell.ring(Cause::Change, |service, _| {
                    services.contains(&service.service)
                });
            } else if *last != index {
                self.bell.queue.everything.notify_one();
            }
        }
        self.known = Some((index, reply.content));
        Ok(index)
    }

    async fn failed(&mut self, error: ConsulError) {
        self.subject.failed(&error).await;
    }
}

/// The keys that only one has, or whose values differ.
fn differing<'a, V: PartialEq>(
    one: &'a HashMap<String, V>,
    other: &'a HashMap<String, V>,
) -> HashSet<&'a String> {
    let changed = other
        .iter()
        .filter(|(key, value)| one.get(*key) != Some(*value))
        .map(|(key, _)| key);
    let gone = one.keys().filter(|key| !other.contains_key(*key));
    changed.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_many_checks_is_asked_for_as_rarely_as_all_of_them() {
        let of = |checks| CheckStates {
            checks,
            ..CheckStates::default()
        };
        for state in TELLING {
            assert_eq!(rest_before(state, None), Duration::ZERO);
            let few = of(MANY_CHECKS - 1);
            assert_eq!(rest_before(state, Some(&few)), Duration::ZERO);
            assert_eq!(rest_before(state, Some(&of(MANY_CHECKS))), ALL_EACH);
        }
        assert_eq!(rest_before(ALL, None), ALL_EACH);
    }
}
