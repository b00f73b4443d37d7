//! The data plane: accept → TLS → parse → route → pick → send → relay → record, on a thread per core.

pub mod acknowledged;
pub mod answer;
pub mod buffer;
pub mod clients;
pub mod descriptors;
pub mod dialling;
pub mod exchange;
pub mod fields;
pub mod handshakes;
pub mod http1;
pub mod http2;
pub mod io;
pub mod lag;
pub mod linger;
pub mod listener;
pub mod pace;
pub mod plan;
pub mod pool;
pub mod proxy_protocol;
pub mod rarely;
pub mod refusal;
pub mod scratch;
pub mod seen;
pub mod stalls;
pub mod story;
pub mod timer;
pub mod tls_facts;
pub mod trace;
pub mod tunnel;
pub mod under_way;
pub mod worker;

pub use clients::Clients;
pub use descriptors::Descriptors;
pub use worker::{Start, WorkerOrder, start};
