//! The order for other shares between a service's groups: from text or JSON to a [`ShiftOrder`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::orders::checked_by;
use crate::routing::group::{MAX_GROUP_WEIGHT, MAX_GROUPS};
use crate::routing::operator::ShiftOrder;
use crate::routing::{GroupName, ServiceName};

/// The body of `POST /v1/shift`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftRequest {
    pub service: String,
    /// Weights; the service's groups that are not named get nothing.
    pub groups: BTreeMap<String, u32>,
    /// Who wants it, for the log.
    pub by: String,
}

impl ShiftRequest {
    /// The order, with every part checked but whether its service and groups exist. The error is a message.
    pub fn into_order(self) -> Result<ShiftOrder, String> {
        let service = ServiceName::parse(&self.service)
            .ok_or_else(|| format!("{:?} is no service's name", self.service))?;
        if self.groups.is_empty() || self.groups.len() > MAX_GROUPS {
            return Err(format!("\"groups\" are 1 to {MAX_GROUPS}"));
        }
        let weights = self
            .groups
            .iter()
            .map(|(name, &weight)| checked(name, weight))
            .collect::<Result<_, _>>()?;
        Ok(ShiftOrder {
            service,
            weights,
            by: checked_by(&self.by)?,
        })
    }
}

fn checked(name: &str, weight: u32) -> Result<(GroupName, u32), String> {
    let group = GroupName::parse(name).ok_or_else(|| {
        format!("{name:?} is no group's name: it is 1 to 64 of A-Z a-z 0-9 . _ -")
    })?;
    match weight <= MAX_GROUP_WEIGHT {
        true => Ok((group, weight)),
        false => Err(format!(
            "{name}={weight}: a weight is at most {MAX_GROUP_WEIGHT}"
        )),
    }
}

/// Takes `green=100` or `blue=90,green=10`. The error is a message.
pub fn parse_weights(text: &str) -> Result<BTreeMap<String, u32>, String> {
    let mut weights = BTreeMap::new();
    for part in text.split(',') {
        let wrong =
            || format!("{part:?} is no GROUP=WEIGHT, with a weight from 0 to {MAX_GROUP_WEIGHT}");
        let (name, weight) = part.split_once('=').ok_or_else(wrong)?;
        let is_plain = !weight.is_empty() && weight.bytes().all(|b| b.is_ascii_digit());
        let weight = weight.parse().ok().filter(|_| is_plain).ok_or_else(wrong)?;
        checked(name, weight)?;
        if weights.insert(name.to_owned(), weight).is_some() {
            return Err(format!("group {name} twice"));
        }
    }
    Ok(weights)
}

/// An order as the log tells it: `shift shop to blue=0,green=100 by ops@lb`.
pub fn described(order: &ShiftOrder) -> String {
    let weight = |(name, weight): (&GroupName, &u32)| format!("{name}={weight}");
    let weights: Vec<String> = order.weights.iter().map(weight).collect();
    let by = order.by.escape_debug();
    format!("shift {} to {} by {by}", order.service, weights.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_names_and_plain_numbers() {
        let weights = parse_weights("blue=90,green=010").unwrap();
        assert_eq!(weights, [("blue".into(), 90), ("green".into(), 10)].into());
        for wrong in [
            "", "a", "a=", "a=1,", "a=1,a=1", "=1", "a=-1", "a=+1", "a=65536", "a=1%", "ä=1",
        ] {
            assert!(parse_weights(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_order_is_checked_and_told_as_it_is_given() {
        let request = |service: &str, groups: &[(&str, u32)], by: &str| ShiftRequest {
            service: service.into(),
            groups: groups
                .iter()
                .map(|&(name, weight)| (name.to_owned(), weight))
                .collect(),
            by: by.into(),
        };
        let order = request("shop", &[("green", 100)], "ops@lb")
            .into_order()
            .unwrap();
        assert_eq!(described(&order), "shift shop to green=100 by ops@lb");
        for wrong in [
            request("a b", &[("green", 1)], "ops"),
            request("shop", &[], "ops"),
            request("shop", &[("a b", 1)], "ops"),
            request("shop", &[("green", 70_000)], "ops"),
            request("shop", &[("green", 1)], " "),
        ] {
            assert!(wrong.clone().into_order().is_err(), "{wrong:?}");
        }
    }
}
