//! Operators' orders: which are carried out here, which are written for the pod, and what is said of them.

use std::time::SystemTime;

use super::drains::{Drained, key_of};
use super::event::Event;
use super::model::Model;
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
        model.check_target(target).map_err(OrderError::Unknown)?;
    }
    let reach = match target {
        Target::Node => Reach::Here,
        Target::Service(_) | Target::Server(..) => reach,
    };
    let target = model.canonical(target.clone());
    let (verb, extent) = (
        if is_undrain { "undrained" } else { "drained" },
        match reach {
            Reach::Here => "on this load balancer",
            Reach::Pod => "in the whole pod",
        },
    );
    let key = key_of(&target);
    let name = key.clone().unwrap_or_else(|| "this load balancer".into());
    let done = format!("{verb} {name} {extent}");
    match (reach, key) {
        (Reach::Here, _) | (Reach::Pod, None) => Ok(Plan::Here(here(order, target), done)),
        (Reach::Pod, Some(name)) => {
            let prefix = model.prefix().ok_or_else(|| {
                OrderError::NoConsul("there is no [consul]: drain it here instead".into())
            })?;
            let value = match order {
                Order::Drain { by, until, .. } => Some(Drained { by, at: now, until }.to_json()),
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
        Order::Drain { by, until, .. } => Order::Drain {
            target,
            reach,
            by,
            until,
        },
        Order::Undrain { by, .. } => Order::Undrain { target, reach, by },
    })
}
