//! What the load balancers of a pod share through Consul's KV beside their documents.

mod ticket_task;
pub mod tickets;

pub use ticket_task::TicketTask;
pub use tickets::TICKETS;
