//! Operators' orders: which are carried out here, which are written for the pod, and what is said of them.

use std::time::SystemTime;

use super::drains::{Drained, key_of};
use super::event::Event;
use super::model::Model;
use super::target;
use crate::routing::operator::{Order, OrderError, Reach, Target};

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
                Order::Drain { by, lasting, .. } => {
                    Some(Drained::begun(by, now, lasting).to_json())
                }
                Order::Undrain { .. } => None,
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
    })
}
