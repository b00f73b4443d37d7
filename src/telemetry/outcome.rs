//! How one request ended: recorded once, at its end; access log, metrics and passive health are all fed from it. Hot path.

use std::net::IpAddr;
use std::time::Duration;

/// Why a request ended as it did, as logs and `rota why` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The server's own answer.
    Answered,
    Redirected,
    /// A CA asked for a proof (ACME), and got it.
    Proven,
    NoRoute,
    /// The service has nobody on the rota.
    NoUpstream,
    /// The request could not be read or is ambiguous.
    BadRequest,
    HeadTooLarge,
    TargetTooLong,
    BodyTooLarge,
    /// The head or body came too slowly.
    ClientTimeout,
    MethodNotAllowed,
    NotImplemented,
    Misdirected,
    /// The client went away before its answer was complete.
    ClientAborted,
    /// Each attempt's connection was refused or timed out.
    ConnectFailed,
    /// The server closed, reset, or spoke no HTTP before an answer.
    UpstreamBroken,
    UpstreamTimeout,
    /// The answer was cut in its middle, and so was ours.
    UpstreamTruncated,
    /// rota stopped before the answer was complete.
    Stopped,
    /// No descriptor or local port was left for a connection to a server.
    Exhausted,
    /// As many requests as its service may have at once were under way, and the queue was full or took too long.
    Overloaded,
    /// A panic of ours.
    Internal,
}

impl Reason {
    pub const ALL: [Reason; 22] = [
        Reason::Answered,
        Reason::Redirected,
        Reason::Proven,
        Reason::NoRoute,
        Reason::NoUpstream,
        Reason::BadRequest,
        Reason::HeadTooLarge,
        Reason::TargetTooLong,
        Reason::BodyTooLarge,
        Reason::ClientTimeout,
        Reason::MethodNotAllowed,
        Reason::NotImplemented,
        Reason::Misdirected,
        Reason::ClientAborted,
        Reason::ConnectFailed,
        Reason::UpstreamBroken,
        Reason::UpstreamTimeout,
        Reason::UpstreamTruncated,
        Reason::Stopped,
        Reason::Exhausted,
        Reason::Overloaded,
        Reason::Internal,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Reason::Answered => "answered",
            Reason::Redirected => "redirected",
            Reason::Proven => "proven",
            Reason::NoRoute => "no_route",
            Reason::NoUpstream => "no_upstream",
            Reason::BadRequest => "bad_request",
            Reason::HeadTooLarge => "head_too_large",
            Reason::TargetTooLong => "target_too_long",
            Reason::BodyTooLarge => "body_too_large",
            Reason::ClientTimeout => "client_timeout",
            Reason::MethodNotAllowed => "method_not_allowed",
            Reason::NotImplemented => "not_implemented",
            Reason::Misdirected => "misdirected",
            Reason::ClientAborted => "client_aborted",
            Reason::ConnectFailed => "connect_failed",
            Reason::UpstreamBroken => "upstream_broken",
            Reason::UpstreamTimeout => "upstream_timeout",
            Reason::UpstreamTruncated => "upstream_truncated",
            Reason::Stopped => "stopped",
            Reason::Exhausted => "exhausted",
            Reason::Overloaded => "overloaded",
            Reason::Internal => "internal",
        }
    }

    /// For people.
    pub fn meaning(self) -> &'static str {
        match self {
            Reason::Answered => "a server's own answer",
            Reason::Redirected => "sent to https",
            Reason::Proven => "a CA was shown a proof",
            Reason::NoRoute => "no route has its host and path",
            Reason::NoUpstream => "nobody of the service could be asked",
            Reason::BadRequest => "it could not be read or was ambiguous",
            Reason::HeadTooLarge => "its head is beyond limits.head_bytes or limits.head_fields",
            Reason::TargetTooLong => "its target is beyond limits.target_bytes",
            Reason::BodyTooLarge => "its body is beyond limits.body_bytes",
            Reason::ClientTimeout => "its head or body came too slowly",
            Reason::MethodNotAllowed => "its method is not forwarded",
            Reason::NotImplemented => "it asks for what rota does not do",
            Reason::Misdirected => "its connection's certificate does not cover its host",
            Reason::ClientAborted => "the client went away before its answer was complete",
            Reason::ConnectFailed => "connections were refused or took too long",
            Reason::UpstreamBroken => "the server closed, reset, or spoke no http before an answer",
            Reason::UpstreamTimeout => "no answer within timeouts.response",
            Reason::UpstreamTruncated => "the server's answer was cut in its middle",
            Reason::Stopped => "rota stopped before the answer was complete",
            Reason::Exhausted => {
                "no descriptor or local port was left for a connection to a server"
            }
            Reason::Overloaded => {
                "the service's max_in_flight were under way, and the queue was full or took too long"
            }
            Reason::Internal => "an error of rota's own",
        }
    }
}

/// One request's end. Borrowed from the connection's buffers: nothing is allocated to record it.
#[derive(Debug)]
pub struct Outcome<'a> {
    pub listener: &'a str,
    pub client: IpAddr,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub version: &'static str,
    pub tls: bool,
    /// As sent; empty when it could not be read.
    pub method: &'a str,
    pub host: &'a str,
    /// The target as sent, query included.
    pub target: &'a str,
    pub request_id: &'a str,
    /// 0: no answer was sent.
    pub status: u16,
    pub reason: Reason,
    pub route: Option<&'a str>,
    pub service: Option<&'a str>,
    /// The last upstream tried.
    pub upstream: Option<&'a str>,
    /// Upstreams tried.
    pub attempts: u32,
    /// From the head's first byte to the answer's last.
    pub duration: Duration,
    /// Body bytes from and to the client.
    pub received: u64,
    pub sent: u64,
}
