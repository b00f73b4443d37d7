//! What the load balancers of a pod share through Consul's KV beside their documents.

pub mod counts;
mod namesake;
mod spread;
pub mod status;
mod status_task;
pub mod table_hash;
mod ticket_task;
pub mod tickets;
pub mod view;

pub use status_task::{Inputs, Knowledge, StatusTask};
pub use table_hash::TableHash;
pub use ticket_task::TicketTask;
pub use tickets::TICKETS;
pub use view::Fleet;
