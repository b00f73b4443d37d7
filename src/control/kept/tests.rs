//! Files below a state directory of the test's own: what lies there, who may read it, and what trouble leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::control::tests::{passing, watch as app};
use crate::seal::Secret;

/// Gone with the value.
struct State(PathBuf);

impl State {
    fn new() -> State {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("rota-kept-{}-{number}", std::process::id());
        State(std::env::temp_dir().join(name))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(FOLDER).join(name)
    }

    /// With a key file of these keys; none: without one.
    fn open(&self, keys: &[u8]) -> Opened {
        let (sender, keyrings) = watch::channel(ring(keys));
        let owner = Owner {
            node: "lb-1".into(),
            prefix: "rota/p".into(),
        };
        let keeper = Keeper::open(&self.0, owner, keyrings, Arc::new(Vitals::new(1)));
        Opened { keeper, sender }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A keeper whose writer is the test.
struct Opened {
    keeper: Keeper,
    sender: watch::Sender<Option<Arc<Keyring>>>,
}

impl Opened {
    fn keep(&self, name: &str, text: &[u8]) {
        self.keeper
            .keep(name, Content::Text(Plain::new(text.to_vec())));
        self.write();
    }

    fn write(&self) {
        let _ = self.keeper.write_some();
    }

    fn recall(&self, name: &str) -> Option<Vec<u8>> {
        self.keeper.recall(name).map(|(_, text)| text.to_vec())
    }

    /// What is wrong with a file, in words.
    fn trouble(&self, name: &str) -> Option<String> {
        let troubles = self.keeper.troubles();
        let troubles = troubles.borrow();
        let trouble = troubles.get(&self.keeper.path(name))?;
        assert!(trouble.entry.starts_with("state:"), "{trouble:?}");
        Some(format!("{} ({})", trouble.message, trouble.in_force))
    }

    fn failed(&self) -> u64 {
        self.keeper.0.vitals.state_failed.load(Relaxed)
    }
}

fn ring(keys: &[u8]) -> Option<Arc<Keyring>> {
    let secrets: Vec<Secret> = keys.iter().map(|b| Secret::from_bytes([*b; 32])).collect();
    (!secrets.is_empty()).then(|| Arc::new(Keyring::of(&secrets)))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn table() -> Table {
    Table {
        names: Vec::new(),
        heard: SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_123),
        services: vec![(app(), passing(&["10.0.0.1:80"]).into())],
        documents: Vec::new(),
        tagged: Vec::new(),
    }
}

#[test]
fn what_was_kept_is_recalled_by_the_next_process_readable_by_its_owner_alone() {
    let state = State::new();
    let opened = state.open(&[1]);
    opened.keep("acme/certs/a.test", b"secret");
    opened.keeper.keep(TABLE, Content::Table(Box::new(table())));
    opened.write();
    for name in [TABLE, "acme/certs/a.test"] {
        let path = state.file(name);
        assert_eq!(mode(&path), 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains("secret") && !text.contains("10.0.0.1"),
            "{text}"
        );
    }
    for folder in ["", "acme", "acme/certs"] {
        assert_eq!(mode(&state.file(folder)), 0o700, "{folder}");
    }
    drop(opened);
    let again = state.open(&[1]);
    assert_eq!(again.keeper.recall_table().unwrap(), table());
    let below = again.keeper.recall_below("acme/certs/");
    assert_eq!(below.len(), 1);
    assert_eq!(
        (&*below[0].0, &below[0].1[..]),
        ("acme/certs/a.test", &b"secret"[..])
    );
    assert!(again.keeper.troubles().borrow().is_empty());
}

#[test]
fn without_a_key_file_files_are_plain_and_their_owners() {
    let state = State::new();
    state.open(&[]).keep("a", b"in the clear");
    let text = fs::read_to_string(state.file("a")).unwrap();
    assert!(text.ends_with("in the clear"), "{text}");
    assert_eq!(mode(&state.file("a")), 0o600);
}

#[test]
fn a_damaged_foreign_or_closed_file_is_named_and_costs_itself_alone() {
    let state = State::new();
    let opened = state.open(&[1]);
    for name in ["well", "cut", "changed", "later", "closed", "foreign"] {
        opened.keep(name, b"text");
    }
    let text = |name| fs::read_to_string(state.file(name)).unwrap();
    fs::write(state.file("cut"), &text("cut")[..40]).unwrap();
    fs::write(
        state.file("changed"),
        text("changed").replace("rota1:", "rota9:"),
    )
    .unwrap();
    fs::write(state.file("later"), text("later").replacen(" 1 ", " 7 ", 1)).unwrap();
    fs::copy(state.file("well"), state.file("foreign")).unwrap();
    drop(opened);
    state.open(&[2]).keep("other", b"x");
    let again = state.open(&[1]);
    fs::copy(state.file("other"), state.file("closed")).unwrap();
    assert_eq!(again.recall("well").unwrap(), b"text");
    for (name, why) in [
        ("cut", "damaged"),
        ("changed", "checksum"),
        ("later", "format 7"),
        ("closed", "which the key file does not have"),
        ("foreign", "sealed for another place"),
    ] {
        assert_eq!(again.recall(name), None, "{name}");
        let trouble = again.trouble(name).unwrap();
        assert!(
            trouble.contains(why) && trouble.ends_with("(ignored)"),
            "{trouble}"
        );
    }
    assert_eq!(
        (again.recall("absent"), again.trouble("absent")),
        (None, None)
    );
    again.keep("cut", b"new");
    assert_eq!(
        (again.recall("cut").unwrap(), again.trouble("cut")),
        (b"new".to_vec(), None)
    );
}

#[test]
fn the_same_is_not_written_twice_unless_it_is_of_another_moment() {
    let state = State::new();
    let opened = state.open(&[]);
    let keep = |content| {
        opened.keeper.keep(TABLE, content);
        opened.write();
        fs::read(state.file(TABLE)).unwrap()
    };
    let first = keep(Content::Table(Box::new(table())));
    let mut later = table();
    later.heard += std::time::Duration::from_secs(60);
    assert_eq!(keep(Content::Table(Box::new(later.clone()))), first);
    opened
        .keeper
        .keep_anew(TABLE, Content::Table(Box::new(later.clone())));
    opened.write();
    assert_eq!(opened.keeper.recall_table().unwrap(), later);
}

#[test]
fn a_key_that_is_moved_up_seals_what_was_kept_so_that_the_old_one_can_go() {
    let state = State::new();
    let opened = state.open(&[1]);
    opened.keep("a", b"secret");
    opened.sender.send_replace(ring(&[2, 1]));
    opened.keeper.look_at_seals();
    opened.write();
    drop(opened);
    assert_eq!(state.open(&[2]).recall("a").unwrap(), b"secret");
}

#[test]
fn what_a_disk_refuses_is_named_counted_and_written_once_it_can_be() {
    let state = State::new();
    let opened = state.open(&[]);
    // A folder stands where the file is to be.
    fs::create_dir(state.file("a")).unwrap();
    opened.keep("b", b"before");
    opened.keep("a", b"text");
    let trouble = opened.trouble("a").unwrap();
    assert!(
        trouble.contains("not kept") && trouble.ends_with("(last good version)"),
        "{trouble}"
    );
    assert_eq!(opened.failed(), 1);
    assert_eq!(opened.recall("b").unwrap(), b"before");
    opened.keep("b", b"after");
    assert_eq!(opened.recall("b").unwrap(), b"after", "others go on");
    fs::remove_dir(state.file("a")).unwrap();
    opened.write();
    assert_eq!(
        (opened.recall("a").unwrap(), opened.trouble("a")),
        (b"text".to_vec(), None)
    );
    let left: Vec<_> = fs::read_dir(state.file("")).unwrap().collect();
    assert_eq!(left.len(), 2, "no halves: {left:?}");
}

#[test]
fn what_is_larger_than_the_limit_is_named_and_leaves_what_was_there() {
    let state = State::new();
    let opened = state.open(&[]);
    opened.keep("a", b"small");
    opened.keep("a", &vec![b'x'; MAX_BYTES]);
    assert!(
        opened
            .trouble("a")
            .unwrap()
            .contains("at most 67108864 are kept")
    );
    assert_eq!(
        (opened.recall("a").unwrap(), opened.failed()),
        (b"small".to_vec(), 1)
    );
    assert!(
        opened.keeper.0.pending.lock().unwrap().is_empty(),
        "it would stay so"
    );
}

#[test]
fn a_second_process_reads_and_writes_once_the_first_has_gone() {
    let state = State::new();
    let first = state.open(&[]);
    first.keep("a", b"one");
    let second = state.open(&[]);
    second.keep("a", b"two");
    assert_eq!(second.recall("a").unwrap(), b"one");
    let troubles = second.keeper.troubles().borrow().clone();
    let said: Vec<&str> = troubles.values().map(|one| &*one.message).collect();
    assert_eq!(
        said,
        ["nothing is kept: another rota process uses this state directory"]
    );
    drop(first);
    second.write();
    assert_eq!(second.recall("a").unwrap(), b"two");
    assert!(second.keeper.troubles().borrow().is_empty());
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named_and_keeps_nobody_from_serving() {
    let state = State::new();
    fs::write(&state.0, b"a file").unwrap();
    let opened = state.open(&[]);
    opened.keep("a", b"text");
    let troubles = opened.keeper.troubles().borrow().clone();
    assert!(
        troubles
            .values()
            .all(|one| one.message.starts_with("nothing is kept: "))
    );
    assert_eq!((opened.recall("a"), opened.failed()), (None, 1));
    fs::remove_file(&state.0).unwrap();
}

#[test]
fn what_was_being_written_when_a_process_died_is_removed() {
    let state = State::new();
    drop(state.open(&[]));
    let half = super::super::durable::fresh(&state.file("a"));
    fs::write(&half, b"hal").unwrap();
    let opened = state.open(&[]);
    assert!(!half.exists());
    assert_eq!(opened.recall("a"), None);
}

#[tokio::test]
async fn the_writer_writes_the_newest_by_itself() {
    let state = State::new();
    let (_sender, keyrings) = watch::channel(None);
    let owner = Owner {
        node: "lb-1".into(),
        prefix: "rota/p".into(),
    };
    let keeper = Keeper::start(&state.0, owner, keyrings, Arc::new(Vitals::new(1)));
    for number in 0..100 {
        let text = Plain::new(format!("{number}").into_bytes());
        keeper.keep("a", Content::Text(text));
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while keeper.recall("a").map(|(_, text)| text.to_vec()).as_deref() != Some(b"99") {
        assert!(std::time::Instant::now() < deadline, "never");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    keeper.keep("a", Content::Nothing);
    while state.file("a").exists() {
        assert!(std::time::Instant::now() < deadline, "never");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
