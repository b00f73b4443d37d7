//! Endpoints that consulrs lacks or cannot read, declared the way it declares its own. Their answers are read by `parse`.

use rustify_derive::Endpoint;
use serde::Serialize;

/// All instances of a service with all their checks, passing or not.
#[derive(Debug, Endpoint)]
#[endpoint(path = "health/service/{self.service}")]
pub struct HealthService {
    #[endpoint(skip)]
    pub service: String,
    #[endpoint(query)]
    pub tag: Option<String>,
    #[endpoint(query)]
    pub dc: Option<String>,
}

/// The checks of all nodes and services of a datacenter that are in a state; `any` is all of them.
#[derive(Debug, Endpoint)]
#[endpoint(path = "health/state/{self.state}")]
pub struct HealthState {
    #[endpoint(skip)]
    pub state: &'static str,
    #[endpoint(query)]
    pub dc: Option<String>,
}

/// The names of all services with the tags they have.
#[derive(Debug, Endpoint)]
#[endpoint(path = "catalog/services")]
pub struct CatalogServices {
    #[endpoint(query)]
    pub dc: Option<String>,
}

/// The address of the leader, empty without one. Needs no rights.
#[derive(Debug, Endpoint)]
#[endpoint(path = "status/leader")]
pub struct StatusLeader {
    #[endpoint(query)]
    pub dc: Option<String>,
}

/// What the token may do, each question answered by itself. Consul's own interface asks so; there since 1.8.
#[derive(Debug, Endpoint)]
#[endpoint(path = "internal/acl/authorize", method = "POST")]
pub struct AclAuthorize {
    #[endpoint(query)]
    pub dc: Option<String>,
    #[endpoint(raw)]
    pub body: Vec<u8>,
}

/// One question of [`AclAuthorize`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AccessQuestion<'a> {
    pub resource: &'static str,
    pub access: &'static str,
    pub segment: &'a str,
}

/// A new session. consulrs' own request cannot say that there are to be no checks.
#[derive(Debug, Endpoint)]
#[endpoint(path = "session/create", method = "PUT")]
pub struct SessionCreate {
    #[endpoint(query)]
    pub dc: Option<String>,
    #[endpoint(raw)]
    pub body: Vec<u8>,
}

/// Several steps on keys, of which all are taken or none.
#[derive(Debug, Endpoint)]
#[endpoint(path = "txn", method = "PUT")]
pub struct Transaction {
    #[endpoint(query)]
    pub dc: Option<String>,
    #[endpoint(raw)]
    pub body: Vec<u8>,
}
