//! Host names as servers: resolved again as their TTL ends. The only door to hickory-resolver.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::name_server::TokioConnectionProvider;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::event::Event;

/// An answer is kept at least and at most so long, whatever its TTL says.
pub const TTL_SHORTEST: Duration = Duration::from_secs(1);
pub const TTL_LONGEST: Duration = Duration::from_secs(300);
/// A name without an answer is asked for again after so long, doubling to the longest.
const RETRY_SHORTEST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// The most addresses that are taken of one name; more are ignored.
const MAX_ADDRESSES: usize = 256;

/// A task for each name that is wanted; answers go out as [`Event::Resolved`].
pub struct Names {
    resolver: TokioResolver,
    events: mpsc::Sender<Event>,
    tasks: BTreeMap<String, JoinHandle<()>>,
}

impl Names {
    /// Reads the system's resolver settings; without any, only /etc/hosts and what these defaults reach answer.
    pub fn new(events: mpsc::Sender<Event>) -> Names {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "the system's resolver settings cannot be read");
            TokioResolver::builder_with_config(
                ResolverConfig::default(),
                TokioConnectionProvider::default(),
            )
        });
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Names {
            resolver: builder.build(),
            events,
            tasks: BTreeMap::new(),
        }
    }

    /// From now on these names are resolved, and no other.
    pub fn want(&mut self, names: BTreeSet<String>) {
        self.tasks.retain(|name, task| {
            let is_wanted = names.contains(name);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for name in names {
            if !self.tasks.contains_key(&name) {
                let follow = follow(self.resolver.clone(), name.clone(), self.events.clone());
                self.tasks.insert(name, tokio::spawn(follow));
            }
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

async fn follow(resolver: TokioResolver, name: String, events: mpsc::Sender<Event>) {
    let mut retry = RETRY_SHORTEST;
    loop {
        let (answer, pause) = match resolve(&resolver, &name).await {
            Ok((addresses, ttl)) => {
                retry = RETRY_SHORTEST;
                (Ok(addresses), ttl.clamp(TTL_SHORTEST, TTL_LONGEST))
            }
            Err(error) => {
                let pause = retry.mul_f64(0.9 + 0.2 * fastrand::f64());
                retry = (retry * 2).min(RETRY_LONGEST);
                (Err(error), pause)
            }
        };
        let event = Event::Resolved {
            name: name.clone(),
            answer,
        };
        if events.send(event).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn resolve(resolver: &TokioResolver, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
    let found = resolver
        .lookup_ip(name)
        .await
        .map_err(|error| error.to_string())?;
    let ttl = Instant::from_std(found.valid_until()).saturating_duration_since(Instant::now());
    let addresses: Vec<IpAddr> = found.iter().take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err("the answer holds no address".into());
    }
    Ok((addresses, ttl))
}
