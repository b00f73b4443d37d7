//! The names of reqwest 0.11 that rustify and consulrs mention; every one of them that would do I/O answers with an error instead.
#![forbid(unsafe_code)]

use std::fmt;

/// What each call that would have done I/O returns.
#[derive(Debug)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this build has no reqwest; rota speaks to consul over its own transport")
    }
}

impl std::error::Error for Error {}

/// Stands for a certificate authority; never read.
pub struct Certificate;

impl Certificate {
    pub fn from_pem(_pem: &[u8]) -> Result<Self, Error> {
        Err(Error)
    }
}

/// Stands for a client certificate; never read.
pub struct Identity;

impl Identity {
    pub fn from_pem(_pem: &[u8]) -> Result<Self, Error> {
        Err(Error)
    }
}

/// Builds nothing.
#[derive(Default)]
pub struct ClientBuilder;

impl ClientBuilder {
    pub fn new() -> Self {
        Self
    }
    pub fn add_root_certificate(self, _certificate: Certificate) -> Self {
        self
    }
    pub fn identity(self, _identity: Identity) -> Self {
        self
    }
    pub fn danger_accept_invalid_certs(self, _accept: bool) -> Self {
        self
    }
    pub fn timeout(self, _timeout: std::time::Duration) -> Self {
        self
    }
    pub fn build(self) -> Result<Client, Error> {
        Err(Error)
    }
}

/// Sends nothing.
#[derive(Default)]
pub struct Client;

impl Client {
    pub async fn execute(&self, _request: Request) -> Result<Response, Error> {
        Err(Error)
    }
}

/// Cannot be built: `try_from` always answers [`Error`].
pub enum Request {}

impl Request {
    pub fn url(&self) -> &url::Url {
        match *self {}
    }
    pub fn method(&self) -> &http::Method {
        match *self {}
    }
}

impl TryFrom<http::Request<Vec<u8>>> for Request {
    type Error = Error;
    fn try_from(_request: http::Request<Vec<u8>>) -> Result<Self, Error> {
        Err(Error)
    }
}

/// Cannot be built.
pub enum Response {}

impl Response {
    pub fn status(&self) -> http::StatusCode {
        match *self {}
    }
    pub fn headers(&self) -> &http::HeaderMap {
        match *self {}
    }
    pub async fn bytes(self) -> Result<bytes::Bytes, Error> {
        match self {}
    }
}
