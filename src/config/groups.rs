//! `groups` of a service and `group` of a server: blue and green, and the weight of each.

use std::collections::BTreeMap;

use super::model::{ServerEntry, ServerSource};
use super::section::Section;
use crate::routing::GroupName;
use crate::routing::group::{Groups, MAX_GROUP_WEIGHT, MAX_GROUPS};

/// What [`GroupName::parse`] takes, in words.
pub(super) const GROUP_NAME: &str = "1 to 64 of the characters A-Z a-z 0-9 . _ -";

/// The tag of an instance in Consul that names its group: `rota.group=blue`.
pub const GROUP_TAG: &str = "rota.group=";

/// `groups = { blue = 90, green = 10 }`; absent: the service is not divided.
pub(super) fn read(from: &Section<'_>, source: Option<&ServerSource>) -> Option<Groups> {
    let table = from.free_table("groups")?;
    let mut weights = BTreeMap::new();
    for key in table.keys() {
        let weight = table.number(key, 0..=MAX_GROUP_WEIGHT);
        match (GroupName::parse(key), weight) {
            (Some(name), Some(weight)) => drop(weights.insert(name, weight)),
            (Some(_), None) => return None,
            (None, _) => {
                table.blame_key(key, format!("no name of a group: expected {GROUP_NAME}"));
                return None;
            }
        }
    }
    let Some(groups) = Groups::new(weights) else {
        let problem = format!("expected 1 to {MAX_GROUPS} groups, one of a weight above 0");
        from.blame_key("groups", problem);
        return None;
    };
    if let Some(ServerSource::Servers(servers)) = source {
        let has_turns =
            |server: &ServerEntry| server.weight > 0 && groups.weight_of(server.group.as_ref()) > 0;
        if !servers.iter().any(has_turns) {
            let problem = "no server is of a group with a weight above 0: nobody would serve";
            from.blame_key("groups", problem);
        }
    }
    Some(groups)
}

/// `group` of a server; absent: it is of none.
pub(super) fn read_group(from: &Section<'_>) -> Option<GroupName> {
    from.text("group", GROUP_NAME, GroupName::parse)
}

/// The group that an instance in Consul names: by its tag, else by its meta `rota-group`. The error is a message.
pub fn of_instance(tags: &[String], meta: Option<&str>) -> Result<Option<GroupName>, String> {
    let mut named = tags.iter().filter_map(|tag| tag.strip_prefix(GROUP_TAG));
    let (first, second) = (named.next(), named.next());
    if let (Some(first), Some(second)) = (first, second)
        && first != second
    {
        return Err("it has two tags rota.group: expected one".to_owned());
    }
    let Some(text) = first.or(meta) else {
        return Ok(None);
    };
    match GroupName::parse(text) {
        Some(group) => Ok(Some(group)),
        None => {
            let shown = super::mistake::shown(text);
            Err(format!("rota.group = {shown}: expected {GROUP_NAME}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instances_group_is_its_tags_else_its_metas() {
        let tags = |texts: &[&str]| -> Vec<String> {
            texts.iter().map(|text| (*text).to_owned()).collect()
        };
        let named = |texts: &[&str], meta| {
            of_instance(&tags(texts), meta).map(|group| group.map(|group| group.to_string()))
        };
        assert_eq!(named(&["v2"], None), Ok(None));
        assert_eq!(
            named(&["v2", "rota.group=blue"], None),
            Ok(Some("blue".into()))
        );
        assert_eq!(
            named(&["rota.group=blue"], Some("red")),
            Ok(Some("blue".into()))
        );
        assert_eq!(
            named(&["rota.groupies=x"], Some("red")),
            Ok(Some("red".into()))
        );
        assert_eq!(
            named(&["rota.group=a", "rota.group=a"], None),
            Ok(Some("a".into()))
        );
        for wrong in [
            &["rota.group="][..],
            &["rota.group=a b"],
            &["rota.group=a", "rota.group=b"],
        ] {
            assert!(named(wrong, Some("red")).is_err(), "{wrong:?}");
        }
    }
}
