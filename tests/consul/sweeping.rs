//! The watch over all services of a datacenter, against an agent that answers as told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::scripted::{Scripted, hang, reply};
use crate::watching::{Watching, eventually, service, settings};

const SERVICES: usize = 30;

fn names() -> Vec<String> {
    (0..SERVICES)
        .map(|number| format!("app-{number}"))
        .collect()
}

/// The answer about critical checks once there is one of each service.
fn all_critical() -> String {
    let check = |name: String| {
        format!(
            r#"{{"Node": "n", "CheckID": "c", "Status": "critical", "ServiceID": "a", "ServiceName": "{name}"}}"#
        )
    };
    let checks: Vec<String> = names().into_iter().map(check).collect();
    format!("[{}]", checks.join(","))
}

#[test]
fn a_service_without_news_is_asked_about_again_after_all_others_were() {
    let read: Arc<Mutex<Vec<String>>> = Arc::default();
    let are_sick = Arc::new(AtomicBool::new(false));
    let (noted, told) = (read.clone(), are_sick.clone());
    let server = Scripted::start(move |target, stream| {
        if let Some(rest) = target.split("health/service/").nth(1) {
            let name = rest.split('?').next().unwrap_or(rest);
            noted.lock().unwrap().push(name.to_owned());
            return reply(stream, 200, "90", crate::APP);
        }
        let is_first = !target.contains("index=");
        match target.split('?').next().unwrap_or(target) {
            "/v1/catalog/services" if is_first => reply(stream, 200, "90", "{}"),
            path if path.starts_with("/v1/health/state/") && is_first => {
                reply(stream, 200, "90", "[]");
            }
            "/v1/health/state/critical" if target.contains("index=90") => {
                eventually("all are sick", || told.load(Relaxed));
                reply(stream, 200, "91", &all_critical());
            }
            _ => hang(stream),
        }
    });
    let mut few = settings(&format!("http://{}", server.address));
    few.connections = 3;
    let watching = Watching::start(few);
    let names = names();
    watching.want(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let has_read = |times: usize| {
        let what = format!("all are read {times} times");
        eventually(&what, || read.lock().unwrap().len() >= times * SERVICES);
    };
    // When they are new, and after the first answer about all checks.
    has_read(2);
    std::thread::sleep(Duration::from_millis(100));
    are_sick.store(true, Relaxed);
    // A server that is behind answers what it knew.
    has_read(4);
    let read = read.lock().unwrap();
    for times in [2, 3] {
        let once: BTreeSet<&String> = read[times * SERVICES..][..SERVICES].iter().collect();
        assert_eq!(once.len(), SERVICES, "{read:?}");
    }
}

#[test]
fn all_datacenters_together_ask_no_more_than_there_are_connections() {
    let (under_way, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (read, seen) = (Arc::new(AtomicUsize::new(0)), most.clone());
    let count = read.clone();
    let server = Scripted::start(move |target, stream| {
        if target.contains("health/service/") {
            most.fetch_max(under_way.fetch_add(1, Relaxed) + 1, Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            under_way.fetch_sub(1, Relaxed);
            reply(stream, 200, "90", crate::APP);
            count.fetch_add(1, Relaxed);
        } else {
            hang(stream);
        }
    });
    // What is reserved, and for each datacenter four watches and two readers.
    let mut two_each = settings(&format!("http://{}", server.address));
    two_each.connections = 20 + (4 + 2) * 5;
    let watching = Watching::start(two_each);
    let wanted = (0..50).map(|number| {
        let mut one = service(&format!("app-{number}"));
        one.datacenter = Some(format!("dc-{}", number % 5));
        one
    });
    watching.want_services(wanted.collect());
    eventually("all are read", || read.load(Relaxed) >= 50);
    assert!(seen.load(Relaxed) <= 2 * 5, "{seen:?}");
}
