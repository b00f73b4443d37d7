//! Certificates that nobody wants any more and that ended long ago: taken out of the store, with what the index says of them.
//!
//! Which names are wanted is another matter in each load balancer's file, and nobody knows all files. So what counts is the end that the
//! certificate says itself: what ended a week ago serves nobody, and whoever wants the name has had it ordered anew by then.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::contention::Tries;
use super::ground::{Found, Ground};
use super::keys;
use super::order::Tools;
use super::sync;
use crate::config::DomainName;
use crate::control::store::{Lease, Written};

/// Kept for so long after its end: a name may be wanted again, and its last certificate is something to look at.
pub(super) const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The first look comes so long after the start, and each further one so long after the one before.
pub(super) const FIRST: Duration = Duration::from_secs(10);
pub(super) const AGAIN: Duration = Duration::from_secs(6 * 3600);
/// Between two names, so that thousands of them leave the store room for everything else.
const EACH: Duration = Duration::from_millis(20);

/// Whether it ended so long ago.
pub(super) fn is_over(not_after: SystemTime, now: SystemTime) -> bool {
    not_after + KEPT < now
}

/// Takes names that are not wanted here.
pub(super) async fn sweep(tools: &Tools, names: Vec<DomainName>) {
    for name in names {
        match take_out(tools, &name).await {
            Ok(Some(())) => {
                tracing::info!(%name, "acme: nobody wants it, and it ended long ago: taken out")
            }
            Ok(None) => {}
            // It is looked at again.
            Err(why) => tracing::debug!(%name, "acme: not taken out: {why}"),
        }
        sleep(EACH).await;
    }
}

/// None: it is none of these any more, or somebody is at it.
async fn take_out(tools: &Tools, name: &DomainName) -> Result<Option<()>, String> {
    let lease = tools.store.lock(&keys::lock(name)).await;
    let Some(lease) = lease.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let taken = take_out_under(tools, name, &lease).await;
    lease.release().await;
    taken
}

async fn take_out_under(
    tools: &Tools,
    name: &DomainName,
    lease: &Lease,
) -> Result<Option<()>, String> {
    let mut tries = Tries::default();
    loop {
        let ground = Ground::read(&tools.store, name).await;
        let mut ground = ground.map_err(|error| error.to_string())??;
        let Found::Is(value) = &ground.certificate else {
            return Ok(None);
        };
        let (of, value) = (name.clone(), value.clone());
        let read = tokio::task::spawn_blocking(move || sync::read_certificate(&of, &value));
        let held = read.await.map_err(|panicked| panicked.to_string())??;
        if !is_over(held.certificate.not_after(), SystemTime::now()) {
            return Ok(None);
        }
        let written = tools
            .store
            .transact(lease, ground.without_certificate())
            .await;
        match written.map_err(|error| error.to_string())? {
            Written::Done => return Ok(Some(())),
            // Other names of the same shard.
            Written::Conflict => tries.again(lease, name.as_str()).await?,
        }
    }
}
