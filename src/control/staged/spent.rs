//! Operators' words that are over stay in KV until somebody takes them away: which they are. Pure.

use std::time::{Duration, SystemTime};

use crate::control::accepts;
use crate::control::consul::Document;
use crate::control::word::Word;

/// Below the pod's prefix: drains and acceptances.
pub const OPERATOR: &str = "operator/";
/// How long a word has to be over: as far as clocks may be apart, and as long as one may still hold for who heard of it late.
const REST: Duration = Duration::from_secs(3600);

/// Keys below the prefix, with their versions, of words that bind nobody any more. `documents` are all below [`OPERATOR`], named by
/// what follows it. What cannot be read is an operator's to mend.
pub fn spent(documents: &[Document], now: SystemTime) -> Vec<(String, u64)> {
    let is_spent = |document: &&Document| {
        let Ok(word) = Word::from_json(&document.value) else {
            return false;
        };
        let until = match document.name.split_once('/') {
            Some(("drain", _)) => word.until,
            Some(("accept", _)) => Some(word.at + accepts::lasting(&word)),
            _ => None,
        };
        until.is_some_and(|until| until + REST < now)
    };
    let key = |document: &Document| {
        let key = format!("{OPERATOR}{}", document.name);
        (key, document.modify_index)
    };
    documents.iter().filter(is_spent).map(key).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn only_what_ended_an_hour_ago_is_spent_and_never_a_drain_without_an_end() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let document = |name: &str, span: Option<u64>, index| Document {
            name: name.into(),
            value: Word::begun("ops".into(), at(1_000), span.map(Duration::from_secs))
                .to_json()
                .into(),
            create_index: index,
            modify_index: index,
            is_locked: false,
        };
        let broken = Document {
            value: (*b"{").into(),
            ..document("drain/broken", Some(1), 9)
        };
        let all = [
            document("drain/shop", Some(60), 1),
            document("drain/blog", None, 2),
            document("accept/shop/10.0.0.1:80", Some(60), 3),
            document("accept/@documents", Some(600), 4),
            document("other/thing", Some(1), 5),
            broken,
        ];
        assert!(spent(&all, at(4_660)).is_empty());
        let first = [
            ("operator/drain/shop", 1),
            ("operator/accept/shop/10.0.0.1:80", 3),
        ];
        let keys = |now| spent(&all, at(now));
        let owned = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            pairs
                .iter()
                .map(|&(key, index)| (key.to_owned(), index))
                .collect()
        };
        assert_eq!(keys(4_661), owned(&first));
        let later = [&first[..], &[("operator/accept/@documents", 4)]].concat();
        assert_eq!(keys(100_000), owned(&later));
    }
}
