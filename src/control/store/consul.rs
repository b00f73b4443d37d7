//! The store in Consul's KV: consistent reads, locks bound to a session, transactions that check it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::session::{Keeper, Owner, Session, Standing, Wanted};
use super::{
    Change, Entry, Raw, Seen, StoreError, Watch, Written, broken, checked, is_secret,
    without_key_file,
};
use crate::control::consul::{
    Client, ConsulError, Document, Objection, Pause, PrefixWatch, Step, TRANSACTION_STEPS, Taken,
};
use crate::seal::{Keyring, Plain};

/// Who wants a lock waits so long for a session.
const SESSION_PATIENCE: Duration = Duration::from_secs(8);
/// An acquisition whose answer was lost may still arrive; it is taken back after so long.
const LATE: Duration = Duration::from_secs(2);

/// What operators write, documents and words: under names of their own.
const DOCUMENTS: [&str; 3] = ["config/", "canary/", "operator/"];

/// One load balancer's view of its pod's keys.
pub(super) struct Shared {
    client: Client,
    prefix: String,
    name: String,
    keyring: Mutex<Option<Arc<Keyring>>>,
    standing: watch::Receiver<Standing>,
    wanted: watch::Sender<Wanted>,
    /// Locks of this process, which are all of one session: Consul does not tell them apart.
    held: Mutex<HashSet<String>>,
    /// Who follows what another one does already costs no connection.
    followed: Mutex<Followed>,
}

/// By prefix.
type Followed = HashMap<String, (Weak<PrefixWatch>, watch::Receiver<Seen>)>;

impl Shared {
    pub(super) fn start(
        client: Client,
        prefix: &str,
        name: &str,
        keyring: Option<Arc<Keyring>>,
    ) -> Arc<Shared> {
        let (wanted, asked) = watch::channel(Wanted::default());
        let (says, standing) = watch::channel(Standing::default());
        let owner = Owner {
            client: client.clone(),
            prefix: prefix.to_owned(),
            name: name.to_owned(),
        };
        tokio::spawn(Keeper::new(owner, asked, says).run());
        Arc::new(Shared {
            client,
            prefix: prefix.to_owned(),
            name: name.to_owned(),
            keyring: Mutex::new(keyring),
            standing,
            wanted,
            held: Mutex::default(),
            followed: Mutex::default(),
        })
    }

    pub(super) fn exchange(&self, keyring: Option<Arc<Keyring>>) {
        *self.keyring.lock().expect("no panic while held") = keyring;
    }

    pub(super) fn announce(&self, value: Vec<u8>) {
        self.wanted.send_modify(|wanted| {
            wanted.session = true;
            wanted.announced = Some(value.into());
        });
    }

    pub(super) async fn leave(&self) {
        self.wanted.send_modify(|wanted| wanted.leaving = true);
        // An error: whoever kept the session has gone.
        let mut standing = self.standing.clone();
        let _ = standing.wait_for(|standing| standing.has_left).await;
    }

    /// The key in KV, which is also what a secret is bound to.
    pub(super) fn place(&self, key: &str) -> String {
        format!("{}/{key}", self.prefix)
    }

    fn refusal(&self, error: ConsulError) -> StoreError {
        refusal(error, &self.prefix)
    }

    pub(super) async fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        checked(key)?;
        let read = self.client.kv_read_consistently(&self.place(key)).await;
        let document = read.map_err(|error| self.refusal(error))?;
        document.map(|found| self.entry(key, &found)).transpose()
    }

    pub(super) async fn read_many(
        &self,
        keys: &[String],
    ) -> Result<Vec<Result<Option<Entry>, StoreError>>, StoreError> {
        let mut entries = Vec::with_capacity(keys.len());
        for keys in keys.chunks(TRANSACTION_STEPS) {
            for key in keys {
                checked(key)?;
            }
            let found = self.documents(keys).await?;
            entries.extend(keys.iter().map(|key| {
                let document = found.get(&self.place(key));
                document.map(|found| self.entry(key, found)).transpose()
            }));
        }
        Ok(entries)
    }

    /// Those of `keys` that there are, by whole key. One that is missing fails the transaction, so it is asked again without.
    async fn documents(&self, keys: &[String]) -> Result<HashMap<String, Document>, StoreError> {
        let mut wanted: Vec<String> = keys.iter().map(|key| self.place(key)).collect();
        while !wanted.is_empty() {
            let get = |key: &String| Step::Get { key: key.clone() };
            let steps: Vec<Step> = wanted.iter().map(get).collect();
            let taken = self.client.transaction(&steps).await;
            match taken.map_err(|error| self.refusal(error))? {
                // What the token may not read is left out without a word, and must not be taken for missing.
                Taken::All(documents) if documents.len() < wanted.len() => {
                    let hidden = wanted.len() - documents.len();
                    let denied = ConsulError::Denied(format!("{hidden} keys may not be read"));
                    return Err(self.refusal(denied));
                }
                Taken::All(documents) => {
                    let named = documents
                        .into_iter()
                        .map(|found| (found.name.clone(), found));
                    return Ok(named.collect());
                }
                Taken::None(objections) => {
                    let missing: HashSet<usize> = objections.iter().map(|one| one.step).collect();
                    let before = wanted.len();
                    let mut step = 0..;
                    wanted.retain(|_| step.next().is_some_and(|step| !missing.contains(&step)));
                    if wanted.len() == before {
                        return Err(StoreError::Away(text(&objections)));
                    }
                }
            }
        }
        Ok(HashMap::new())
    }

    fn entry(&self, key: &str, found: &Document) -> Result<Entry, StoreError> {
        Ok(Entry {
            value: self.open(key, &found.value, found.modify_index)?,
            version: found.modify_index,
        })
    }

    pub(super) fn open(&self, key: &str, bytes: &[u8], version: u64) -> Result<Plain, StoreError> {
        if !is_secret(key) {
            return Ok(bytes.to_vec().into());
        }
        let place = self.place(key);
        let keyring = self.keyring.lock().expect("no panic while held").clone();
        match keyring {
            Some(keyring) => keyring
                .open(&place, bytes)
                .map_err(|error| broken(format!("kv:{place}"), &error, version)),
            None => Err(without_key_file(format!("kv:{place}"), version)),
        }
    }

    /// As it is to rest.
    fn sealed(&self, key: &str, value: &Plain) -> Result<Vec<u8>, StoreError> {
        if !is_secret(key) {
            return Ok(value.to_vec());
        }
        let place = self.place(key);
        let keyring = self.keyring.lock().expect("no panic while held").clone();
        match keyring {
            Some(keyring) => Ok(keyring.seal(&place, value).into_bytes()),
            None => Err(StoreError::Refused(format!(
                "kv:{place}: a secret is not written without acme.key_file"
            ))),
        }
    }

    fn step(&self, change: &Change) -> Result<Step, StoreError> {
        // Operators name documents and whom they mean; no file is named so.
        if !DOCUMENTS
            .iter()
            .any(|below| change.key().starts_with(below))
        {
            checked(change.key())?;
        }
        Ok(match change {
            Change::Put {
                key,
                value,
                version,
            } => Step::Set {
                value: self.sealed(key, value)?,
                key: self.place(key),
                index: *version,
            },
            Change::Delete { key, version } => Step::DeleteAt {
                key: self.place(key),
                index: *version,
            },
        })
    }

    pub(super) async fn write(&self, changes: &[Change]) -> Result<Written, StoreError> {
        let steps: Result<Vec<Step>, StoreError> =
            changes.iter().map(|change| self.step(change)).collect();
        let taken = self.client.transaction(&steps?).await;
        match taken.map_err(|error| self.refusal(error))? {
            Taken::All(_) => Ok(Written::Done),
            Taken::None(_) => Ok(Written::Conflict),
        }
    }

    pub(super) async fn transact(
        &self,
        hold: &Hold,
        changes: &[Change],
    ) -> Result<Written, StoreError> {
        let mut steps = vec![Step::CheckSession {
            key: hold.key.clone(),
            session: hold.session.to_string(),
        }];
        for change in changes {
            steps.push(self.step(change)?);
        }
        if !hold.is_held() {
            return Ok(Written::Conflict);
        }
        let taken = self.client.transaction(&steps).await;
        match taken.map_err(|error| self.refusal(error))? {
            Taken::All(_) => Ok(Written::Done),
            Taken::None(objections) => {
                if objections.iter().any(|one| one.step == 0) {
                    hold.is_taken.send_replace(true);
                    self.doubt();
                }
                Ok(Written::Conflict)
            }
        }
    }

    /// Consul spoke as if it had no such session.
    fn doubt(&self) {
        self.wanted.send_modify(|wanted| wanted.doubts += 1);
    }

    pub(super) async fn lock(self: &Arc<Self>, key: &str) -> Result<Option<Hold>, StoreError> {
        checked(key)?;
        let key = self.place(key);
        let Some(place) = Place::take(self, &key) else {
            return Ok(None);
        };
        let session = self.session().await?;
        let mut hold = Hold {
            key: key.clone(),
            session: session.id.clone(),
            is_taken: watch::Sender::new(false),
            place: Some(place),
            late: Duration::ZERO,
        };
        let step = Step::Lock {
            key,
            session: session.id.to_string(),
            value: self.name.clone().into_bytes(),
        };
        // From here on dropping `hold` gives back what Consul may have given.
        hold.late = LATE;
        match self.client.transaction(&[step]).await {
            Ok(Taken::All(_)) => {
                hold.late = Duration::ZERO;
                Ok(hold.is_held().then_some(hold))
            }
            Ok(Taken::None(objections)) => {
                hold.forget();
                if objections
                    .iter()
                    .any(|one| one.why.contains("invalid session"))
                {
                    self.doubt();
                    return Err(StoreError::Away(text(&objections)));
                }
                Ok(None)
            }
            Err(error) => {
                if matches!(error, ConsulError::Denied(_) | ConsulError::Local(_)) {
                    hold.forget();
                }
                Err(self.refusal(error))
            }
        }
    }

    async fn session(&self) -> Result<Session, StoreError> {
        if !self.wanted.borrow().session {
            self.wanted.send_modify(|wanted| wanted.session = true);
        }
        let mut standing = self.standing.clone();
        let is_told =
            |standing: &Standing| standing.believed().is_some() || standing.trouble.is_some();
        let away = || StoreError::Away("no session yet".to_owned());
        let told = timeout(SESSION_PATIENCE, standing.wait_for(is_told)).await;
        let standing = told.map_err(|_| away())?.map_err(|_| away())?;
        match (standing.believed(), &standing.trouble) {
            (Some(session), _) => Ok(session.clone()),
            (None, Some(trouble)) => Err(trouble.clone()),
            (None, None) => Err(away()),
        }
    }

    pub(super) fn watch(&self, prefix: &str) -> Watch {
        let mut followed = self.followed.lock().expect("no panic while held");
        followed.retain(|_, (following, _)| following.strong_count() > 0);
        let known = followed.get(prefix);
        let known = known.and_then(|(known, states)| Some((known.upgrade()?, states.clone())));
        let (following, states) = known.unwrap_or_else(|| {
            let (following, states) = self.follow(prefix);
            let entry = (Arc::downgrade(&following), states.clone());
            followed.insert(prefix.to_owned(), entry);
            (following, states)
        });
        Watch {
            states,
            _following: Some(following),
            _looking: None,
        }
    }

    fn follow(&self, prefix: &str) -> (Arc<PrefixWatch>, watch::Receiver<Seen>) {
        let (says, states) = watch::channel(Seen::Unknown);
        let tell = move |documents: Vec<Document>| {
            let raw = documents.into_iter().map(|document| {
                let raw = Raw {
                    bytes: document.value,
                    version: document.modify_index,
                    is_locked: document.is_locked,
                };
                (document.name, raw)
            });
            let seen = Seen::Is(Arc::new(raw.collect::<BTreeMap<_, _>>()));
            says.send_if_modified(|said| {
                let is_news = *said != seen;
                *said = seen;
                is_news
            });
        };
        let following = PrefixWatch::start(self.client.clone(), self.place(prefix), tell);
        (Arc::new(following), states)
    }
}

/// A lock's place among those of this process; free again when this is dropped.
struct Place {
    shared: Arc<Shared>,
    key: String,
}

impl Place {
    fn take(shared: &Arc<Shared>, key: &str) -> Option<Place> {
        let mut held = shared.held.lock().expect("no panic while held");
        held.insert(key.to_owned()).then(|| Place {
            shared: shared.clone(),
            key: key.to_owned(),
        })
    }

    /// Until Consul has taken the lock back, or has ended the session and all its locks with it. Nobody here gets it before.
    async fn clear(self, session: Arc<str>, late: Duration) {
        tokio::time::sleep(late).await;
        let steps = [
            Step::CheckSession {
                key: self.key.clone(),
                session: session.to_string(),
            },
            Step::Delete {
                key: self.key.clone(),
            },
        ];
        let mut pause = Pause::default();
        let has_session =
            |standing: &Standing| standing.believed().is_some_and(|now| now.id == session);
        while self.shared.client.transaction(&steps).await.is_err() {
            if !has_session(&self.shared.standing.borrow()) {
                return;
            }
            pause.rest().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock().expect("no panic while held");
        held.remove(&self.key);
    }
}

/// A lock in Consul.
pub(super) struct Hold {
    /// Whole.
    key: String,
    session: Arc<str>,
    /// Consul has said that it is not ours any more.
    is_taken: watch::Sender<bool>,
    /// None: it is given back.
    place: Option<Place>,
    late: Duration,
}

impl Hold {
    pub(super) fn is_held(&self) -> bool {
        self.believed_until().is_some()
    }

    fn believed_until(&self) -> Option<tokio::time::Instant> {
        let place = self.place.as_ref().filter(|_| !*self.is_taken.borrow())?;
        let standing = place.shared.standing.borrow();
        let session = standing.believed().filter(|now| now.id == self.session)?;
        Some(session.until)
    }

    pub(super) async fn lost(&self) {
        let Some(place) = &self.place else {
            return;
        };
        let mut standing = place.shared.standing.clone();
        let mut is_taken = self.is_taken.subscribe();
        while let Some(until) = self.believed_until() {
            tokio::select! {
                changed = standing.changed() => if changed.is_err() { return },
                _ = is_taken.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    pub(super) async fn release(mut self) {
        if let Some(place) = self.place.take() {
            // A task of its own: it goes on if nobody waits for it any more.
            let clearing = tokio::spawn(place.clear(self.session.clone(), self.late));
            let _ = clearing.await;
        }
    }

    /// It was never given, so there is nothing to give back.
    fn forget(mut self) {
        self.place = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        // Without a runtime there is no keeper either: the session ends by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(place.clear(self.session.clone(), self.late));
        }
    }
}

fn text(objections: &[Objection]) -> String {
    let why: Vec<&str> = objections.iter().map(|one| one.why.as_str()).collect();
    why.join("; ")
}

/// What a question's error means to who asks the store.
pub(super) fn refusal(error: ConsulError, prefix: &str) -> StoreError {
    match error {
        ConsulError::Denied(what) => StoreError::Refused(format!(
            "refused by acl: {what}: the token needs key_prefix \"{prefix}/\" {{ policy = \"write\" }} and \
             session_prefix \"\" {{ policy = \"write\" }}"
        )),
        ConsulError::Local(what) => StoreError::Refused(what),
        error @ (ConsulError::Unreachable(_)
        | ConsulError::TimedOut
        | ConsulError::NoLeader
        | ConsulError::Behind(_)
        | ConsulError::Server { .. }
        | ConsulError::Unreadable(_)
        | ConsulError::TooLong(_)) => StoreError::Away(error.to_string()),
    }
}
