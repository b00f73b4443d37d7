//! rota's own HTTP/1 codec: strict, without header maps, allocations or tasks of its own.

pub mod body;
pub mod connection;
pub mod head;
pub mod sink;
pub mod source;
