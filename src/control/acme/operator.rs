//! What an operator can have done with certificates: revoked, and sealed anew.

use std::sync::Arc;

use super::authority::Reason;
use super::budgets;
use super::contention::Tries;
use super::ground::Ground;
use super::halt::Halt;
use super::keys;
use super::order::Tools;
use super::sync;
use crate::config::{Directory, DomainName};
use crate::control::store::{Change, Lease, Seen, Store, Written};
use crate::seal::Keyring;
use crate::telemetry::rfc3339;

/// What comes after a certificate that was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The name is wanted: another one.
    Another,
    Nothing,
}

/// Has the CA revoke a name's certificate, and takes it out of the store: then another one is due, if the name is wanted. Gives what
/// was done; the error is a message. While no budget has room for the other one nothing is revoked: the name would have none until then.
pub(super) async fn revoke(tools: &Tools, name: &DomainName, next: Next) -> Result<String, String> {
    let lease = tools.store.lock(&keys::lock(name)).await;
    let lease = lease.map_err(|error| error.to_string())?;
    let Some(lease) = lease else {
        return Err(format!("{name}: a load balancer orders it at this moment"));
    };
    let revoked = revoke_under(tools, name, next, &lease).await;
    lease.release().await;
    revoked
}

async fn revoke_under(
    tools: &Tools,
    name: &DomainName,
    next: Next,
    lease: &Lease,
) -> Result<String, String> {
    let ground = Ground::read(&tools.store, name).await;
    let ground = ground.map_err(|error| error.to_string())??;
    // One that was begun already is counted.
    if next == Next::Another && ground.order.value.is_none() {
        room_for_another(tools, name).await?;
    }
    let (read_name, value) = (name.clone(), ground.certificate.opened()?.clone());
    let read = tokio::task::spawn_blocking(move || sync::read_certificate(&read_name, &value));
    let held = read.await.map_err(|panicked| panicked.to_string())??;
    let directory = directory_of(tools, &held.directory);
    let authority = tools.accounts.at(directory).await.map_err(said)?;
    let leaf = &held.certificate.served().cert[0];
    let revoked = authority.revoke(leaf, Reason::Unspecified).await;
    revoked.map_err(|failure| format!("{name}: {}", failure.text()))?;
    tracing::info!(%name, "acme: a certificate was revoked");
    take_out(tools, name, lease).await?;
    match next {
        Next::Another => Ok(format!("{name}: revoked; another one is ordered")),
        Next::Nothing => Ok(format!("{name}: revoked")),
    }
}

/// With the attempts that went before it forgotten it is the first CA's turn.
async fn room_for_another(tools: &Tools, name: &DomainName) -> Result<(), String> {
    let (store, settings) = (&tools.store, &tools.settings);
    let url = &settings.primary.url;
    let looked = budgets::look(store, settings, url, name, budgets::Counts::Wholly).await;
    looked.map_err(|halt| {
        let until = match &halt {
            Halt::Full(until, _) => format!(" until {}", rfc3339::text(*until)),
            Halt::Taken(_) | Halt::Rests(..) | Halt::Failed(_) | Halt::Stopped(_) => String::new(),
        };
        let why = said(halt);
        format!("{name}: not revoked, since no other one could be ordered: {why}{until}")
    })
}

/// Somebody may write to the same shard of the index meanwhile.
async fn take_out(tools: &Tools, name: &DomainName, lease: &Lease) -> Result<(), String> {
    let mut tries = Tries::default();
    loop {
        let ground = Ground::read(&tools.store, name).await;
        let mut ground = ground.map_err(|error| error.to_string())??;
        let changes = ground.without_certificate();
        let written = tools.store.transact(lease, changes).await;
        if written.map_err(|error| error.to_string())? == Written::Done {
            return Ok(());
        }
        let still = format!("{name}: revoked, but it is still in the store");
        tries.again(lease, &still).await?;
    }
}

/// The first one where nobody said who issued it, or where the file names that one no more.
fn directory_of<'a>(tools: &'a Tools, url: &str) -> &'a Directory {
    let fallback = tools.settings.fallback.as_ref();
    fallback
        .filter(|fallback| fallback.url == url)
        .unwrap_or(&tools.settings.primary)
}

fn said(halt: Halt) -> String {
    match halt {
        Halt::Failed(failure) => failure.text().to_owned(),
        Halt::Rests(_, why) | Halt::Full(_, why) | Halt::Stopped(why) => why,
        Halt::Taken(_) => String::new(),
    }
}

/// What became of sealed values.
#[derive(Debug, Default)]
struct Counts {
    sealed: usize,
    fresh: usize,
    changed: usize,
}

/// Seals everything that is sealed with another key than the key file's first with that one. Gives the counts in words; the error is a
/// message.
pub(super) async fn rekey(store: &Store, keyring: Arc<Keyring>) -> Result<String, String> {
    let mut counts = Counts::default();
    let mut broken = Vec::new();
    for prefix in prefixes() {
        rekey_below(store, &keyring, &prefix, &mut counts, &mut broken).await?;
    }
    let Counts {
        sealed,
        fresh,
        changed,
    } = counts;
    let mut said = format!(
        "{sealed} values sealed anew, {fresh} were already, {changed} were changed meanwhile"
    );
    if !broken.is_empty() {
        said.push_str(&format!("; not opened: {}", broken.join("; ")));
    }
    Ok(said)
}

/// Certificates by their first letter, so that no answer is larger than Consul gives.
fn prefixes() -> impl Iterator<Item = String> {
    let letters = ('a'..='z').chain('0'..='9').chain(['_']);
    let certificates = letters.map(|letter| format!("acme/certs/{letter}"));
    let others = [
        "acme/account/",
        "acme/orders/",
        "acme/proofs/",
        "certs/own/",
        "keys/tickets",
    ];
    others.into_iter().map(str::to_owned).chain(certificates)
}

async fn rekey_below(
    store: &Store,
    keyring: &Keyring,
    prefix: &str,
    counts: &mut Counts,
    broken: &mut Vec<String>,
) -> Result<(), String> {
    let mut watch = store.watch(prefix);
    let found = loop {
        match watch.state() {
            Seen::Is(found) => break found,
            Seen::Unknown => watch.changed().await,
        }
    };
    for (rest, raw) in found.iter() {
        if !keyring.is_outdated(&raw.bytes) {
            counts.fresh += 1;
            continue;
        }
        let (key, version) = (format!("{prefix}{rest}"), raw.version);
        let value = match store.open(&key, raw) {
            Ok(value) => value,
            Err(error) => {
                broken.push(error.to_string());
                continue;
            }
        };
        let put = Change::Put {
            key,
            value,
            version,
        };
        match store.write(put).await.map_err(|error| error.to_string())? {
            Written::Done => counts.sealed += 1,
            Written::Conflict => counts.changed += 1,
        }
    }
    Ok(())
}
