//! An account at one CA: what it can be asked for. With `pending`, the door to instant-acme.
//!
//! The key is one for all directories, so that one thumbprint answers http-01 for each; the account is per directory. Nothing is
//! stored here: [`Authority::kept`] is what the caller keeps.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, CertificateIdentifier, Identifier, NewOrder, RevocationReason, RevocationRequest,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::jose::{AccountKey, Binding};
use super::model::Window;
use super::patience::{in_time, insistently};
use super::pending::Pending;
use super::problem::{failure, is_unknown, unordered};
use super::registration::{Applicant, register};
use super::transport::Transport;
use crate::certs::Certificate;
use crate::config::{Acme, Directory, DomainName};
use crate::seal::Plain;

/// For one step of several exchanges with the CA, none of which waits for it to have done something.
const DEADLINE: Duration = Duration::from_secs(90);
/// Profiles that are named when one is missing.
const PROFILES: usize = 10;

/// An account that is open.
pub struct Authority {
    account: Account,
    kept: Kept,
    profile: Option<String>,
}

/// What of an account outlives the process. Secret: the key is in it.
#[derive(Serialize, Deserialize)]
pub struct Kept {
    /// The account's URL.
    id: String,
    directory: String,
    /// In base64url.
    key_pkcs8: String,
}

/// What an account is opened with.
pub enum Credentials {
    /// What was kept of it at this directory.
    Kept(Kept),
    /// The key alone: the account is made, or found if the CA knows the key already.
    New(AccountKey),
}

/// Why a certificate is not to be believed any more (RFC 5280 section 5.3.1), as far as CAs take it from who ordered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Unspecified,
    KeyCompromise,
    Superseded,
    CessationOfOperation,
}

impl Kept {
    /// None: not what [`Kept::to_text`] gives.
    pub fn from_text(text: &[u8]) -> Option<Kept> {
        let kept: Kept = serde_json::from_slice(text).ok()?;
        kept.key().map(|_| kept)
    }

    /// A text that can be stored, sealed.
    pub fn to_text(&self) -> Plain {
        Plain::new(serde_json::to_vec(self).expect("credentials are texts"))
    }

    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// For the account at another directory; None: the text that was kept has none.
    pub fn key(&self) -> Option<AccountKey> {
        AccountKey::from_text(&self.key_pkcs8)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(Plain::new(std::mem::take(&mut self.key_pkcs8).into_bytes()));
    }
}

impl Authority {
    /// Opens the account that was kept, or makes one.
    ///
    /// # Errors
    /// `Settings`: the CA wants external account binding. `Local`: the binding's key cannot be read, or what was kept is of another
    /// directory. Else the CA was not to be had.
    pub async fn open(
        settings: &Acme,
        directory: &Directory,
        tls: Arc<rustls::ClientConfig>,
        credentials: Credentials,
    ) -> Result<Authority, Failure> {
        let transport = Transport { tls };
        let opened = async {
            let (kept, key) = match credentials {
                Credentials::Kept(kept) => {
                    let key = kept.key().filter(|_| kept.directory == directory.url);
                    let wrong = || Failure::Local("the account that was kept is another's".into());
                    (kept, key.ok_or_else(wrong)?)
                }
                Credentials::New(key) => (made(settings, directory, &transport, &key).await?, key),
            };
            let pkcs8 = PrivatePkcs8KeyDer::from(key.pkcs8().to_vec());
            let account = Account::builder_with_http(Box::new(transport))
                .from_parts(kept.id.clone(), pkcs8, directory.url.clone())
                .await
                .map_err(failure)?;
            Ok(Authority {
                account,
                kept,
                profile: directory.profile.clone(),
            })
        };
        in_time(DEADLINE, opened).await
    }

    /// What is to be kept, whether it is new or was kept before.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    pub fn directory(&self) -> &str {
        &self.kept.directory
    }

    /// With it any token of any account with this key can be answered.
    pub fn thumbprint(&self) -> &str {
        self.account.key_thumbprint()
    }

    /// When the CA wants a certificate of its own renewed (RFC 9773).
    pub async fn window(&self, certificate: &Certificate) -> Result<Window, Failure> {
        let identifier = identifier(certificate)?;
        let asked = async {
            let asked = self.account.renewal_info(&identifier).await;
            asked.map_err(failure)
        };
        let (told, ask_after) = in_time(DEADLINE, asked).await?;
        Ok(Window {
            start: since_1970(told.suggested_window.start.unix_timestamp()),
            end: since_1970(told.suggested_window.end.unix_timestamp()),
            ask_after,
        })
    }

    /// Orders a certificate for one name, in the place of another that this CA issued if it may know so.
    ///
    /// # Errors
    /// `Unreached` and `Settings`: there is no order. All others: there may be one.
    pub async fn begin(
        &self,
        name: &DomainName,
        replaced: Option<&Certificate>,
    ) -> Result<Pending, Failure> {
        let identifiers = [Identifier::Dns(name.as_str().to_owned())];
        let mut new = NewOrder::new(&identifiers);
        if let Some(replaced) = replaced {
            new = new.replaces(identifier(replaced)?);
        }
        if let Some(profile) = &self.profile {
            self.check_profile(profile)?;
            new = new.profile(profile);
        }
        let ordered = async || self.account.new_order(&new).await.map_err(unordered);
        Ok(Pending::new(insistently!(DEADLINE, ordered())?))
    }

    fn check_profile(&self, profile: &str) -> Result<(), Failure> {
        let mut offered: Vec<&str> = self.account.profiles().map(|one| one.name).collect();
        offered.sort_unstable();
        if offered.contains(&profile) {
            return Ok(());
        }
        offered.truncate(PROFILES);
        let offered = match offered.is_empty() {
            true => "none".to_owned(),
            false => offered.join(", "),
        };
        Err(Failure::Settings(super::problem::cut(format!(
            "{}: no profile {profile:?}; the ca has: {offered}",
            self.directory()
        ))))
    }

    /// Takes up an order of this account where it is, whoever began it; None: the CA knows it no more.
    pub async fn resume(&self, url: &str) -> Result<Option<Pending>, Failure> {
        let found = async || match self.account.order(url.to_owned()).await {
            Ok(order) => Ok(Some(Pending::new(order))),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(failure(error)),
        };
        insistently!(DEADLINE, found())
    }

    /// Has the CA tell the world that a certificate (DER) is not to be believed any more. One that was revoked before is fine.
    pub async fn revoke(&self, certificate: &[u8], reason: Reason) -> Result<(), Failure> {
        let certificate = CertificateDer::from(certificate);
        let request = RevocationRequest {
            certificate: &certificate,
            reason: Some(reason.code()),
        };
        let revoked = async || match self.account.revoke(&request).await {
            Ok(()) => Ok(()),
            Err(error) if super::problem::is_revoked(&error) => Ok(()),
            Err(error) => Err(failure(error)),
        };
        insistently!(DEADLINE, revoked())
    }
}

impl Reason {
    fn code(self) -> RevocationReason {
        match self {
            Reason::Unspecified => RevocationReason::Unspecified,
            Reason::KeyCompromise => RevocationReason::KeyCompromise,
            Reason::Superseded => RevocationReason::Superseded,
            Reason::CessationOfOperation => RevocationReason::CessationOfOperation,
        }
    }
}

/// Has the CA make the account, or find it.
async fn made(
    settings: &Acme,
    directory: &Directory,
    transport: &Transport,
    key: &AccountKey,
) -> Result<Kept, Failure> {
    let binding = match directory.eab.clone() {
        Some(eab) => Some(
            tokio::task::spawn_blocking(move || Binding::read(&eab))
                .await
                .map_err(|error| Failure::Local(error.to_string()))?
                .map_err(|why| Failure::Local(format!("eab.hmac_file: {why}")))?,
        ),
        None => None,
    };
    let applicant = Applicant {
        key,
        contact: &settings.contact,
        binding: binding.as_ref(),
    };
    Ok(Kept {
        id: register(transport, &directory.url, &applicant).await?,
        directory: directory.url.clone(),
        key_pkcs8: key.to_text(),
    })
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
