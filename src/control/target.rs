//! Whom an operator means: targets checked against the services that are known. Pure.

use std::collections::BTreeMap;

use super::service_state::ServiceState;
use crate::routing::ServiceName;
use crate::routing::likeness::distance;
use crate::routing::operator::Target;

type Services = BTreeMap<ServiceName, ServiceState>;

/// Whether a target exists; the nearest known name otherwise.
pub fn check(services: &Services, target: &Target) -> Result<(), String> {
    let (name, server) = match target {
        Target::Node => return Ok(()),
        Target::Service(name) => (name, None),
        Target::Server(name, server) => (name, Some(server)),
    };
    let Some(service) = services.get(name) else {
        let known = services.keys().map(ServiceName::as_str);
        return Err(unknown(&format!("service {name}"), name.as_str(), known));
    };
    let Some(server) = server else {
        return Ok(());
    };
    let members = service.members().values();
    let is_there = members.clone().any(|member| {
        *member.facts.label == **server || member.facts.address.to_string() == **server
    });
    if is_there {
        return Ok(());
    }
    let known = members.map(|member| &*member.facts.label);
    Err(unknown(&format!("server {name}/{server}"), server, known))
}

/// A server as the pod's documents name it, whatever label it was asked for by.
pub fn canonical(services: &Services, target: Target) -> Target {
    let Target::Server(name, server) = &target else {
        return target;
    };
    let found = services.get(name).and_then(|service| {
        let mut members = service.members().values();
        members.find(|member| *member.facts.label == **server)
    });
    match found {
        Some(member) => Target::Server(name.clone(), member.facts.address.to_string()),
        None => target,
    }
}

fn unknown<'a>(what: &str, asked: &str, known: impl Iterator<Item = &'a str>) -> String {
    match known.min_by_key(|name| distance(asked, name)) {
        Some(nearest) => format!("there is no {what}; the nearest known name is {nearest}"),
        None => format!("there is no {what}; none is known"),
    }
}
