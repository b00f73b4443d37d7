//! The one Consul session of this process: made when first needed, renewed, made anew once it is lost.
//!
//! Locks and `nodes/<name>` are bound to the same session, whose keys go with it: a lock has no value that anybody reads after its
//! holder, so nothing is lost by that, and 5,000 names leave no 5,000 keys behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::StoreError;
use super::consul::refusal;
use crate::control::consul::{Client, ConsulError, Pause, Renewal, SessionTerms, Step, Taken};

/// Consul ends a session that was not renewed for so long, up to as long again later.
const TTL: Duration = Duration::from_secs(15);
const LOCK_DELAY: Duration = Duration::from_secs(1);
const RENEW_EACH: Duration = Duration::from_secs(5);
/// From the moment when a renewal that succeeded was asked for. Consul counts from later on; the rest is for clocks that run
/// unevenly.
const BELIEVED: Duration = Duration::from_secs(14);
/// Between two tries while the token may not.
const DENIED_REST: Duration = Duration::from_secs(10);
/// To write `nodes/<name>`, so that it holds up no renewal.
const ANNOUNCE_DEADLINE: Duration = Duration::from_secs(3);

/// A session that Consul has, as far as is known.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: Arc<str>,
    /// Not believed any longer than this.
    pub(super) until: Instant,
}

/// How it stands with the session.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    session: Option<Session>,
    /// Why there is none.
    pub(super) trouble: Option<StoreError>,
    /// It was given back, and there will be none any more.
    pub(super) has_left: bool,
}

impl Standing {
    /// The session, if it can be relied on at this moment.
    pub(super) fn believed(&self) -> Option<&Session> {
        let session = self.session.as_ref();
        session.filter(|session| Instant::now() < session.until)
    }
}

/// What is asked of the keeper.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) session: bool,
    /// What is to stand in `nodes/<name>`.
    pub(super) announced: Option<Arc<[u8]>>,
    /// Counts who was told that the session is not valid: it is renewed at once, or found to be gone.
    pub(super) doubts: u64,
    /// The process ends: what is announced is written, then the session is given back.
    pub(super) leaving: bool,
}

/// Whom the session belongs to.
pub(super) struct Owner {
    pub(super) client: Client,
    /// The pod's prefix.
    pub(super) prefix: String,
    pub(super) name: String,
}

/// The task that owns the session. It ends when nobody can ask for it any more.
pub(super) struct Keeper {
    owner: Owner,
    wanted: watch::Receiver<Wanted>,
    standing: watch::Sender<Standing>,
    /// What was last told as wrong.
    told: Option<StoreError>,
}

/// A session, and what was done with it.
struct Held {
    session: Session,
    /// When it is due.
    renewal: Instant,
    /// Between renewals that fail.
    pause: Pause,
    /// What stands in `nodes/<name>`, as far as is known.
    announced: Option<Arc<[u8]>>,
    /// Those that were looked into.
    doubts: u64,
}

/// Why a session is no longer held.
enum End {
    /// Consul does not have it.
    Gone,
    /// It was not renewed in time; Consul may still have it.
    Doubtful,
    /// Nobody is left who wants it.
    Unwanted,
}

impl Keeper {
    pub(super) fn new(
        owner: Owner,
        wanted: watch::Receiver<Wanted>,
        standing: watch::Sender<Standing>,
    ) -> Keeper {
        Keeper {
            owner,
            wanted,
            standing,
            told: None,
        }
    }

    pub(super) async fn run(mut self) {
        let is_asked = |wanted: &Wanted| wanted.session || wanted.leaving;
        if self.wanted.wait_for(is_asked).await.is_err() {
            return;
        }
        let mut left = None;
        while let Some(session) = self.create(left.take()).await {
            let id = session.id.clone();
            let end = self.hold(session).await;
            self.standing.send_replace(Standing::default());
            match end {
                End::Gone => tracing::warn!("consul has ended this process's session"),
                End::Doubtful => {
                    tracing::warn!("consul has not renewed this process's session in time");
                    left = Some(id);
                }
                End::Unwanted => {
                    // Whoever waits for its locks need not wait for its end.
                    let _ = self.owner.client.session_destroy(&id).await;
                    self.standing
                        .send_modify(|standing| standing.has_left = true);
                    return;
                }
            }
        }
    }

    /// `left` may still be Consul's: while it is, nobody gets its locks. None: nobody wants one any more.
    async fn create(&mut self, mut left: Option<Arc<str>>) -> Option<Session> {
        let mut pause = Pause::default();
        while self.wanted.has_changed().is_ok() && !self.wanted.borrow().leaving {
            let asked = Instant::now();
            match self.try_to_create(&mut left).await {
                Ok(id) => {
                    let session = Session {
                        id: id.into(),
                        until: asked + BELIEVED,
                    };
                    if self.told.take().is_some() {
                        tracing::info!("consul: a session again");
                    }
                    self.believe(session.clone());
                    return Some(session);
                }
                Err(error) => {
                    let is_denied = matches!(error, ConsulError::Denied(_));
                    self.say(refusal(error, &self.owner.prefix));
                    match is_denied {
                        true => sleep(DENIED_REST.mul_f64(0.8 + fastrand::f64() * 0.4)).await,
                        false => pause.rest().await,
                    }
                }
            }
        }
        None
    }

    async fn try_to_create(&self, left: &mut Option<Arc<str>>) -> Result<String, ConsulError> {
        if let Some(id) = left {
            self.owner.client.session_destroy(id).await?;
            *left = None;
        }
        let terms = SessionTerms {
            name: &format!("rota {}", self.owner.name),
            ttl: TTL,
            lock_delay: LOCK_DELAY,
        };
        self.owner.client.session_create(terms).await
    }

    fn believe(&self, session: Session) {
        self.standing.send_replace(Standing {
            session: Some(session),
            ..Standing::default()
        });
    }

    /// Once for each thing that is wrong.
    fn say(&mut self, trouble: StoreError) {
        if self.told.as_ref() != Some(&trouble) {
            tracing::warn!("consul: no session, so no locks: {trouble}");
            self.told = Some(trouble.clone());
        }
        self.standing.send_replace(Standing {
            trouble: Some(trouble),
            ..Standing::default()
        });
    }

    async fn hold(&mut self, session: Session) -> End {
        let mut held = Held {
            session,
            renewal: Instant::now() + RENEW_EACH,
            pause: Pause::default(),
            announced: None,
            doubts: self.wanted.borrow().doubts,
        };
        loop {
            let again = self.catch_up(&mut held).await;
            if self.wanted.borrow().leaving {
                return End::Unwanted;
            }
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return End::Unwanted },
                () = sleep_until(again) => {}
            }
            if Instant::now() < held.renewal {
                continue;
            }
            if let Some(end) = self.renew(&mut held).await {
                return end;
            }
        }
    }

    /// Does what is asked for; gives when to look again.
    async fn catch_up(&mut self, held: &mut Held) -> Instant {
        let wanted = self.wanted.borrow_and_update().clone();
        if wanted.doubts != held.doubts {
            held.doubts = wanted.doubts;
            held.renewal = Instant::now();
        }
        if wanted.announced.is_none() || wanted.announced == held.announced {
            return held.renewal;
        }
        let value = wanted.announced.as_deref().unwrap_or_default();
        match self.announce(&held.session, value).await {
            Ok(()) => {
                self.say_heard_of();
                held.announced = wanted.announced;
                held.renewal
            }
            Err(why) => {
                let rest = match why {
                    StoreError::Refused(_) => DENIED_REST,
                    StoreError::Away(_) | StoreError::Broken { .. } => LOCK_DELAY / 2,
                };
                self.say_unheard_of(why);
                held.renewal.min(Instant::now() + rest)
            }
        }
    }

    async fn renew(&self, held: &mut Held) -> Option<End> {
        let asked = Instant::now();
        let renewed = self.owner.client.session_renew(&held.session.id).await;
        let is_late = Instant::now() >= held.session.until;
        match renewed {
            Ok(Renewal::Gone) => return Some(End::Gone),
            // Who relied on it has been told that it is lost, and has stopped: it is not to be theirs again.
            Ok(Renewal::Renewed) | Err(_) if is_late => return Some(End::Doubtful),
            Ok(Renewal::Renewed) => {
                held.session.until = asked + BELIEVED;
                held.renewal = asked + RENEW_EACH;
                held.pause = Pause::default();
                self.believe(held.session.clone());
                if held.announced.is_some() && self.owner.is_unheard_of().await {
                    held.announced = None;
                }
            }
            Err(error) => {
                tracing::debug!("consul: session not renewed: {error}");
                held.pause.rest().await;
            }
        }
        None
    }

    /// Rights that are missing are told, once; after what else goes wrong it is tried again.
    fn say_unheard_of(&mut self, why: StoreError) {
        let is_news = matches!(why, StoreError::Refused(_)) && self.told.as_ref() != Some(&why);
        if is_news {
            tracing::warn!("consul: {} is not written: {why}", self.owner.node_key());
            self.told = Some(why);
        }
    }

    /// So that it is told again should it go wrong again.
    fn say_heard_of(&mut self) {
        if self.told.take().is_some() {
            tracing::info!("consul: {} is written again", self.owner.node_key());
        }
    }

    async fn announce(&self, session: &Session, value: &[u8]) -> Result<(), StoreError> {
        let key = self.owner.node_key();
        // What an earlier process of this name left is bound to a session that Consul has not ended yet.
        let steps = [
            Step::Delete { key: key.clone() },
            Step::Lock {
                key,
                session: session.id.to_string(),
                value: value.to_vec(),
            },
        ];
        match timeout(ANNOUNCE_DEADLINE, self.owner.client.transaction(&steps)).await {
            Ok(Ok(Taken::All(_))) => Ok(()),
            Ok(Ok(Taken::None(why))) => Err(StoreError::Away(format!("{why:?}"))),
            Ok(Err(error)) => Err(refusal(error, &self.owner.prefix)),
            Err(_) => Err(StoreError::Away("no answer in time".to_owned())),
        }
    }
}

impl Owner {
    fn node_key(&self) -> String {
        format!("{}/nodes/{}", self.prefix, self.name)
    }

    /// Whether what was announced is gone, by whose hand ever: an earlier process of this name may have taken it with it.
    async fn is_unheard_of(&self) -> bool {
        let key = self.node_key();
        let read = timeout(ANNOUNCE_DEADLINE, self.client.kv_read(&key)).await;
        matches!(read, Ok(Ok(None)))
    }
}
