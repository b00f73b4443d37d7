//! Another version of a document's text in which only `groups` differs: comments, order and blanks of all else stay as they were.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::document;
use super::model::ServiceEntry;
use super::syntax::{KeyPlace, places_in_table};
use crate::routing::{GroupName, Groups};

const KEY: &str = "groups";

/// A service's document with other weights of its groups. Its own groups that `weights` does not name have 0 from now on.
///
/// # Errors
/// The document is wrong as it stands; weights that no document may have; a text that cannot be rewritten without changing more.
pub fn with_groups(
    name: &str,
    bytes: &[u8],
    weights: &BTreeMap<GroupName, u32>,
) -> Result<(Vec<u8>, Groups), String> {
    let entry = document::service(name, bytes)
        .map_err(|mistakes| format!("it is wrong as it stands: {mistakes}"))?;
    let groups = shifted(entry.groups.as_ref(), weights)?;
    let text = std::str::from_utf8(bytes).expect("what was read is UTF-8");
    let rewritten = match text.trim_start().starts_with('{') {
        true => in_json(text, &groups),
        false => in_toml(text, &groups),
    };
    let wanted = ServiceEntry {
        groups: Some(groups.clone()),
        ..entry
    };
    let says_the_same = |text: &String| {
        let read = document::service(name, text.as_bytes());
        read.is_ok_and(|read| read == wanted)
    };
    match rewritten.filter(says_the_same) {
        Some(text) => Ok((text.into_bytes(), groups)),
        None => Err("its text has a form that cannot be rewritten here".to_owned()),
    }
}

/// The groups that a service has after a shift: its own at 0, but for those named.
///
/// # Errors
/// What keeps them from being groups.
pub fn shifted(
    before: Option<&Groups>,
    weights: &BTreeMap<GroupName, u32>,
) -> Result<Groups, String> {
    let own = before.into_iter().flat_map(Groups::iter);
    let mut after: BTreeMap<GroupName, u32> = own.map(|(name, _)| (name.clone(), 0)).collect();
    after.extend(weights.iter().map(|(name, &weight)| (name.clone(), weight)));
    Groups::new(after).ok_or_else(|| {
        "expected groups of which one has a weight above 0, not more than 32 with those of before".to_owned()
    })
}

/// Each weight where it stands; what is new at the table's beginning, as its first line, or in a first line of the text.
fn in_toml(text: &str, groups: &Groups) -> Option<String> {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let places = places_in_table(text, KEY)?;
    let Some(first) = places.keys.iter().min_by_key(|place| place.key.start) else {
        return Some(format!("{KEY} = {}\n{text}", inline(groups)));
    };
    let place_of = |name: &GroupName| -> Option<&KeyPlace> {
        places.keys.iter().find(|place| place.name == name.as_str())
    };
    let is_inline = text.as_bytes().get(places.table.start) == Some(&b'{');
    for (name, weight) in groups.iter() {
        match place_of(name) {
            Some(place) => edits.push((place.value.clone(), weight.to_string())),
            None if is_inline => {
                let after_brace = places.table.start + 1;
                edits.push((
                    after_brace..after_brace,
                    format!(" {} = {weight},", quoted(name)),
                ));
            }
            None => {
                let line = text[..first.key.start].rfind('\n').map_or(0, |end| end + 1);
                let before_key = &text[line..first.key.start];
                let text = format!("{before_key}{} = {weight}\n", quoted(name));
                edits.push((line..line, text));
            }
        }
    }
    edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut out = text.to_owned();
    for (range, new) in edits {
        out.replace_range(range, &new);
    }
    Some(out)
}

#[derive(Deserialize)]
struct JsonDocument<'a> {
    #[serde(borrow)]
    groups: Option<&'a RawValue>,
}

/// The value whole; with none before, as the first key.
fn in_json(text: &str, groups: &Groups) -> Option<String> {
    let object: BTreeMap<&str, u32> = groups
        .iter()
        .map(|(name, weight)| (name.as_str(), weight))
        .collect();
    let new = serde_json::to_string(&object).ok()?;
    let read: JsonDocument<'_> = serde_json::from_str(text).ok()?;
    let mut out = text.to_owned();
    match read.groups {
        Some(old) => {
            let start = old.get().as_ptr() as usize - text.as_ptr() as usize;
            out.replace_range(start..start + old.get().len(), &new);
        }
        None => out.insert_str(text.find('{')? + 1, &format!("\"{KEY}\": {new}, ")),
    }
    Some(out)
}

/// `{ blue = 90, green = 10 }`
fn inline(groups: &Groups) -> String {
    let pair = |(name, weight): (&GroupName, u32)| format!("{} = {weight}", quoted(name));
    let pairs: Vec<String> = groups.iter().map(pair).collect();
    format!("{{ {} }}", pairs.join(", "))
}

/// A dot would divide a key.
fn quoted(name: &GroupName) -> String {
    match name.as_str().contains('.') {
        true => format!("\"{name}\""),
        false => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weights(pairs: &[(&str, u32)]) -> BTreeMap<GroupName, u32> {
        pairs
            .iter()
            .map(|&(name, weight)| (name.into(), weight))
            .collect()
    }

    fn after(text: &str, pairs: &[(&str, u32)]) -> String {
        let (bytes, _) = with_groups("shop", text.as_bytes(), &weights(pairs)).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn comments_order_and_blanks_of_toml_stay_whatever_its_form() {
        let green = [("green", 100)];
        for (before, expected) in [
            (
                "# ours\nconsul = { service = \"shop\" }\n\ngroups   = {blue = 90 , green=10} # canary\npool = 7\n",
                "# ours\nconsul = { service = \"shop\" }\n\ngroups   = {blue = 0 , green=100} # canary\npool = 7\n",
            ),
            (
                "consul = { service = \"shop\" }\n[groups]\n  # old\n  blue = 1 # one\n[health.active]\n",
                "consul = { service = \"shop\" }\n[groups]\n  # old\n  green = 100\n  blue = 0 # one\n[health.active]\n",
            ),
            (
                "groups.\"blue\" = 1\nconsul = { service = \"shop\" }\n",
                "groups.green = 100\ngroups.\"blue\" = 0\nconsul = { service = \"shop\" }\n",
            ),
            (
                "# ours\r\nconsul.service = \"shop\"\r\n",
                "groups = { green = 100 }\n# ours\r\nconsul.service = \"shop\"\r\n",
            ),
            (
                "groups={blue=1}\nconsul.service = \"shop\"",
                "groups={ green = 100,blue=0}\nconsul.service = \"shop\"",
            ),
        ] {
            assert_eq!(after(before, &green), expected);
        }
    }

    #[test]
    fn json_keeps_its_order_and_gets_the_new_weights() {
        let before =
            "{\"consul\":  {\"service\": \"shop\"}, \"groups\": {\"blue\": 1},\n \"pool\": 7}";
        assert_eq!(
            after(before, &[("green", 2), ("a.b", 3)]),
            "{\"consul\":  {\"service\": \"shop\"}, \"groups\": {\"a.b\":3,\"blue\":0,\"green\":2},\n \"pool\": 7}"
        );
        assert_eq!(
            after(" {\"consul\": {\"service\": \"shop\"}}", &[("green", 2)]),
            " {\"groups\": {\"green\":2}, \"consul\": {\"service\": \"shop\"}}"
        );
    }

    #[test]
    fn what_no_document_may_say_is_refused() {
        let refused = |text: &str, pairs: &[(&str, u32)]| {
            with_groups("shop", text.as_bytes(), &weights(pairs)).unwrap_err()
        };
        let fine = "servers = [{ address = \"a:1\", group = \"blue\" }]\ngroups = { blue = 1 }";
        assert!(refused(fine, &[("blue", 0)]).contains("above 0"));
        assert!(refused("serverz = 1", &[("blue", 1)]).starts_with("it is wrong as it stands"));
        // Nobody would serve.
        assert!(refused(fine, &[("green", 1)]).contains("cannot be rewritten"));
    }

    proptest! {
        #[test]
        fn only_the_groups_differ(
            before in prop::collection::btree_map("[a-c.]{1,3}", 0u32..9, 0..4),
            after in prop::collection::btree_map("[a-c.]{1,3}", 1u32..9, 1..4),
            form in 0usize..3,
        ) {
            prop_assume!(before.is_empty() || before.values().any(|&weight| weight > 0));
            let line = |(name, weight): (&String, &u32)| format!("\"{name}\" = {weight}");
            let lines: Vec<String> = before.iter().map(line).collect();
            let rest = "pool = 3\nconsul.service = \"shop\"\n";
            let text = match (form, before.is_empty()) {
                (_, true) => rest.to_owned(),
                (0, _) => format!("groups = {{ {} }}\n{rest}", lines.join(", ")),
                (1, _) => format!("{rest}[groups]\n{}\n[retry]\n", lines.join("\n")),
                (_, _) => format!("groups.{}\n{rest}", lines.join("\ngroups.")),
            };
            let after: BTreeMap<GroupName, u32> = after.iter().map(|(name, &weight)| (name.as_str().into(), weight)).collect();
            let (bytes, groups) = with_groups("shop", text.as_bytes(), &after).unwrap();
            let read = document::service("shop", &bytes).unwrap();
            for (name, weight) in read.groups.as_ref().unwrap().iter() {
                prop_assert_eq!(weight, after.get(name).copied().unwrap_or(0));
            }
            prop_assert_eq!(read.groups, Some(groups));
        }
    }
}
