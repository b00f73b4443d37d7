//! Asks a name itself for a proof: whoever does not reach this pod by it would fail the CA too, at the account's cost.

use super::failure::Failure;
use super::transport;
use crate::certs::challenge;
use crate::config::{Acme, Challenge, DomainName, Preflight};

/// To be done before the CA is asked. What is proven by DNS need not lead here.
pub(super) async fn check(
    settings: &Acme,
    thumbprint: &str,
    name: &DomainName,
) -> Result<(), Failure> {
    let preflight = match settings.challenge_for(name) {
        Challenge::Http01 | Challenge::TlsAlpn01 => settings.preflight,
        Challenge::Dns01 => Preflight::Off,
    };
    match preflight {
        Preflight::Off => Ok(()),
        Preflight::Require => reach(thumbprint, name).await.map_err(Failure::Preflight),
        Preflight::Warn => {
            if let Err(why) = reach(thumbprint, name).await {
                tracing::warn!(%name, "acme: ordered all the same: {why}");
            }
            Ok(())
        }
    }
}

async fn reach(thumbprint: &str, name: &DomainName) -> Result<(), String> {
    let token = format!("preflight-{:032x}", fastrand::u128(..));
    let expected = format!("{token}.{thumbprint}");
    let path = format!("{}{token}", challenge::PATH);
    let found = transport::fetch(name.as_str(), &path)
        .await
        .map_err(|why| format!("preflight: http://{name}: {why}"))?;
    match found.trim_ascii() == expected.as_bytes() {
        true => Ok(()),
        false => Err(format!(
            "preflight: http://{name} is answered by somebody else"
        )),
    }
}
