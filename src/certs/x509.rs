//! What a certificate says of itself: names, issuer, validity. The only door to x509-parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use x509_parser::asn1_rs::ToDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::AttributeTypeAndValue;

/// The names of a subjectAltName (RFC 5280 section 4.2.1.6). The subject's common name is no name (RFC 9525 section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Lower case.
    pub(super) exact: Vec<Box<str>>,
    /// What follows `*.`, lower case. A wildcard elsewhere than as the whole first label is ignored, as browsers do.
    pub(super) wildcards: Vec<Box<str>>,
    pub(super) addresses: Vec<IpAddr>,
}

impl Names {
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty() && self.addresses.is_empty()
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => {
                let name = name.to_ascii_lowercase();
                match name.strip_prefix("*.") {
                    Some(suffix) if !suffix.is_empty() && !suffix.contains('*') => {
                        self.wildcards.push(suffix.into());
                    }
                    None if !name.is_empty() && !name.contains('*') => {
                        self.exact.push(name.into());
                    }
                    Some(_) | None => {}
                }
            }
            GeneralName::IPAddress(octets) => self.addresses.extend(address(octets)),
            _ => {}
        }
    }
}

pub(super) struct Facts {
    pub(super) names: Names,
    pub(super) issuer: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// Takes a certificate's DER; the error says why it is none.
pub(super) fn read(der: &[u8]) -> Result<Facts, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let mut names = Names::default();
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    if let Some(extension) = alternative {
        for name in &extension.value.general_names {
            names.add(name);
        }
    }
    Ok(Facts {
        names,
        issuer: certificate.issuer().to_string(),
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
    })
}

/// Whom a client's certificate is about, and when it is good.
pub(super) struct Holder {
    /// The sets of its distinguished name, as they stand in the certificate.
    pub(super) subject: Vec<Vec<Attribute>>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

pub(super) struct Attribute {
    /// Its type in dotted decimals.
    pub(super) oid: String,
    /// None: it is no text in ASCII or UTF-8.
    pub(super) text: Option<String>,
    /// The value with its tag and length.
    pub(super) der: Vec<u8>,
}

/// Takes a certificate's DER; the error says why it is none.
pub(super) fn holder(der: &[u8]) -> Result<Holder, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let mut subject = Vec::new();
    for set in certificate.subject().iter_rdn() {
        subject.push(set.iter().map(attribute).collect::<Result<_, _>>()?);
    }
    Ok(Holder {
        subject,
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
    })
}

fn attribute(one: &AttributeTypeAndValue<'_>) -> Result<Attribute, String> {
    let der = one.attr_value().to_der_vec();
    Ok(Attribute {
        oid: one.attr_type().to_id_string(),
        text: one.as_str().ok().map(str::to_owned),
        der: der.map_err(|error| error.to_string())?,
    })
}

/// Four octets or sixteen; anything else is no address.
fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen = <[u8; 16]>::try_from(octets).ok()?;
    Some(Ipv6Addr::from(sixteen).into())
}

/// Times before 1970 are 1970: nothing that is served was made then.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
