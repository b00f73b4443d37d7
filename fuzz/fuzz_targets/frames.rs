//! However a client's HTTP/2 frames fall into reads, the same is thought of them; and a plain reader of frames thinks so, too.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use rota::proxy::http2::meter::{Budget, Received};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Duration, Instant};

const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

thread_local! {
    /// Its clock stands: time gives nothing back.
    static CLOCK: Runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs no permission");
}

fn read(bytes: &[u8], sizes: &[u8]) -> Rc<Budget> {
    let budget = Budget::new(Instant::now(), Instant::now() + Duration::from_secs(1));
    let mut received = Received::new(budget.clone());
    let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |&size| size.into());
        let (piece, behind) = rest.split_at(size.clamp(1, rest.len()));
        received.came(piece);
        rest = behind;
    }
    budget
}

/// Of the last frame: a head may be under way.
fn is_part(bytes: &[u8]) -> bool {
    let (mut rest, mut is_open) = (bytes.get(PREFACE..).unwrap_or_default(), false);
    loop {
        let [a, b, c, kind, flags, _, _, _, _, behind @ ..] = rest else {
            return is_open || !rest.is_empty();
        };
        let is_of_head = matches!(*kind, HEADERS | CONTINUATION);
        if is_of_head {
            is_open = flags & 4 == 0;
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        match behind.get(length..) {
            Some(next) => rest = next,
            None => return is_open || is_of_head,
        }
    }
}

// Three sizes of reads, then what a client sends, its preface first.
fuzz_target!(|input: &[u8]| {
    let [sizes @ .., _, _, _] = &[input.get(..3).unwrap_or_default(), &[0; 3]].concat()[..] else {
        return;
    };
    let bytes = input.get(3..).unwrap_or_default();
    CLOCK.with(|clock| {
        let _entered = clock.enter();
        let whole = read(bytes, &[]);
        let pieces = read(bytes, sizes);
        assert_eq!(whole.verdict(), pieces.verdict());
        assert_eq!(whole.last(), pieces.last());
        let begins = bytes.get(PREFACE + 3..PREFACE + 5);
        if let (Some([kind, flags]), Some(_)) = (begins, bytes.get(PREFACE + 8)) {
            let is_good = *kind == SETTINGS && flags & 1 == 0;
            assert!(is_good || whole.verdict().is_some(), "settings come first");
        }
        if whole.verdict().is_none() {
            let seen = [&whole, &pieces].map(|budget| budget.heads().is_part());
            assert_eq!(seen, [is_part(bytes); 2]);
            assert_eq!(whole.heads().refused(), pieces.heads().refused());
        }
    });
});
