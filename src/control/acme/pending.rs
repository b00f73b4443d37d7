//! One order at a CA, from its URL to its certificate. Each step asks the CA where the order is, so that whoever resumes it may repeat a
//! step that another one had begun.

use std::time::Duration;

use super::failure::Failure;
use super::patience::insistently;
use super::problem::{cut, failure};
use crate::config::Challenge;
use instant_acme::{
    AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Order, OrderStatus, RetryPolicy,
};

/// For the CA to have validated, and to have issued: it looks from several places, some of which are slow.
const DEADLINE: Duration = Duration::from_secs(120);
const POLLING: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(100));

/// An order that the CA knows.
pub struct Pending {
    order: Order,
}

/// What the CA wants to see before it believes that the name is ours.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    pub challenge: Challenge,
    /// The name, of a wildcard its zone.
    pub name: String,
    /// What http-01 asks for; the answer is this, a dot, and the thumbprint of the account's key.
    pub token: String,
    /// What stands in the certificate of tls-alpn-01.
    pub digest: [u8; 32],
    /// What stands in the record of dns-01.
    pub dns_value: String,
}

impl Pending {
    pub(super) fn new(order: Order) -> Pending {
        Pending { order }
    }

    /// With it the order is resumed.
    pub fn url(&self) -> &str {
        self.order.url()
    }

    /// What is to be shown before [`Pending::prove`]; None: the CA has seen all that it wants.
    ///
    /// # Errors
    /// `Refused`: the order has failed, or the name cannot be proven in this way.
    pub async fn proof(&mut self, challenge: Challenge) -> Result<Option<Proof>, Failure> {
        insistently!(DEADLINE, self.proof_patiently(challenge))
    }

    async fn proof_patiently(&mut self, challenge: Challenge) -> Result<Option<Proof>, Failure> {
        match self.order.state().status {
            OrderStatus::Pending => {}
            OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => return Ok(None),
            OrderStatus::Invalid => return Err(self.why_invalid().await),
        }
        let mut authorizations = self.order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failure)?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Invalid => return Err(self.why_invalid().await),
                status => return Err(Failure::Refused(format!("the proof is {status:?}"))),
            }
            let handle = authorization.challenge(kind(challenge));
            let handle = handle.ok_or_else(|| unoffered(challenge))?;
            let answer = handle.key_authorization();
            let digest = answer.digest();
            return Ok(Some(Proof {
                challenge,
                name: handle.identifier().to_string().replace("*.", ""),
                token: handle.token.clone(),
                digest: digest.as_ref().try_into().expect("SHA-256 has 32 bytes"),
                dns_value: answer.dns_value(),
            }));
        }
        Ok(None)
    }

    /// Tells the CA that the proof can be seen, and waits for what it finds.
    ///
    /// # Errors
    /// `Refused`: it did not find it; the order has failed.
    pub async fn prove(&mut self, proof: &Proof) -> Result<(), Failure> {
        // A step each: what the CA was told once it need not take again.
        insistently!(DEADLINE, self.announce(proof))?;
        insistently!(DEADLINE, self.wait_until_ready())
    }

    async fn announce(&mut self, proof: &Proof) -> Result<(), Failure> {
        let mut authorizations = self.order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failure)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let handle = authorization.challenge(kind(proof.challenge));
            let mut handle = handle.ok_or_else(|| unoffered(proof.challenge))?;
            // The CA looks already for whoever began this order.
            if handle.status == ChallengeStatus::Pending {
                handle.set_ready().await.map_err(failure)?;
            }
        }
        Ok(())
    }

    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        match self.order.poll_ready(&POLLING).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(self.why_invalid().await),
            // What is wrong with an order comes as an error of the CA's too.
            Err(Error::Api(_)) if self.order.state().error.is_some() => {
                Err(self.why_invalid().await)
            }
            Err(error) => Err(failure(error)),
        }
    }

    /// Has the certificate issued, and gives its chain as a PEM text. The request is by the same key each time that this is asked of
    /// one order: one that was finished before gives the certificate for the key that it was finished with.
    pub async fn finalize(mut self, request: &[u8]) -> Result<String, Failure> {
        insistently!(DEADLINE, self.finalize_patiently(request))
    }

    async fn finalize_patiently(&mut self, request: &[u8]) -> Result<String, Failure> {
        let status = self.order.refresh().await.map_err(failure)?.status;
        match status {
            OrderStatus::Pending => self.wait_until_ready().await?,
            OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => {}
            OrderStatus::Invalid => return Err(self.why_invalid().await),
        }
        if self.order.state().status == OrderStatus::Ready {
            self.order.finalize_csr(request).await.map_err(failure)?;
        }
        self.order.poll_certificate(&POLLING).await.map_err(failure)
    }

    /// What the CA says of the proof that it did not accept, or of the order.
    async fn why_invalid(&mut self) -> Failure {
        let mut authorizations = self.order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else {
                break;
            };
            let problem = state.challenges.iter().find_map(|one| one.error.as_ref());
            if let Some(problem) = problem {
                return Failure::Refused(cut(problem.to_string()));
            }
        }
        let why = self.order.state().error.as_ref().map(ToString::to_string);
        Failure::Refused(cut(
            why.unwrap_or_else(|| "the ca holds the order for invalid".into())
        ))
    }
}

fn kind(challenge: Challenge) -> ChallengeType {
    match challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        Challenge::Dns01 => ChallengeType::Dns01,
    }
}

fn unoffered(challenge: Challenge) -> Failure {
    let word = challenge.word();
    Failure::Refused(format!("the ca takes no {word} for the name"))
}
