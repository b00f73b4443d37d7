//! The one door to Consul: watches go in, observations come out. consulrs is named nowhere else.

mod client;
mod endpoints;
mod error;
mod follow;
mod hidden;
mod key;
mod leader;
mod middleware;
pub mod observation;
pub mod parse;
mod prefix;
mod question;
mod reply;
mod reread;
mod session;
mod subject;
mod sweep;
mod tag_watch;
mod transaction;
mod transport;
mod unread;
mod watch;
mod watcher;

pub use client::{Client, VALUE_BYTES};
pub use error::{Blame, ConsulError};
pub use follow::Pause;
pub use key::{KeyState, KeyWatch};
pub use middleware::Consistency;
pub use observation::{Check, CheckStatus, Document, Finding, Instance, Observation, Subtree};
pub use prefix::PrefixWatch;
pub use reply::LAST_CONTACT;
pub use session::{Renewal, SessionTerms};
pub use subject::LEADER_WATCH;
pub use transaction::{Objection, Step, TRANSACTION_STEPS, Taken};
pub use watcher::Watcher;
