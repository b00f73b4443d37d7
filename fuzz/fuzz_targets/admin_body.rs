//! What is asked of the admin listener becomes an order that is told in one line, or a refusal; what was asked reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::admin::orders::{
    CertificateRequest, CertificateVerb, MAX_BY_LEN, MAX_DRAIN, Request, Verb, described,
    parse_span,
};
use rota::admin::shift::{self, ShiftRequest, parse_weights};
use rota::admin::staging::{ApplyRequest, DiffRequest, MAX_NOTE_LEN, RollbackRequest};
use rota::routing::group::{MAX_GROUP_WEIGHT, MAX_GROUPS};
use rota::routing::operator::{MAX_ACCEPT, Order};
use rota::routing::staged::{Staged, Staging, Word};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// As the listener reads a body.
fn read<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(body).ok()?;
    let written = serde_json::to_vec(&read).expect("texts and numbers are json");
    assert_eq!(
        serde_json::from_slice::<T>(&written).as_ref().ok(),
        Some(&read)
    );
    Some(read)
}

fn is_one_line(text: &str) -> bool {
    !text.contains(char::is_control)
}

/// The error names what is wrong, and cannot forge a line of a log.
fn told<T>(result: Result<T, String>) -> Option<T> {
    if let Err(message) = &result {
        assert!(!message.is_empty() && is_one_line(message), "{message:?}");
    }
    result.ok()
}

fn check_word(word: &Word) {
    assert!((1..=MAX_BY_LEN).contains(&word.by.len()) && is_one_line(&word.by));
    assert!(word.note.len() <= MAX_NOTE_LEN && is_one_line(&word.note));
}

fn order(body: &[u8], verb: Verb) {
    let Some(order) = read::<Request>(body).and_then(|request| told(request.into_order(verb)))
    else {
        return;
    };
    assert!(is_one_line(&described(&order)));
    match (verb, order) {
        (Verb::Drain, Order::Drain { by, lasting, .. }) => {
            assert!(is_one_line(&by) && lasting.is_none_or(|it| !it.is_zero() && it <= MAX_DRAIN));
        }
        (Verb::Accept, Order::Accept { lasting, .. }) => {
            assert!(!lasting.is_zero() && lasting <= MAX_ACCEPT)
        }
        (Verb::Undrain, Order::Undrain { .. }) => {}
        (verb, order) => panic!("{verb:?} became {order:?}"),
    }
}

fn staging(staging: Option<Staging>) {
    match staging {
        Some(Staging::Apply { word, .. } | Staging::Rollback { word, .. }) => check_word(&word),
        Some(
            Staging::Plan(_)
            | Staging::Canary
            | Staging::EndCanary { .. }
            | Staging::History
            | Staging::Diff { .. },
        )
        | None => {}
    }
}

fn shift(body: &[u8]) {
    let order = read::<ShiftRequest>(body).and_then(|request| told(request.into_order()));
    if let Some(order) = order {
        assert!(
            (1..=MAX_GROUPS).contains(&order.weights.len())
                && is_one_line(&shift::described(&order))
        );
        assert!(
            order
                .weights
                .values()
                .all(|weight| *weight <= MAX_GROUP_WEIGHT)
        );
    }
}

/// As people write them on a command line.
fn texts(text: &str) {
    if let Some(weights) = told(parse_weights(text)) {
        let parts: Vec<String> = weights
            .iter()
            .map(|(name, weight)| format!("{name}={weight}"))
            .collect();
        assert_eq!(parse_weights(&parts.join(",")), Ok(weights));
    }
    if let Some(span) = told(parse_span(text)) {
        assert_eq!(parse_span(&format!("{}s", span.as_secs())), Ok(span));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, body)) = input.split_first() else {
        return;
    };
    match kind {
        b'd' => order(body, Verb::Drain),
        b'u' => order(body, Verb::Undrain),
        b'a' => order(body, Verb::Accept),
        b'c' => {
            for verb in [
                CertificateVerb::Renew,
                CertificateVerb::Revoke,
                CertificateVerb::Rekey,
            ] {
                let order = read::<CertificateRequest>(body)
                    .and_then(|request| told(request.into_order(verb)));
                assert!(order.is_none_or(|(_, said)| is_one_line(&said)));
            }
        }
        b's' => shift(body),
        b'p' => staging(read::<Staged>(body).map(Staging::Plan)),
        b'A' => {
            staging(read::<ApplyRequest>(body).and_then(|request| told(request.into_staging())))
        }
        b'D' => staging(read::<DiffRequest>(body).map(DiffRequest::into_staging)),
        b'R' => {
            staging(read::<RollbackRequest>(body).and_then(|request| told(request.into_staging())))
        }
        b't' => texts(std::str::from_utf8(body).unwrap_or_default()),
        _ => {}
    }
});
