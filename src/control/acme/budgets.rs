//! The orders that a pod has begun, counted in the store for all of its load balancers before a CA is asked.

use std::time::SystemTime;

use super::allowance::{Allowance, Begun};
use super::budget::{ACCOUNT_SPAN, DOMAIN_SPAN, registered_domain};
use super::contention::Tries;
use super::halt::Halt;
use super::keys;
use super::records::moment;
use crate::config::{Acme, DomainName};
use crate::control::store::{Change, Lease, Store, Written};

/// Whether an order counts against its registered domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    Wholly,
    /// One that replaces another is exempt from the limits of a domain (RFC 9773 section 5), not of the account.
    ForTheAccount,
}

/// An order that is counted.
pub(super) struct Charged {
    keys: Vec<(String, Allowance)>,
    at: SystemTime,
}

/// Counts an order, or says until when there is no room for it.
pub(super) async fn charge(
    store: &Store,
    lease: &Lease,
    settings: &Acme,
    directory: &str,
    name: &DomainName,
    counts: Counts,
) -> Result<Charged, Halt> {
    // In whole seconds, as they are written: it is found again by them.
    let at = moment(super::records::seconds(SystemTime::now()));
    let keys = keys_of(settings, directory, name, counts);
    let charged = Charged { keys, at };
    change(store, lease, &charged, |key, allowance, begun| {
        charge_one(key, allowance, begun, at)
    })
    .await?;
    Ok(charged)
}

/// Says what [`charge`] would say at this moment, and counts nothing.
pub(super) async fn look(
    store: &Store,
    settings: &Acme,
    directory: &str,
    name: &DomainName,
    counts: Counts,
) -> Result<(), Halt> {
    for (key, allowance) in keys_of(settings, directory, name, counts) {
        let (mut begun, _) = read(store, &key).await?;
        charge_one(&key, allowance, &mut begun, SystemTime::now())?;
    }
    Ok(())
}

fn keys_of(
    settings: &Acme,
    directory: &str,
    name: &DomainName,
    counts: Counts,
) -> Vec<(String, Allowance)> {
    let mut keys = Vec::new();
    if let Some(orders) = settings.account_orders {
        let allowance = Allowance {
            orders: orders.get(),
            span: ACCOUNT_SPAN,
        };
        keys.push((keys::account_budget(directory), allowance));
    }
    if let (Some(orders), Counts::Wholly) = (settings.domain_orders, counts) {
        let allowance = Allowance {
            orders: orders.get(),
            span: DOMAIN_SPAN,
        };
        let key = keys::domain_budget(directory, registered_domain(name));
        keys.push((key, allowance));
    }
    keys
}

fn charge_one(
    key: &str,
    allowance: Allowance,
    begun: &mut Begun,
    at: SystemTime,
) -> Result<(), Halt> {
    begun.charge(allowance, at).map_err(|until| {
        let (orders, hours) = (allowance.orders, allowance.span.as_secs() / 3600);
        let whose = keys::domain_of_budget(key).unwrap_or("the account");
        let why = format!("{orders} orders of {whose} began within {hours} h: the next one waits");
        Halt::Full(until, why)
    })
}

/// With the version that it is to be changed by.
async fn read(store: &Store, key: &str) -> Result<(Begun, u64), Halt> {
    let present = store.present(key, store.read(key).await, Begun::read)?;
    Ok((present.value.unwrap_or_default(), present.version))
}

/// Takes back an order that no CA heard of.
pub(super) async fn refund(store: &Store, lease: &Lease, charged: &Charged) -> Result<(), Halt> {
    change(store, lease, charged, |_, _, begun| {
        begun.refund(charged.at);
        Ok(())
    })
    .await
}

/// All of the keys in one transaction, again as long as others are in the way.
async fn change(
    store: &Store,
    lease: &Lease,
    charged: &Charged,
    alter: impl Fn(&str, Allowance, &mut Begun) -> Result<(), Halt>,
) -> Result<(), Halt> {
    if charged.keys.is_empty() {
        return Ok(());
    }
    let mut tries = Tries::default();
    loop {
        let mut changes = Vec::new();
        for (key, allowance) in &charged.keys {
            let (mut begun, version) = read(store, key).await?;
            alter(key, *allowance, &mut begun)?;
            changes.push(Change::Put {
                key: key.clone(),
                value: begun.write(),
                version,
            });
        }
        match store.transact(lease, changes).await? {
            Written::Done => return Ok(()),
            Written::Conflict => {
                let again = tries.again(lease, "the budget could not be charged");
                again.await.map_err(Halt::Stopped)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Environment};

    fn settings() -> Acme {
        let text = "[node]\nstate_dir = \"state\"\n[[listener]]\naddress = \"127.0.0.1:80\"\n[acme]\n\
                    directory = \"https://staging.test/dir\"\ndomain_orders = 1\n";
        let read = config::parse(text, Path::new("rota.toml"), &Environment::bare("lb-1"));
        read.unwrap().acme.unwrap()
    }

    #[tokio::test]
    async fn what_was_ordered_at_one_ca_leaves_the_allowance_at_another_alone() {
        let folder = std::env::temp_dir().join(format!("rota-budgets-{}", std::process::id()));
        let store = Store::in_directory(&folder, None).unwrap();
        let (settings, name) = (settings(), DomainName::parse("a.shop.test").unwrap());
        let lease = store.lock(&keys::lock(&name)).await.unwrap().unwrap();
        let mut rested = Vec::new();
        for directory in ["https://staging.test/dir", "https://ca.test/dir"] {
            for _ in 0..2 {
                let counts = Counts::Wholly;
                let looked = look(&store, &settings, directory, &name, counts).await;
                let charged = charge(&store, &lease, &settings, directory, &name, counts).await;
                let rests = |halt| match halt {
                    Halt::Full(_, why) => why.contains("1 orders of shop.test"),
                    Halt::Taken(_) | Halt::Rests(..) | Halt::Failed(_) | Halt::Stopped(_) => false,
                };
                assert_eq!(looked.is_err(), charged.is_err());
                rested.push(charged.is_err_and(rests));
            }
        }
        drop(std::fs::remove_dir_all(&folder));
        assert_eq!(rested, [false, true, false, true]);
    }
}
