//! Operators' orders: which are carried out here, which are written for the pod, and what is said of them.

use std::time::SystemTime;

use super::accepts;
use super::drains::key_of;
use super::event::Event;
use super::model::Model;
use super::target;
use super::word::Word;
use crate::routing::operator::{Matter, Order, OrderError, Reach, Target};

/// What an order comes to.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Applied to this LB's model.
    Here(Event, String),
    /// Written into KV: the key, and what it holds from now on (nothing: it is removed).
    Pod {
        key: String,
        value: Option<Vec<u8>>,
        done: String,
    },
}

/// Checks an order against what is known. The LB itself is always drained here.
pub fn plan(model: &Model, order: Order, now: SystemTime) -> Result<Plan, OrderError> {
    let (target, reach) = match &order {
        Order::Drain { target, reach, .. } => (target, *reach),
        Order::Undrain { target, reach, .. } => (target, *reach),
        Order::Accept { matter, reach, .. } => {
            return plan_acceptance(model, matter, *reach, &order, now);
        }
    };
    let is_undrain = matches!(order, Order::Undrain { .. });
    if !(is_undrain && model.drains().has(target)) {
        target::check(model.services(), target).map_err(OrderError::Unknown)?;
    }
    let reach = match target {
        Target::Node => Reach::Here,
        Target::Service(_) | Target::Server(..) => reach,
    };
    let target = target::canonical(model.services(), target.clone());
    let verb = if is_undrain { "undrained" } else { "drained" };
    let key = key_of(&target);
    let mut done = match (&key, reach) {
        (None, _) => format!("{verb} this load balancer"),
        (Some(name), Reach::Here) => format!("{verb} {name} on this load balancer"),
        (Some(name), Reach::Pod) => format!("{verb} {name} in the whole pod"),
    };
    let drains = model.drains();
    if is_undrain {
        done += match reach {
            Reach::Here if drains.is_in_pod(&target) => "; the whole pod's drain of it stays",
            Reach::Pod if drains.is_here(&target) => "; this load balancer's own drain of it stays",
            Reach::Here | Reach::Pod if !drains.has(&target) => "; it was not drained",
            Reach::Here | Reach::Pod => "",
        };
    }
    match (reach, key) {
        (Reach::Here, _) | (Reach::Pod, None) => Ok(Plan::Here(here(order, target), done)),
        (Reach::Pod, Some(name)) => {
            let prefix = model.prefix().ok_or_else(|| {
                OrderError::NoConsul("there is no [consul]: drain it here instead".into())
            })?;
            let value = match order {
                Order::Drain { by, lasting, .. } => Some(Word::begun(by, now, lasting).to_json()),
                Order::Undrain { .. } | Order::Accept { .. } => None,
            };
            let key = format!("{prefix}/operator/drain/{name}");
            Ok(Plan::Pod { key, value, done })
        }
    }
}

fn here(order: Order, target: Target) -> Event {
    let reach = Reach::Here;
    Event::Ordered(match order {
        Order::Drain { by, lasting, .. } => Order::Drain {
            target,
            reach,
            by,
            lasting,
        },
        Order::Undrain { by, .. } => Order::Undrain { target, reach, by },
        accept @ Order::Accept { .. } => accept,
    })
}

/// An acceptance: of what is doubted now, and of what vanishes while it holds.
fn plan_acceptance(
    model: &Model,
    matter: &Matter,
    reach: Reach,
    order: &Order,
    now: SystemTime,
) -> Result<Plan, OrderError> {
    let Order::Accept { by, lasting, .. } = order else {
        return Err(OrderError::Unknown("nothing is accepted by this".into()));
    };
    let matter = known(model, matter)?;
    let whose = match &matter {
        Matter::Service(service) => service.to_string(),
        Matter::Server(service, server) => format!("{service}/{server}"),
        Matter::Documents => "the documents".to_owned(),
    };
    let reaches = match reach {
        Reach::Here => "on this load balancer",
        Reach::Pod => "in the whole pod",
    };
    let kind = match matter {
        Matter::Documents => "subtrees",
        Matter::Service(_) | Matter::Server(..) => "servers",
    };
    let done = format!(
        "accepted what consul says of {whose} {reaches} ({kind} doubted here until now: {}); nothing of it is doubted for {} s",
        model.doubts(&matter),
        lasting.as_secs()
    );
    match reach {
        Reach::Here => Ok(Plan::Here(
            Event::Ordered(Order::Accept {
                matter,
                reach,
                by: by.clone(),
                lasting: *lasting,
            }),
            done,
        )),
        Reach::Pod => {
            let prefix = model.prefix().ok_or_else(|| {
                OrderError::NoConsul("there is no [consul], so nothing is doubted".into())
            })?;
            let key = format!("{prefix}/operator/accept/{}", accepts::key_of(&matter));
            let value = Some(Word::begun(by.clone(), now, Some(*lasting)).to_json());
            Ok(Plan::Pod { key, value, done })
        }
    }
}

/// What is meant, a server by its address; the nearest known name where there is none.
fn known(model: &Model, matter: &Matter) -> Result<Matter, OrderError> {
    let target = match matter {
        Matter::Documents => return Ok(Matter::Documents),
        Matter::Service(service) => Target::Service(service.clone()),
        Matter::Server(service, server) => Target::Server(service.clone(), server.clone()),
    };
    target::check(model.services(), &target).map_err(OrderError::Unknown)?;
    Ok(match target::canonical(model.services(), target) {
        Target::Server(service, server) => Matter::Server(service, server),
        Target::Service(_) | Target::Node => matter.clone(),
    })
}
