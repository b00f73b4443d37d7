//! The one door to instant-acme: an account at a CA, and one order from its first to its last word.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::timeout;

use super::model::{Failure, Window};
use super::transport::{Transport, Unanswered};
use crate::certs::Certificate;
use crate::config::{Acme, DomainName};
use crate::seal::Plain;

/// For all of an order; a CA that validates from several places takes some seconds.
const ORDER_DEADLINE: Duration = Duration::from_secs(180);
/// For the CA to have validated, and to have issued.
const POLLING: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(60));
/// The CA's own words in an error are cut at so many bytes.
const WORDS: usize = 400;

/// An account that is open.
pub(super) struct Authority {
    account: Account,
}

/// A chain and its key, PEM texts.
pub(super) struct Issued {
    pub(super) chain_pem: String,
    pub(super) key_pem: Plain,
}

impl Authority {
    /// Opens the account that was kept, or makes one; gives what is to be kept of a new one.
    pub(super) async fn open(
        settings: &Acme,
        tls: Arc<rustls::ClientConfig>,
        kept: Option<&[u8]>,
    ) -> Result<(Authority, Option<Plain>), Failure> {
        let builder = Account::builder_with_http(Box::new(Transport { tls }));
        if let Some(kept) = kept {
            let credentials: AccountCredentials = serde_json::from_slice(kept)
                .map_err(|_| Failure::Local("the account that was kept is none".into()))?;
            let account = builder.from_credentials(credentials).await;
            let account = account.map_err(failure)?;
            return Ok((Authority { account }, None));
        }
        let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let made = builder.create(&new, settings.directory.clone(), None).await;
        let (account, credentials) = made.map_err(failure)?;
        let text = serde_json::to_vec(&credentials).expect("credentials are texts");
        Ok((Authority { account }, Some(Plain::new(text))))
    }

    /// With it any token of this account can be answered.
    pub(super) fn thumbprint(&self) -> &str {
        self.account.key_thumbprint()
    }

    /// When the CA wants a certificate renewed (RFC 9773).
    pub(super) async fn window(&self, certificate: &Certificate) -> Result<Window, Failure> {
        let asked = self.account.renewal_info(&identifier(certificate)?).await;
        let (told, ask_after) = asked.map_err(failure)?;
        Ok(Window {
            start: since_1970(told.suggested_window.start.unix_timestamp()),
            end: since_1970(told.suggested_window.end.unix_timestamp()),
            ask_after,
        })
    }

    /// Orders a certificate for one name with a new key, in the place of another if the CA may know so. The proof by http-01 has
    /// to be live before.
    pub(super) async fn order(
        &self,
        name: &DomainName,
        replaced: Option<&Certificate>,
    ) -> Result<Issued, Failure> {
        let replaced = replaced.map(identifier).transpose()?;
        timeout(ORDER_DEADLINE, self.order_patiently(name, replaced))
            .await
            .unwrap_or_else(|_| {
                let seconds = ORDER_DEADLINE.as_secs();
                Err(Failure::Faltered(format!(
                    "no certificate within {seconds} s"
                )))
            })
    }

    async fn order_patiently(
        &self,
        name: &DomainName,
        replaced: Option<CertificateIdentifier<'static>>,
    ) -> Result<Issued, Failure> {
        let identifiers = [Identifier::Dns(name.as_str().to_owned())];
        let mut new = NewOrder::new(&identifiers);
        if let Some(replaced) = replaced {
            new = new.replaces(replaced);
        }
        let mut order = self.account.new_order(&new).await.map_err(unordered)?;
        offer_proofs(&mut order).await?;
        match order.poll_ready(&POLLING).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(why_invalid(&mut order).await),
            Err(Error::Api(_)) => return Err(why_invalid(&mut order).await),
            Err(error) => return Err(failure(error)),
        }
        let name = name.clone();
        let (key_pem, request) = tokio::task::spawn_blocking(move || certificate_request(&name))
            .await
            .map_err(|error| Failure::Local(error.to_string()))??;
        order.finalize_csr(&request).await.map_err(failure)?;
        let chain_pem = order.poll_certificate(&POLLING).await.map_err(failure)?;
        Ok(Issued { chain_pem, key_pem })
    }
}

fn since_1970(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// As the CA names it: its issuer's key and its serial number.
fn identifier(certificate: &Certificate) -> Result<CertificateIdentifier<'static>, Failure> {
    let leaf = &certificate.served().cert[0];
    CertificateIdentifier::try_from(leaf)
        .map(CertificateIdentifier::into_owned)
        .map_err(Failure::Local)
}

/// Tells the CA for each name that is not proven yet that it may look.
async fn offer_proofs(order: &mut Order) -> Result<(), Failure> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(failure)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => {
                return Err(Failure::Refused(format!("the authorization is {status:?}")));
            }
        }
        let challenge = authorization.challenge(ChallengeType::Http01);
        let mut challenge = challenge
            .ok_or_else(|| Failure::Refused("the ca offers no http-01 for the name".into()))?;
        challenge.set_ready().await.map_err(failure)?;
    }
    Ok(())
}

/// What the CA says of the proof that it did not accept.
async fn why_invalid(order: &mut Order) -> Failure {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            break;
        };
        let problem = state.challenges.iter().find_map(|one| one.error.as_ref());
        if let Some(problem) = problem {
            return Failure::Refused(cut(problem.to_string()));
        }
    }
    Failure::Refused("the ca holds the order for invalid".into())
}

/// A new key, P-256, and the CSR that asks for a certificate for it. Some milliseconds of work.
fn certificate_request(name: &DomainName) -> Result<(Plain, Vec<u8>), Failure> {
    let made = || -> Result<(Plain, Vec<u8>), rcgen::Error> {
        let mut params = CertificateParams::new([name.as_str().to_owned()])?;
        // The name stands among the alternative names; a common name of rcgen's own making would be refused.
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?.der().to_vec();
        Ok((Plain::new(key.serialize_pem().into_bytes()), request))
    };
    made().map_err(|error| Failure::Local(format!("a key for {name}: {error}")))
}

fn failure(error: Error) -> Failure {
    let text = cut(error.to_string());
    match error {
        Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            let kind = kind.rsplit(':').next().unwrap_or_default();
            match (kind, problem.status) {
                ("rateLimited", _) => Failure::Limited(text),
                ("accountDoesNotExist", _) => Failure::Account(text),
                ("badNonce" | "serverInternal", _) | (_, Some(500..)) => Failure::Faltered(text),
                _ => Failure::Refused(text),
            }
        }
        Error::Crypto | Error::KeyRejected => Failure::Local(text),
        _ => Failure::Faltered(text),
    }
}

/// Why there is no order: only what was never sent is none to the CA.
fn unordered(error: Error) -> Failure {
    match &error {
        Error::Other(why) if why.downcast_ref().is_some_and(Unanswered::is_unsent) => {
            Failure::Unreached(cut(error.to_string()))
        }
        _ => failure(error),
    }
}

/// A CA's words in one line of bounded length.
fn cut(mut text: String) -> String {
    text = text.replace(|c: char| c.is_control(), " ");
    text.truncate(text.floor_char_boundary(WORDS));
    text
}
