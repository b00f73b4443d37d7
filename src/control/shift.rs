//! Other shares for a service's groups: checked against what is known, then put into the text of the service's document. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::member::Member;
use super::model::Model;
use super::service_state::ServiceState;
use super::staged::live::Live;
use super::target;
use crate::config::rewrite::{shifted, with_groups};
use crate::routing::likeness::distance;
use crate::routing::operator::{OrderError, ShiftOrder, Target};
use crate::routing::{GroupName, Groups, ServiceName};

/// A shift that makes sense, as far as this LB knows.
#[derive(Clone, Debug)]
pub struct Shift {
    /// The document.
    key: String,
    service: ServiceName,
    weights: BTreeMap<GroupName, u32>,
    by: String,
}

/// Checks an order against what is known.
///
/// # Errors
/// A service or a group that nobody knows, with the nearest one; a service without a document; shares that would leave nobody to serve.
pub fn plan(model: &Model, order: ShiftOrder) -> Result<Shift, OrderError> {
    let ShiftOrder {
        service,
        weights,
        by,
    } = order;
    let found = target::check(model.services(), &Target::Service(service.clone()));
    found.map_err(OrderError::Unknown)?;
    if let Some(canary) = model.canary() {
        let message = format!(
            "a canary of {} is under way on {}: nothing else is changed until it ends",
            canary.by,
            canary.nodes.join(", ")
        );
        return Err(OrderError::Failed(message));
    }
    let state = &model.services()[&service];
    let prefix = model.prefix().ok_or_else(|| {
        OrderError::NoConsul("there is no [consul]: change the groups in the file, and HUP".into())
    })?;
    match state.origin() {
        "kv" => {}
        "file" => {
            let message = format!(
                "service {service} stands in the file, which wins over KV: change its groups there, and HUP"
            );
            return Err(OrderError::Failed(message));
        }
        _ => {
            let message = format!(
                "service {service} has no document to write groups into: put one at {prefix}/config/services/{service}"
            );
            return Err(OrderError::Failed(message));
        }
    }
    are_known(state, &weights).map_err(OrderError::Unknown)?;
    leaves_somebody(state, &weights).map_err(OrderError::Failed)?;
    Ok(Shift {
        key: format!("{prefix}/config/services/{service}"),
        service,
        weights,
        by,
    })
}

/// A group is known if the document or a server names it; to give nothing to one that is not costs nothing.
fn are_known(state: &ServiceState, weights: &BTreeMap<GroupName, u32>) -> Result<(), String> {
    let of_document = state.entry().groups.iter().flat_map(Groups::iter);
    let members = state.members().values();
    let of_servers = members.filter_map(|member| member.facts.group.as_ref());
    let known: BTreeSet<&GroupName> = of_document
        .map(|(name, _)| name)
        .chain(of_servers)
        .collect();
    let strange = weights
        .iter()
        .find(|(name, weight)| **weight > 0 && !known.contains(name));
    let Some((name, _)) = strange else {
        return Ok(());
    };
    let nearest = known
        .iter()
        .min_by_key(|known| distance(name.as_str(), known.as_str()));
    let service = &state.entry().name;
    Err(match nearest {
        Some(nearest) => format!(
            "no server of {service} is of group {name}; the nearest known name is {nearest}"
        ),
        None => format!("no server of {service} is of group {name}, nor of any other"),
    })
}

/// Requests that somebody serves now are not to be left to nobody.
fn leaves_somebody(state: &ServiceState, weights: &BTreeMap<GroupName, u32>) -> Result<(), String> {
    let groups = shifted(state.entry().groups.as_ref(), weights)?;
    let on = || {
        let members = state.members().values();
        members.filter(|member| member.standing.against().is_none() && member.weight() > 0)
    };
    let has_share = |member: &Member| groups.weight_of(member.facts.group.as_ref()) > 0;
    let is_somebody_now = on().any(|member| state.weight_of(member) > 0);
    if !is_somebody_now || on().any(has_share) {
        return Ok(());
    }
    let having: Vec<&str> = groups
        .iter()
        .filter(|&(_, weight)| weight > 0)
        .map(|(name, _)| name.as_str())
        .collect();
    let having = having.join(" or ");
    Err(format!(
        "no server of group {having} is on the rota: requests would be answered with 503"
    ))
}

/// A service's document with the wanted shares.
#[derive(Debug)]
pub struct Rewritten {
    /// Its path below `config/`.
    pub path: String,
    pub text: String,
    /// Of the text that it replaces.
    pub index: u64,
    /// What is done by it, in words.
    pub done: String,
    pub is_same: bool,
}

impl Shift {
    pub fn by(&self) -> &str {
        &self.by
    }

    /// As it is asked for: `shift shop green=100`.
    pub fn note(&self) -> String {
        let pair = |(name, weight): (&GroupName, &u32)| format!("{name}={weight}");
        let pairs: Vec<String> = self.weights.iter().map(pair).collect();
        format!("shift {} {}", self.service, pairs.join(","))
    }

    /// The service's document as it stands, with other groups.
    ///
    /// # Errors
    /// It is gone or cannot be rewritten.
    pub fn rewrite(&self, live: &Live) -> Result<Rewritten, OrderError> {
        let Shift { key, service, .. } = self;
        let path = format!("services/{service}");
        let failed = |why: &str| OrderError::Failed(format!("kv:{key}: {why}"));
        let document = live.get(&path).ok_or_else(|| failed("it is gone"))?;
        let rewritten = with_groups(service.as_str(), &document.value, &self.weights);
        let (text, groups) = rewritten.map_err(|why| failed(&why))?;
        Ok(Rewritten {
            done: format!("{service} is shared out as {}", told(&groups)),
            is_same: text == *document.value,
            index: document.modify_index,
            text: String::from_utf8(text).map_err(|_| failed("it is no text"))?,
            path,
        })
    }
}

/// `blue 0, green 100`
fn told(groups: &Groups) -> String {
    let pair = |(name, weight)| format!("{name} {weight}");
    let pairs: Vec<String> = groups.iter().map(pair).collect();
    pairs.join(", ")
}
