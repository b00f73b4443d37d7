//! A kept file is read as it was written or not at all, and what is read of its content is written as the same.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use rota::control::kept::format::{Head, Seal, Unusable, moment, read, write};
use rota::control::kept::table::Table;
use rota::seal::{Digest, Keyring, Secret};

const NAME: &str = "table";
const PREFIX: &str = "rota/p";

static KEYS: LazyLock<Keyring> = LazyLock::new(|| Keyring::of(&[Secret::from_bytes([1; 32])]));

fn read_here(text: &[u8], keys: Option<&Keyring>) -> Result<(Head, Vec<u8>, Seal), Unusable> {
    read(NAME, PREFIX, text, keys).map(|(head, content, seal)| (head, content.to_vec(), seal))
}

fn written_reads_the_same(head: &Head, content: &[u8], keys: Option<&Keyring>) {
    let text = write(head, content, keys);
    let read = read_here(&text, keys);
    assert_eq!(read, Ok((head.clone(), content.to_vec(), Seal::Current)));
    let (_, cut) = text.split_last().expect("it has a first line");
    assert!(read_here(cut, keys).is_err(), "cut short");
}

fn table(content: &[u8]) {
    let heard = SystemTime::UNIX_EPOCH;
    let Ok(table) = Table::read(content, heard) else {
        return;
    };
    assert_eq!(Table::read(&table.to_text(), heard), Ok(table.clone()));
    assert!(!table.extent().is_empty());
    let _ = table.pod_id();
}

// The first byte: `r`, and a file as it lies there; `b`, and what follows a first line that fits; else a table.
fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let with_first_line;
    let text = match kind {
        b'r' => rest,
        b'b' => {
            let first = format!("rota-kept 1 {}\n", Digest::of(rest).to_hex());
            with_first_line = [first.as_bytes(), rest].concat();
            &with_first_line
        }
        _ => {
            table(rest);
            let head = Head {
                name: NAME.into(),
                node: String::from_utf8_lossy(rest).into(),
                prefix: PREFIX.into(),
                of_ms: rest.len() as u64,
                written_ms: u64::MAX,
            };
            written_reads_the_same(&head, rest, None);
            return written_reads_the_same(&head, rest, Some(&KEYS));
        }
    };
    let read = read_here(text, None);
    let with_keys = read_here(text, Some(&KEYS));
    if let Ok((head, content, seal)) = &read {
        assert!(*seal == Seal::Current && head.name == NAME && head.prefix == PREFIX);
        let outdated = (head.clone(), content.clone(), Seal::Outdated);
        assert_eq!(
            with_keys,
            Ok(outdated),
            "in the clear although there is a key"
        );
        assert!(
            moment(head.of_ms)
                .checked_add(std::time::Duration::from_secs(1 << 32))
                .is_some()
        );
        written_reads_the_same(head, content, None);
        table(content);
    } else {
        assert!(with_keys.is_err(), "nobody sealed it");
        assert!(read.is_err_and(|why| !why.to_string().contains('\n')));
    }
});
