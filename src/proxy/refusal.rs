//! Errors of the data plane, sorted by blame: each with its status, its reason, and whether it may be sent again.

use crate::routing::measured::AttemptOutcome;
use crate::routing::upstream::PassiveFault;
use crate::telemetry::Reason;

/// Why rota answers a request itself instead of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    // The client's fault.
    Malformed(&'static str),
    HeadTooLarge,
    TooManyFields,
    TargetTooLong,
    BodyTooLarge,
    ClientTimeout,
    MethodNotAllowed,
    /// Something else than `100-continue` is expected.
    Expectation,
    /// A transfer coding that rota does not know.
    UnknownCoding,
    /// HTTP/2 or higher over clear text, or a version that isn't 1.x.
    Version,
    Misdirected,
    NoRoute,
    // The servers'.
    NoUpstream,
    ConnectFailed,
    ConnectTimeout,
    UpstreamBroken,
    /// WebSocket for a service whose servers speak HTTP/2.
    NoWebSocket,
    UpstreamTimeout,
    // Ours.
    /// No descriptor or local port for a connection to a server.
    Exhausted,
    /// The service's `max_in_flight` are under way, and as many wait as may, or this one has waited as long.
    Overloaded,
    Internal,
}

impl Refusal {
    pub fn status(self) -> u16 {
        match self {
            Refusal::Malformed(_) => 400,
            Refusal::HeadTooLarge | Refusal::TooManyFields => 431,
            Refusal::TargetTooLong => 414,
            Refusal::BodyTooLarge => 413,
            Refusal::ClientTimeout => 408,
            Refusal::MethodNotAllowed => 405,
            Refusal::Expectation => 417,
            Refusal::UnknownCoding | Refusal::NoWebSocket => 501,
            Refusal::Version => 505,
            Refusal::Misdirected => 421,
            Refusal::NoRoute => 404,
            Refusal::NoUpstream | Refusal::Exhausted | Refusal::Overloaded => 503,
            Refusal::ConnectFailed | Refusal::UpstreamBroken => 502,
            Refusal::ConnectTimeout | Refusal::UpstreamTimeout => 504,
            Refusal::Internal => 500,
        }
    }

    pub fn reason(self) -> Reason {
        match self {
            Refusal::Malformed(_) | Refusal::Version | Refusal::Expectation => Reason::BadRequest,
            Refusal::HeadTooLarge | Refusal::TooManyFields => Reason::HeadTooLarge,
            Refusal::TargetTooLong => Reason::TargetTooLong,
            Refusal::BodyTooLarge => Reason::BodyTooLarge,
            Refusal::ClientTimeout => Reason::ClientTimeout,
            Refusal::MethodNotAllowed => Reason::MethodNotAllowed,
            Refusal::UnknownCoding | Refusal::NoWebSocket => Reason::NotImplemented,
            Refusal::Misdirected => Reason::Misdirected,
            Refusal::NoRoute => Reason::NoRoute,
            Refusal::NoUpstream => Reason::NoUpstream,
            Refusal::ConnectFailed | Refusal::ConnectTimeout => Reason::ConnectFailed,
            Refusal::UpstreamBroken => Reason::UpstreamBroken,
            Refusal::UpstreamTimeout => Reason::UpstreamTimeout,
            Refusal::Exhausted => Reason::Exhausted,
            Refusal::Overloaded => Reason::Overloaded,
            Refusal::Internal => Reason::Internal,
        }
    }

    /// What the client reads in the body.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::Malformed(what) => what,
            Refusal::HeadTooLarge => "the head of the request is too large",
            Refusal::TooManyFields => "the request has too many header fields",
            Refusal::TargetTooLong => "the request target is too long",
            Refusal::BodyTooLarge => "the request body is too large",
            Refusal::ClientTimeout => "the request came too slowly",
            Refusal::MethodNotAllowed => "this method is not forwarded",
            Refusal::Expectation => "only 100-continue can be expected",
            Refusal::UnknownCoding => "this transfer coding is not known",
            Refusal::Version => "this version of http is not spoken here",
            Refusal::Misdirected => "the connection's certificate does not cover this host",
            Refusal::NoRoute => "no route for this host and path",
            Refusal::NoUpstream => "no server is available, try again",
            Refusal::ConnectFailed => "no server could be reached",
            Refusal::ConnectTimeout => "no server could be reached in time",
            Refusal::UpstreamBroken => "the server did not answer in http",
            Refusal::NoWebSocket => "no websocket goes to servers that speak http/2",
            Refusal::UpstreamTimeout => "the server did not answer in time",
            Refusal::Exhausted => "the load balancer has too many connections, try again",
            Refusal::Overloaded => "too many requests are under way, try again",
            Refusal::Internal => "an error of the load balancer",
        }
    }

    /// Whether the connection can't be used for another request: its framing is in doubt, or it holds what nobody will read.
    pub fn ends_connection(self) -> bool {
        match self {
            Refusal::Malformed(_)
            | Refusal::HeadTooLarge
            | Refusal::TooManyFields
            | Refusal::TargetTooLong
            | Refusal::BodyTooLarge
            | Refusal::ClientTimeout
            | Refusal::UnknownCoding
            | Refusal::Expectation
            | Refusal::Version
            | Refusal::MethodNotAllowed
            | Refusal::Internal => true,
            Refusal::Misdirected
            | Refusal::NoRoute
            | Refusal::NoUpstream
            | Refusal::ConnectFailed
            | Refusal::ConnectTimeout
            | Refusal::UpstreamBroken
            | Refusal::NoWebSocket
            | Refusal::Exhausted
            | Refusal::Overloaded
            | Refusal::UpstreamTimeout => false,
        }
    }
}

/// How an attempt at a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused or unreachable: no byte was taken.
    Refused,
    ConnectTimeout,
    /// The certificate is not valid, or TLS could not be agreed on: no byte was taken.
    Tls,
    /// HTTP/2 could not be agreed on: no byte of the request was sent.
    NotHttp2,
    /// Ours: no descriptor or port; says nothing about the server.
    Local,
    /// The server was ending its HTTP/2 connection (GOAWAY), and says that it did not look at the request.
    GoneAway,
    /// The server did not take the request just now (REFUSED_STREAM), and says that it did not look at it.
    StreamRefused,
    /// Found closed by the first write: no byte was taken.
    ClosedUnsent,
    /// Closed or reset before the answer's first byte.
    ClosedBeforeAnswer,
    /// The answer is not HTTP, ambiguous, or was cut in its head.
    BadAnswer,
    /// Its status is one that the service's policy counts as a failure.
    Status(u16),
    /// The deadline of all attempts had passed before this server was asked.
    TooLate,
    /// No answer within the deadline of all attempts.
    Timeout,
}

impl Fault {
    pub fn refusal(self) -> Refusal {
        match self {
            Fault::Refused | Fault::Tls => Refusal::ConnectFailed,
            Fault::ConnectTimeout => Refusal::ConnectTimeout,
            Fault::Local => Refusal::Exhausted,
            Fault::GoneAway | Fault::StreamRefused => Refusal::NoUpstream,
            Fault::NotHttp2
            | Fault::ClosedUnsent
            | Fault::ClosedBeforeAnswer
            | Fault::BadAnswer
            | Fault::Status(_) => Refusal::UpstreamBroken,
            Fault::TooLate | Fault::Timeout => Refusal::UpstreamTimeout,
        }
    }

    pub fn outcome(self) -> AttemptOutcome {
        match self {
            Fault::Refused | Fault::Tls | Fault::Local => AttemptOutcome::ConnectRefused,
            Fault::ConnectTimeout => AttemptOutcome::ConnectTimeout,
            Fault::NotHttp2
            | Fault::GoneAway
            | Fault::StreamRefused
            | Fault::ClosedUnsent
            | Fault::ClosedBeforeAnswer
            | Fault::BadAnswer => AttemptOutcome::Broken,
            Fault::Status(_) => AttemptOutcome::ServerError,
            Fault::TooLate | Fault::Timeout => AttemptOutcome::Timeout,
        }
    }

    /// What went wrong at the server, as `rota why` tells it.
    pub fn text(self) -> &'static str {
        match self {
            Fault::Refused => "the connection was refused, or nobody is reachable there",
            Fault::ConnectTimeout => "no connection in time",
            Fault::Tls => "its certificate is not valid, or tls could not be agreed on",
            Fault::NotHttp2 => "http/2 could not be agreed on",
            Fault::Local => "this load balancer had no descriptor or port left for a connection",
            Fault::GoneAway => "it was ending its http/2 connection",
            Fault::StreamRefused => "it took no more streams",
            Fault::ClosedUnsent => "it had closed the connection before a byte was written",
            Fault::ClosedBeforeAnswer => {
                "it closed or reset the connection before its answer began"
            }
            Fault::BadAnswer => "its answer is not http, is ambiguous, or was cut in its head",
            Fault::Status(_) => "its status is one that is tried elsewhere",
            Fault::TooLate => "no time was left to ask it",
            Fault::Timeout => "no answer in time",
        }
    }

    /// What passive health hears of it.
    pub fn passive(self) -> Option<PassiveFault> {
        match self {
            Fault::Refused => Some(PassiveFault::Refused),
            Fault::Tls => Some(PassiveFault::Tls),
            Fault::ConnectTimeout => Some(PassiveFault::ConnectTimeout),
            // A server that ends a connection in good order, has its hands full or was never asked is not sick.
            Fault::Local | Fault::TooLate | Fault::GoneAway | Fault::StreamRefused => None,
            Fault::NotHttp2
            | Fault::ClosedUnsent
            | Fault::ClosedBeforeAnswer
            | Fault::BadAnswer => Some(PassiveFault::Broken),
            Fault::Status(code) => Some(PassiveFault::Status(code)),
            Fault::Timeout => Some(PassiveFault::Timeout),
        }
    }

    /// The server may have begun its answer, or used up all the time: sending it again is never right.
    pub fn is_final(self) -> bool {
        match self {
            Fault::BadAnswer | Fault::TooLate | Fault::Timeout => true,
            Fault::Refused
            | Fault::ConnectTimeout
            | Fault::Tls
            | Fault::NotHttp2
            | Fault::Local
            | Fault::GoneAway
            | Fault::StreamRefused
            | Fault::ClosedUnsent
            | Fault::ClosedBeforeAnswer
            | Fault::Status(_) => false,
        }
    }

    /// On a connection that was used before this is a race with its server's ending it, and says nothing about the server.
    pub fn is_race(self) -> bool {
        match self {
            Fault::ClosedUnsent | Fault::ClosedBeforeAnswer | Fault::GoneAway => true,
            Fault::Refused
            | Fault::ConnectTimeout
            | Fault::Tls
            | Fault::NotHttp2
            | Fault::Local
            | Fault::StreamRefused
            | Fault::BadAnswer
            | Fault::Status(_)
            | Fault::TooLate
            | Fault::Timeout => false,
        }
    }

    /// No byte of the request was written, or none looked at: sending it elsewhere is always safe and needs no budget.
    pub fn is_before_sending(self) -> bool {
        match self {
            Fault::Refused
            | Fault::ConnectTimeout
            | Fault::Tls
            | Fault::NotHttp2
            | Fault::Local
            | Fault::GoneAway
            | Fault::StreamRefused
            | Fault::ClosedUnsent => true,
            Fault::ClosedBeforeAnswer
            | Fault::BadAnswer
            | Fault::Status(_)
            | Fault::TooLate
            | Fault::Timeout => false,
        }
    }
}
