//! An operator's orders: from JSON to an [`Order`], carried out by whoever implements [`Control`].

use std::pin::Pin;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::access::Refusal;
use super::views::span;
use crate::routing::ServiceName;
use crate::routing::operator::{
    CertificateOrder, Matter, Order, OrderError, Reach, ShiftOrder, Target,
};
use crate::routing::operator::{MAX_ACCEPT, USUAL_ACCEPT};
use crate::routing::staged::{Staging, StagingAnswer, StagingError};

/// The target that means the LB itself; no service can be called so.
pub const SELF: &str = "@self";
/// What is accepted where the pod's documents are meant.
pub const DOCUMENTS: &str = "documents";
/// The longest name an operator may go by, in bytes.
pub const MAX_BY_LEN: usize = 128;
/// The longest a drain with an end may last.
pub const MAX_DRAIN: Duration = Duration::from_secs(30 * 86_400);

/// Gives a message for people.
pub type Carried = Pin<Box<dyn Future<Output = Result<String, OrderError>> + Send>>;

/// Gives what is known of staged documents.
pub type Answered = Pin<Box<dyn Future<Output = Result<StagingAnswer, StagingError>> + Send>>;

/// Carries out orders; implemented by the control plane.
pub trait Control: Send + Sync {
    fn order(&self, order: Order) -> Carried;
    fn shift(&self, order: ShiftOrder) -> Carried;
    fn order_certificate(&self, order: CertificateOrder) -> Carried;
    fn stage(&self, staging: Staging) -> Answered;
}

/// The body of `POST /v1/certificates/renew`, `/revoke` and `/rekey`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// The certificate's; not for `rekey`, which is about all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For `renew`, in the place of a name: whose certificates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Who wants it, for the log.
    pub by: String,
}

/// What is wanted of certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateVerb {
    Renew,
    Revoke,
    Rekey,
}

impl CertificateRequest {
    /// The order, and how the log tells it. The error is a message.
    pub fn into_order(self, verb: CertificateVerb) -> Result<(CertificateOrder, String), String> {
        let by = checked_by(&self.by)?;
        let by = by.escape_debug();
        if self.all && (verb != CertificateVerb::Renew || self.name.is_some()) {
            return Err("\"all\" is for renew alone, in the place of a name".into());
        }
        match (verb, self.name) {
            (CertificateVerb::Renew, None) if self.all => {
                Ok((CertificateOrder::RenewAll, format!("renew all by {by}")))
            }
            (CertificateVerb::Renew, Some(name)) => {
                let said = format!("renew {} by {by}", name.escape_debug());
                Ok((CertificateOrder::Renew(name), said))
            }
            (CertificateVerb::Revoke, Some(name)) => {
                let said = format!("revoke {} by {by}", name.escape_debug());
                Ok((CertificateOrder::Revoke(name), said))
            }
            (CertificateVerb::Rekey, None) => {
                Ok((CertificateOrder::Rekey, format!("rekey by {by}")))
            }
            (CertificateVerb::Renew | CertificateVerb::Revoke, None) => {
                Err("\"name\" says whose certificate".into())
            }
            (CertificateVerb::Rekey, Some(_)) => Err("all is sealed anew: there is no name".into()),
        }
    }
}

pub(super) fn checked_by(by: &str) -> Result<String, String> {
    let by = by.trim().to_owned();
    match by.is_empty() || by.len() > MAX_BY_LEN || by.chars().any(char::is_control) {
        true => Err(format!(
            "\"by\" is 1 to {MAX_BY_LEN} bytes without control characters"
        )),
        false => Ok(by),
    }
}

/// The body of `POST /v1/drain`, `/v1/undrain` and `/v1/accept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// `SERVICE`, `SERVICE/SERVER`; for a drain also `@self`, to accept also `documents`.
    pub target: String,
    pub reach: RequestReach,
    /// Who wants it, for log and explanations.
    pub by: String,
    /// How long: `90s`, `10m`, `2h`, `1d`; absent: a drain until undrained, an acceptance for a minute.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub for_span: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestReach {
    Pod,
    Here,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Drain,
    Undrain,
    Accept,
}

impl Request {
    /// The order, with every part checked but whether its target exists. The error is a message.
    pub fn into_order(self, verb: Verb) -> Result<Order, String> {
        let by = checked_by(&self.by)?;
        let span = self.for_span.as_deref().map(parse_span).transpose()?;
        let reach = match self.reach {
            RequestReach::Pod => Reach::Pod,
            RequestReach::Here => Reach::Here,
        };
        match (verb, span) {
            (Verb::Drain, lasting) => Ok(Order::Drain {
                target: parse_target(&self.target)?,
                reach,
                by,
                lasting,
            }),
            (Verb::Undrain, None) => Ok(Order::Undrain {
                target: parse_target(&self.target)?,
                reach,
                by,
            }),
            (Verb::Undrain, Some(_)) => Err("\"for\" is a drain's".into()),
            (Verb::Accept, span) => Ok(Order::Accept {
                matter: parse_matter(&self.target)?,
                reach,
                by,
                lasting: acceptance(span)?,
            }),
        }
    }
}

/// Takes `SERVICE`, `SERVICE/SERVER` or `@self`. The error is a message.
pub fn parse_target(text: &str) -> Result<Target, String> {
    if text == SELF {
        return Ok(Target::Node);
    }
    let (service, server) = match text.split_once('/') {
        Some((service, server)) => (service, Some(server)),
        None => (text, None),
    };
    let service =
        ServiceName::parse(service).ok_or_else(|| format!("{service:?} is no service's name"))?;
    match server {
        None => Ok(Target::Service(service)),
        Some(server)
            if (1..=320).contains(&server.len()) && !server.chars().any(char::is_control) =>
        {
            Ok(Target::Server(service, server.to_owned()))
        }
        Some(server) => Err(format!("{server:?} is no server: it is address:port")),
    }
}

/// Takes `SERVICE`, `SERVICE/SERVER` or `documents`, which are the pod's: of a service called so each server can be named. The
/// error is a message.
pub fn parse_matter(text: &str) -> Result<Matter, String> {
    if text == DOCUMENTS {
        return Ok(Matter::Documents);
    }
    match parse_target(text)? {
        Target::Service(service) => Ok(Matter::Service(service)),
        Target::Server(service, server) => Ok(Matter::Server(service, server)),
        Target::Node => Err(format!("{SELF} is nothing that consul speaks of")),
    }
}

/// How long an acceptance holds; what is absent is [`USUAL_ACCEPT`]. The error is a message.
fn acceptance(span: Option<Duration>) -> Result<Duration, String> {
    match span {
        None => Ok(USUAL_ACCEPT),
        Some(span) if span <= MAX_ACCEPT => Ok(span),
        Some(_) => {
            Err("an acceptance holds for an hour at most: meanwhile nothing is doubted".into())
        }
    }
}

/// Takes a whole number and its unit: `90s`, `10m`, `2h`, `1d`; 1 s to [`MAX_DRAIN`]. The error is a message.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no span: it is like 90s, 10m, 2h or 1d, at most 30d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let count: u32 = digits.parse().map_err(|_| wrong())?;
    let span = Duration::from_secs(u64::from(count) * unit);
    if span.is_zero() || span > MAX_DRAIN || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    Ok(span)
}

/// An order as the log tells it: `drain shop/10.0.0.7:8080 here by ops@lb for 10m00s`. Letters that a log should not hold are escaped.
pub fn described(order: &Order) -> String {
    let (verb, target, reach, by, lasting) = match order {
        Order::Accept {
            matter,
            reach,
            by,
            lasting,
        } => ("accept", of_matter(matter), reach, by, Some(*lasting)),
        Order::Drain {
            target,
            reach,
            by,
            lasting,
        } => ("drain", of_target(target), reach, by, *lasting),
        Order::Undrain { target, reach, by } => ("undrain", of_target(target), reach, by, None),
    };
    let reach = match reach {
        Reach::Pod => "for the pod",
        Reach::Here => "here",
    };
    let lasting = lasting.map_or_else(String::new, |time| format!(" for {}", span(time.as_secs())));
    format!("{verb} {target} {reach} by {}{lasting}", by.escape_debug())
}

fn of_target(target: &Target) -> String {
    match target {
        Target::Service(service) => service.to_string(),
        Target::Server(service, server) => format!("{service}/{}", server.escape_debug()),
        Target::Node => SELF.to_owned(),
    }
}

fn of_matter(matter: &Matter) -> String {
    match matter {
        Matter::Service(service) => service.to_string(),
        Matter::Server(service, server) => format!("{service}/{}", server.escape_debug()),
        Matter::Documents => DOCUMENTS.to_owned(),
    }
}

/// How an order that was not carried out is answered.
pub fn refusal(error: &OrderError) -> Refusal {
    let status = match error {
        OrderError::Unknown(_) => StatusCode::NOT_FOUND,
        OrderError::Failed(_) => StatusCode::CONFLICT,
        OrderError::NoConsul(_) | OrderError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refusal::new(status, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, for_span: Option<&str>) -> Request {
        Request {
            target: target.into(),
            reach: RequestReach::Here,
            by: "ops@lb".into(),
            for_span: for_span.map(str::to_owned),
        }
    }

    #[test]
    fn a_target_is_a_service_a_server_or_the_lb_itself() {
        assert_eq!(parse_target("@self"), Ok(Target::Node));
        assert_eq!(parse_target("shop"), Ok(Target::Service("shop".into())));
        let server = Target::Server("shop".into(), "10.0.0.7:80".into());
        assert_eq!(parse_target("shop/10.0.0.7:80"), Ok(server));
        for wrong in ["", "/", "shop/", "a b", "@other", "shop/\n"] {
            assert!(parse_target(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_span_has_a_unit_and_an_end() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_span("30d"), Ok(MAX_DRAIN));
        for wrong in [
            "",
            "10",
            "m",
            "0s",
            "-1s",
            "+1s",
            "1.5h",
            "31d",
            "99999999999d",
            "1é",
        ] {
            assert!(parse_span(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_acceptance_is_short_and_about_what_consul_speaks_of() {
        let order = |target: &str, span| request(target, span).into_order(Verb::Accept);
        let Ok(Order::Accept {
            matter, lasting, ..
        }) = order("documents", None)
        else {
            panic!("an acceptance");
        };
        assert_eq!((matter, lasting), (Matter::Documents, USUAL_ACCEPT));
        assert!(order("shop/10.0.0.7:80", Some("1h")).is_ok());
        assert!(order("shop", Some("2h")).is_err());
        assert!(order("@self", None).is_err());
    }

    #[test]
    fn an_order_is_told_as_it_is_given() {
        let said = |target: &str, reach, verb, time| {
            let request = Request {
                reach,
                ..request(target, time)
            };
            described(&request.into_order(verb).unwrap())
        };
        assert_eq!(
            said(
                "shop/10.0.0.7:80",
                RequestReach::Here,
                Verb::Drain,
                Some("10m")
            ),
            "drain shop/10.0.0.7:80 here by ops@lb for 10m00s"
        );
        assert_eq!(
            said("shop", RequestReach::Pod, Verb::Undrain, None),
            "undrain shop for the pod by ops@lb"
        );
        assert_eq!(
            said("@self", RequestReach::Here, Verb::Drain, None),
            "drain @self here by ops@lb"
        );
    }

    #[test]
    fn a_drain_ends_when_it_says_and_an_undrain_has_no_end() {
        let order = request("shop", Some("10m")).into_order(Verb::Drain);
        match order.unwrap() {
            Order::Drain { lasting, .. } => assert_eq!(lasting, Some(Duration::from_secs(600))),
            Order::Undrain { .. } | Order::Accept { .. } => panic!("a drain"),
        }
        assert!(
            request("shop", Some("10m"))
                .into_order(Verb::Undrain)
                .is_err()
        );
        let mut nobody = request("shop", None);
        nobody.by = " \t".into();
        assert!(nobody.into_order(Verb::Drain).is_err());
    }
}
