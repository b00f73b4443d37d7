//! What the store promises, over a real agent; and over the state directory where it can promise the same.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rota::config::{Consul, ConsulToken};
use rota::control::consul::Client;
use rota::control::store::{Change, Entry, Lease, Seen, Store, StoreError, Written};
use rota::seal::{Keyring, Secret};
use tokio::time::{Instant, timeout};

use crate::consul_agent::{ACL_DENY, Agent, MASTER_TOKEN};
use crate::wait;
use crate::watching::{PATIENCE, settings};

const POD: &str = "rota/pod-1";
const LOCK: &str = "acme/locks/a.test";
const CERTIFICATE: &str = "acme/certs/a.test";
const INDEX: &str = "acme/index/0";
const PLAIN: &str = "acme/attempts/a.test";

fn keyring(byte: u8) -> Option<Arc<Keyring>> {
    let secret = Secret::from_bytes([byte; 32]);
    Some(Arc::new(Keyring::of(&[secret])))
}

fn store_of(settings: &Consul, name: &str, keyring: Option<Arc<Keyring>>) -> Store {
    let client = Client::new(settings).unwrap();
    Store::in_consul(client, POD, name, keyring)
}

fn store(agent: &Agent, name: &str) -> Store {
    store_of(&settings(&agent.http_address()), name, keyring(1))
}

/// A state directory of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("rota-store-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn put(key: &str, value: &[u8], version: u64) -> Change {
    Change::Put {
        key: key.into(),
        value: value.to_vec().into(),
        version,
    }
}

fn delete(key: &str, version: u64) -> Change {
    Change::Delete {
        key: key.into(),
        version,
    }
}

async fn entry(store: &Store, key: &str) -> Entry {
    store.read(key).await.unwrap().unwrap()
}

async fn locked(store: &Store, key: &str) -> Lease {
    within(PATIENCE, "the lock", async || {
        store.lock(key).await.ok().flatten()
    })
    .await
}

/// Asks until there is an answer.
async fn within<T>(time: Duration, what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + time;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not in {time:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The ids of all sessions with what they are.
fn sessions(agent: &Agent) -> Vec<serde_json::Value> {
    let answer = agent.must("GET", "/v1/session/list", b"");
    serde_json::from_str(&answer.body).unwrap()
}

fn destroy_session_of(agent: &Agent, name: &str) {
    let all = sessions(agent);
    let named = |one: &&serde_json::Value| one["Name"] == format!("rota {name}");
    let id = all.iter().find(named).unwrap()["ID"].as_str().unwrap();
    agent.must("PUT", &format!("/v1/session/destroy/{id}"), b"");
}

/// A key's value in KV as it rests there; None: there is none.
fn raw(agent: &Agent, key: &str) -> Option<String> {
    let path = format!("/v1/kv/{POD}/{key}?raw");
    let answer = agent.try_call("GET", &path, b"").unwrap();
    (answer.status == 200).then_some(answer.body)
}

/// Stands between a store and its agent, and loses the answers to transactions while it is told to.
struct Forgetful {
    address: String,
    forgets: Arc<AtomicBool>,
}

impl Forgetful {
    fn start(agent: &Agent) -> Forgetful {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let agent = agent.http_address().replace("http://", "");
        let forgets = Arc::new(AtomicBool::new(false));
        let is_told = forgets.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&agent).unwrap();
                let is_told = is_told.clone();
                std::thread::spawn(move || carry(client, server, &is_told));
            }
        });
        Forgetful { address, forgets }
    }

    fn forget(&self, whether: Forgets) {
        self.forgets.store(whether == Forgets::Answers, Relaxed);
    }
}

#[derive(PartialEq)]
enum Forgets {
    Answers,
    Nothing,
}

fn carry(mut client: TcpStream, mut server: TcpStream, forgets: &AtomicBool) {
    let (mut asking, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let mut first = [0; 8];
    if asking.read_exact(&mut first).is_err() || asked.write_all(&first).is_err() {
        return;
    }
    std::thread::spawn(move || std::io::copy(&mut asking, &mut asked));
    if &first == b"PUT /v1/" && forgets.load(Relaxed) {
        // The answer is there, so what was asked is done.
        let _ = server.read(&mut [0; 1]);
        let _ = client.shutdown(Shutdown::Both);
        return;
    }
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

/// What both kinds of store promise alike.
async fn keeps_its_word(store: &Store) {
    assert!(store.read(CERTIFICATE).await.unwrap().is_none());
    let lease = locked(store, LOCK).await;
    assert!(lease.is_held());
    let both = vec![put(INDEX, b"{}", 0), put(CERTIFICATE, b"secret", 0)];
    assert_eq!(store.transact(&lease, both).await, Ok(Written::Done));
    let certificate = entry(store, CERTIFICATE).await;
    assert_eq!(certificate.value.as_slice(), b"secret");
    let index = entry(store, INDEX).await;

    // One moved version, and nothing of it is written.
    assert_eq!(
        store.write(put(INDEX, b"{1}", index.version)).await,
        Ok(Written::Done)
    );
    let late = vec![
        put(CERTIFICATE, b"other", certificate.version),
        delete(PLAIN, 0),
        put(INDEX, b"{2}", index.version),
    ];
    assert_eq!(store.transact(&lease, late).await, Ok(Written::Conflict));
    assert_eq!(entry(store, CERTIFICATE).await.value.as_slice(), b"secret");
    assert_eq!(entry(store, INDEX).await.value.as_slice(), b"{1}");

    // A key that is not to be there is a condition of all.
    let beside = |key| vec![put(PLAIN, b"x", 0), Change::none_at(key)];
    let written = store.write_all(beside(INDEX)).await;
    assert_eq!(written, Ok(Written::Conflict));
    assert!(store.read(PLAIN).await.unwrap().is_none());
    let written = store.write_all(beside("acme/attempts/b.test")).await;
    assert_eq!(written, Ok(Written::Done));
    let version = entry(store, PLAIN).await.version;
    assert_eq!(store.write(delete(PLAIN, version)).await, Ok(Written::Done));

    assert_eq!(
        store.write(put(CERTIFICATE, b"x", 0)).await,
        Ok(Written::Conflict)
    );
    assert_eq!(
        store
            .write(delete(CERTIFICATE, certificate.version + 1))
            .await,
        Ok(Written::Conflict)
    );
    assert_eq!(
        store.write(delete(CERTIFICATE, certificate.version)).await,
        Ok(Written::Done)
    );
    assert_eq!(store.write(delete(CERTIFICATE, 0)).await, Ok(Written::Done));
    assert!(store.read(CERTIFICATE).await.unwrap().is_none());

    // One lock is one task's, also within a process.
    assert!(store.lock(LOCK).await.unwrap().is_none());
    assert!(store.lock("acme/locks/b.test").await.unwrap().is_some());
    lease.release().await;
    let again = store.lock(LOCK).await.unwrap().unwrap();
    drop(again);
    drop(locked(store, LOCK).await);

    for key in ["", "../a", "acme/.a", "a//b"] {
        let refused = store.write(put(key, b"x", 0)).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{key}");
        assert!(store.read(key).await.is_err());
    }
    let long = vec![b'x'; 600 * 1024];
    let refused = store.write(put(PLAIN, &long, 0)).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
    assert!(store.read(PLAIN).await.unwrap().is_none());
}

async fn reads_many(store: &Store) {
    let keys: Vec<String> = (0..200).map(|n| format!("acme/certs/{n}.test")).collect();
    for (number, key) in keys.iter().enumerate() {
        if number % 3 != 0 {
            let value = number.to_string();
            let written = store.write(put(key, value.as_bytes(), 0)).await;
            assert_eq!(written, Ok(Written::Done));
        }
    }
    let start = Instant::now();
    let read = store.read_many(&keys).await.unwrap();
    println!("200 keys, a third of them missing: {:?}", start.elapsed());
    assert_eq!(read.len(), 200);
    for (number, found) in read.into_iter().enumerate() {
        let found = found.unwrap().map(|entry| entry.value.to_vec());
        let wanted = (number % 3 != 0).then(|| number.to_string().into_bytes());
        assert_eq!(found, wanted, "{number}");
    }
}

#[test]
fn what_is_followed_already_is_known_to_the_next_one_at_once() {
    let agent = Agent::start();
    wait(async {
        let store = store(&agent, "lb-1");
        let mut first = store.watch("nodes/");
        timeout(PATIENCE, first.changed()).await.unwrap();
        let mut second = store.watch("nodes/");
        assert_eq!(second.state(), Seen::Is(Arc::default()));
        drop(first);
        agent.put(&format!("{POD}/nodes/lb-2"), b"{}");
        timeout(PATIENCE, second.changed()).await.unwrap();
        drop(second);
        let mut anew = store.watch("nodes/");
        assert_eq!(anew.state(), Seen::Unknown, "nobody followed it any more");
    });
}

async fn is_seen(store: &Store, writer: &Store) {
    let mut watch = store.watch("acme/index/");
    timeout(PATIENCE, watch.changed()).await.unwrap();
    assert_eq!(watch.state(), Seen::Is(Arc::default()));
    let written = Instant::now();
    writer.write(put(INDEX, b"{}", 0)).await.unwrap();
    timeout(PATIENCE, watch.changed()).await.unwrap();
    println!("written -> seen: {:?}", written.elapsed());
    assert!(written.elapsed() < Duration::from_secs(1));
    let Seen::Is(keys) = watch.state() else {
        panic!("it was seen")
    };
    let seen = &keys["0"];
    assert_eq!(store.open(INDEX, seen).unwrap().as_slice(), b"{}");
    assert_eq!(seen.version, entry(store, INDEX).await.version);
    writer.write(delete(INDEX, seen.version)).await.unwrap();
    timeout(PATIENCE, watch.changed()).await.unwrap();
    assert_eq!(watch.state(), Seen::Is(Arc::default()));
}

/// A key by its whole name; as it rests, so also one that cannot be opened.
async fn is_seen_by_its_whole_key(store: &Store, writer: &Store) {
    writer.write(put(CERTIFICATE, b"one", 0)).await.unwrap();
    let mut watch = store.watch(CERTIFICATE);
    timeout(PATIENCE, watch.changed()).await.unwrap();
    let Seen::Is(keys) = watch.state() else {
        panic!("it was seen")
    };
    let version = entry(store, CERTIFICATE).await.version;
    assert_eq!(keys.get("").map(|raw| raw.version), Some(version));
    let moved = put(CERTIFICATE, b"two", version);
    assert_eq!(writer.write(moved).await, Ok(Written::Done));
    timeout(PATIENCE, watch.changed()).await.unwrap();
    let Seen::Is(keys) = watch.state() else {
        panic!("it was seen")
    };
    assert_eq!(
        store.open(CERTIFICATE, &keys[""]).unwrap().as_slice(),
        b"two"
    );
}

#[test]
fn a_key_that_is_watched_by_its_whole_name_is_seen_in_consul_and_in_a_directory() {
    let agent = Agent::start();
    let folder = Folder::new();
    wait(async {
        is_seen_by_its_whole_key(&store(&agent, "lb-1"), &store(&agent, "lb-2")).await;
        let directory = Store::in_directory(&folder.0, keyring(1)).unwrap();
        is_seen_by_its_whole_key(&directory, &directory.clone()).await;
    });
}

#[test]
fn a_store_keeps_its_word_in_consul_and_in_a_directory() {
    let agent = Agent::start();
    let folder = Folder::new();
    wait(async {
        keeps_its_word(&store(&agent, "lb-1")).await;
        keeps_its_word(&Store::in_directory(&folder.0, keyring(1)).unwrap()).await;
    });
}

#[test]
fn hundreds_of_keys_are_read_in_order_and_missing_ones_are_told_apart() {
    let agent = Agent::start();
    let folder = Folder::new();
    wait(async {
        reads_many(&store(&agent, "lb-1")).await;
        reads_many(&Store::in_directory(&folder.0, keyring(1)).unwrap()).await;
    });
}

#[test]
fn what_one_store_writes_another_sees_within_a_second() {
    let agent = Agent::start();
    let folder = Folder::new();
    wait(async {
        is_seen(&store(&agent, "lb-1"), &store(&agent, "lb-2")).await;
        let directory = Store::in_directory(&folder.0, keyring(1)).unwrap();
        is_seen(&directory, &directory.clone()).await;
    });
}

#[test]
fn of_two_load_balancers_one_gets_the_lock_and_the_other_gets_it_afterwards() {
    let agent = Agent::start();
    wait(async {
        let (one, other) = (store(&agent, "lb-1"), store(&agent, "lb-2"));
        let lease = one.lock(LOCK).await.unwrap().unwrap();
        assert!(other.lock(LOCK).await.unwrap().is_none());
        assert_eq!(raw(&agent, LOCK).as_deref(), Some("lb-1"));
        lease.release().await;
        assert_eq!(raw(&agent, LOCK), None, "a lock leaves nothing behind");
        let lease = other.lock(LOCK).await.unwrap().unwrap();
        assert!(one.lock(LOCK).await.unwrap().is_none());
        drop(lease);
        let _ = locked(&one, LOCK).await;
    });
}

#[test]
fn a_session_ends_by_its_time_alone() {
    let agent = Agent::start();
    wait(async {
        let store = store(&agent, "lb-1");
        assert!(sessions(&agent).is_empty(), "made when it is needed");
        let _lease = locked(&store, LOCK).await;
        let all = sessions(&agent);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0]["TTL"], "15s");
        assert_eq!(all[0]["LockDelay"], 1_000_000_000);
        assert_eq!(all[0]["Behavior"], "delete");
        for checks in ["NodeChecks", "Checks"] {
            let checks = all[0][checks].as_array();
            assert!(checks.is_none_or(Vec::is_empty), "{all:?}");
        }
    });
}

#[test]
fn who_lost_the_session_knows_it_and_cannot_write_though_its_versions_are_right() {
    let agent = Agent::start();
    wait(async {
        let (one, other) = (store(&agent, "lb-1"), store(&agent, "lb-2"));
        one.write(put(INDEX, b"{}", 0)).await.unwrap();
        let stale = one.lock(LOCK).await.unwrap().unwrap();
        let read = entry(&one, INDEX).await;
        destroy_session_of(&agent, "lb-1");
        let ended = Instant::now();
        assert!(stale.is_held(), "nobody has told it yet");
        let changes = vec![
            put(INDEX, b"{stale}", read.version),
            put(CERTIFICATE, b"x", 0),
        ];
        assert_eq!(one.transact(&stale, changes).await, Ok(Written::Conflict));
        assert_eq!(raw(&agent, INDEX).as_deref(), Some("{}"));
        assert_eq!(raw(&agent, CERTIFICATE), None);
        timeout(PATIENCE, stale.lost()).await.unwrap();
        assert!(!stale.is_held());

        let fresh = locked(&other, LOCK).await;
        println!("session ended -> lock with another: {:?}", ended.elapsed());
        assert!(ended.elapsed() < Duration::from_secs(5), "the lock's delay");
        let changes = vec![put(INDEX, b"{1}", read.version)];
        assert_eq!(other.transact(&fresh, changes).await, Ok(Written::Done));
        assert_eq!(one.transact(&stale, vec![]).await, Ok(Written::Conflict));
        stale.release().await;
        assert!(one.lock(LOCK).await.unwrap().is_none(), "it is the other's");
        assert!(fresh.is_held());
        // With a session anew it locks again.
        let _ = locked(&one, "acme/locks/b.test").await;
    });
}

#[test]
fn a_lease_is_lost_in_time_without_a_word_from_consul() {
    let mut agent = Agent::start();
    wait(async {
        let store = store(&agent, "lb-1");
        let lease = store.lock(LOCK).await.unwrap().unwrap();
        let taken = Instant::now();
        agent.signal("STOP");
        timeout(Duration::from_secs(16), lease.lost())
            .await
            .unwrap();
        println!("agent silent -> lease lost: {:?}", taken.elapsed());
        assert!(
            taken.elapsed() < Duration::from_secs(15),
            "its session may have ended"
        );
        assert!(!lease.is_held());
        let refused = store.transact(&lease, vec![put(INDEX, b"{}", 0)]).await;
        assert_eq!(refused, Ok(Written::Conflict));
        assert!(matches!(store.read(INDEX).await, Err(StoreError::Away(_))));
        agent.signal("CONT");
        drop(lease);
        let _ = locked(&store, LOCK).await;
        assert_eq!(sessions(&agent).len(), 1, "the doubtful one is ended");
        agent.kill();
    });
}

#[test]
fn a_lock_passes_on_when_its_holder_is_killed() {
    let agent = Agent::start();
    // Its runtime ends with everything on it, and says no farewell: as far as Consul can see it was killed.
    let killed = tokio::runtime::Runtime::new().unwrap();
    let lease = killed.block_on(async {
        let store = store(&agent, "lb-1");
        locked(&store, LOCK).await
    });
    killed.shutdown_background();
    drop(lease);
    let start = Instant::now();
    let passed_on = wait(async {
        let other = store(&agent, "lb-2");
        assert!(other.lock(LOCK).await.unwrap().is_none());
        let most = Duration::from_secs(2 * 15 + 1 + 4);
        within(most, "the lock", async || other.lock(LOCK).await.unwrap()).await
    });
    println!("holder killed -> lock with another: {:?}", start.elapsed());
    drop(passed_on);
}

#[test]
fn a_change_whose_answer_was_lost_is_neither_done_nor_refused_and_its_lock_is_given_back() {
    let agent = Agent::start();
    let between = Forgetful::start(&agent);
    wait(async {
        let other = store(&agent, "lb-2");
        let store = store_of(&settings(&between.address), "lb-1", keyring(1));
        let lease = locked(&store, "acme/locks/b.test").await;
        between.forget(Forgets::Answers);
        let unknown = store.transact(&lease, vec![put(INDEX, b"{}", 0)]).await;
        assert!(matches!(unknown, Err(StoreError::Away(_))), "{unknown:?}");
        assert_eq!(entry(&store, INDEX).await.value.as_slice(), b"{}");
        let unknown = store.lock(LOCK).await;
        assert!(matches!(unknown, Err(StoreError::Away(_))), "{unknown:?}");
        assert_eq!(raw(&agent, LOCK).as_deref(), Some("lb-1"));
        assert!(lease.is_held());
        between.forget(Forgets::Nothing);
        let _ = locked(&other, LOCK).await;
        assert!(lease.is_held(), "only what was lost is given back");
    });
}

#[test]
fn secrets_are_never_plain_in_kv_and_open_only_where_they_belong() {
    let agent = Agent::start();
    wait(async {
        let store = store(&agent, "lb-1");
        for key in [
            "acme/account/0",
            "acme/orders/a.test",
            CERTIFICATE,
            "acme/proofs/a.test",
            "certs/own/a",
            "keys/tickets",
        ] {
            store.write(put(key, b"secret", 0)).await.unwrap();
            let rests = raw(&agent, key).unwrap();
            assert!(
                rests.starts_with("rota1:") && !rests.contains("secret"),
                "{key}"
            );
            assert_eq!(entry(&store, key).await.value.as_slice(), b"secret");
        }
        store.write(put(PLAIN, b"{}", 0)).await.unwrap();
        assert_eq!(raw(&agent, PLAIN).as_deref(), Some("{}"));

        let sealed = raw(&agent, CERTIFICATE).unwrap();
        agent.put(&format!("{POD}/acme/certs/b.test"), sealed.as_bytes());
        agent.put(&format!("{POD}/acme/certs/c.test"), b"plain");
        let keys = ["a", "b", "c"].map(|name| format!("acme/certs/{name}.test"));
        let read = store.read_many(&keys).await.unwrap();
        assert!(read[0].is_ok());
        for (at, why) in [(1, "sealed for another place"), (2, "not sealed by rota")] {
            let error = read[at].as_ref().unwrap_err();
            assert!(matches!(error, StoreError::Broken { .. }), "{error:?}");
            let place = format!("kv:{POD}/{}: ", keys[at]);
            let text = error.to_string();
            assert!(text.starts_with(&place) && text.contains(why), "{text}");
        }

        let foreign = store_of(&settings(&agent.http_address()), "lb-2", keyring(2));
        let error = foreign.read(CERTIFICATE).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("which the key file does not have"),
            "{error}"
        );
        foreign.exchange(None).await;
        let error = foreign.read(CERTIFICATE).await.unwrap_err();
        assert!(matches!(error, StoreError::Broken { .. }), "{error:?}");
        let refused = foreign.write(put("acme/certs/d.test", b"secret", 0)).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
        assert_eq!(raw(&agent, "acme/certs/d.test"), None);
        foreign.exchange(keyring(1)).await;
        assert_eq!(
            entry(&foreign, CERTIFICATE).await.value.as_slice(),
            b"secret"
        );
    });
}

#[test]
fn what_was_last_seen_stays_while_the_agent_is_dead_and_a_restart_heals_all() {
    let mut agent = Agent::start();
    wait(async {
        let store = store(&agent, "lb-1");
        store.write(put(INDEX, b"{}", 0)).await.unwrap();
        store.announce(b"here".to_vec());
        let mut watch = store.watch("acme/index/");
        timeout(PATIENCE, watch.changed()).await.unwrap();
        let seen = watch.state();
        agent.kill();
        let dead = timeout(Duration::from_secs(2), watch.changed()).await;
        assert!(dead.is_err(), "nothing was said");
        assert_eq!(watch.state(), seen);
        let read = store.read(INDEX).await;
        assert!(matches!(read, Err(StoreError::Away(_))), "{read:?}");
        let read = store.read_many(&[INDEX.to_owned()]).await;
        assert!(matches!(read, Err(StoreError::Away(_))), "{read:?}");

        agent.spawn_again();
        assert!(agent.wait_until_ready());
        let read = entry(&store, INDEX).await;
        store.write(put(INDEX, b"{1}", read.version)).await.unwrap();
        timeout(PATIENCE, watch.changed()).await.unwrap();
        assert_ne!(watch.state(), seen);
        let _ = locked(&store, LOCK).await;
        within(PATIENCE, "the announcement", async || {
            raw(&agent, "nodes/lb-1")
        })
        .await;
    });
}

#[test]
fn what_a_load_balancer_announces_stands_as_long_as_it_does() {
    let agent = Agent::start();
    let stands = async |value: &str| {
        within(PATIENCE, value, async || {
            (raw(&agent, "nodes/lb-1").as_deref() == Some(value)).then_some(())
        })
        .await;
    };
    let killed = tokio::runtime::Runtime::new().unwrap();
    killed.block_on(async {
        let store = store(&agent, "lb-1");
        store.announce(b"before".to_vec());
        stands("before").await;
        std::mem::forget(store);
    });
    killed.shutdown_background();
    wait(async {
        // What an earlier process of this name left is bound to a session that lives on for a while.
        let store = store(&agent, "lb-1");
        store.announce(b"1".to_vec());
        stands("1").await;
        store.announce(b"2".to_vec());
        stands("2").await;
        let all = sessions(&agent);
        assert_eq!(all.len(), 2);
        for session in all {
            let id = session["ID"].as_str().unwrap();
            agent.must("PUT", &format!("/v1/session/destroy/{id}"), b"");
        }
        assert_eq!(raw(&agent, "nodes/lb-1"), None);
        stands("2").await;
        agent.delete(&format!("{POD}/nodes/lb-1"));
        stands("2").await;
        // The last one to know the store has gone: so has what it announced.
        drop(store);
        within(PATIENCE, "its end", async || {
            raw(&agent, "nodes/lb-1").is_none().then_some(())
        })
        .await;
    });
}

#[test]
fn who_leaves_gives_back_locks_and_announcement_at_once() {
    let agent = Agent::start();
    wait(async {
        let (one, two) = (store(&agent, "lb-1"), store(&agent, "lb-2"));
        one.announce(b"here".to_vec());
        let lease = locked(&one, LOCK).await;
        within(PATIENCE, "the announcement", async || {
            raw(&agent, "nodes/lb-1")
        })
        .await;
        one.leave().await;
        assert_eq!(raw(&agent, "nodes/lb-1"), None);
        assert!(sessions(&agent).is_empty());
        assert!(!lease.is_held());
        let _ = locked(&two, LOCK).await;
        // One that never had anything has nothing to wait for.
        timeout(PATIENCE, store(&agent, "lb-3").leave())
            .await
            .unwrap();
    });
}

#[test]
fn a_token_that_may_not_is_refused_with_the_policy_it_lacks_and_found_mended() {
    let agent = Agent::start_with(ACL_DENY);
    let path = std::env::temp_dir().join(format!("rota-store-token-{}", std::process::id()));
    let rules = format!(r#"key_prefix \"{POD}/\" {{ policy = \"write\" }}"#);
    let policy = format!(r#"{{"Name": "keys", "Rules": "{rules}"}}"#);
    agent.must("PUT", "/v1/acl/policy", policy.as_bytes());
    let token = agent.must(
        "PUT",
        "/v1/acl/token",
        br#"{"Policies": [{"Name": "keys"}]}"#,
    );
    let token: serde_json::Value = serde_json::from_str(&token.body).unwrap();
    std::fs::write(&path, token["SecretID"].as_str().unwrap()).unwrap();
    let mut with_token = settings(&agent.http_address());
    with_token.token = Some(ConsulToken::File(path.clone()));
    wait(async {
        let store = store_of(&with_token, "lb-1", keyring(1));
        assert_eq!(store.write(put(INDEX, b"{}", 0)).await, Ok(Written::Done));
        let error = store.lock(LOCK).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
        let needed = r#"session_prefix "" { policy = "write" }"#;
        assert!(error.to_string().contains(needed), "{error}");
        std::fs::write(&path, MASTER_TOKEN).unwrap();
        let _ = locked(&store, LOCK).await;

        let none = store_of(&settings(&agent.http_address()), "lb-2", keyring(1));
        let refused = none.write(put(PLAIN, b"{}", 0)).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
        let refused = none.read_many(&[INDEX.to_owned()]).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
    });
    let _ = std::fs::remove_file(path);
}

/// Lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn with(&self, words: &str) -> usize {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8_lossy(&bytes).matches(words).count()
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn each_loss_of_the_right_to_announce_is_told_once() {
    const RIGHTS: &str = "key_prefix \\\"\\\" { policy = \\\"write\\\" } session_prefix \\\"\\\" { policy = \\\"write\\\" }";
    let agent = Agent::start_with(ACL_DENY);
    let token = agent.new_token(RIGHTS);
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
    let _log = tracing::subscriber::set_default(subscriber.finish());
    wait(async {
        let mut settings = settings(&agent.http_address());
        settings.token = Some(ConsulToken::Value(token.secret.clone()));
        let store = store_of(&settings, "lb-1", None);
        for losses in 1..=2 {
            agent.change_rights(&token, RIGHTS);
            let said = format!("well {losses}");
            store.announce(said.clone().into());
            let path = format!("/v1/kv/{POD}/nodes/lb-1?raw");
            let stands = || agent.try_call("GET", &path, b"").unwrap().body;
            until("it is written", || stands() == said).await;
            agent.take_rights(&token);
            store.announce(format!("not well {losses}").into());
            until("it is told", || {
                lines.with("nodes/lb-1 is not written") == losses
            })
            .await;
        }
    });
}
