//! What both kinds of micro-benchmark run: each case is prepared and run once, so that nothing is cold, then run again and again.

pub mod heads;
pub mod requests;
pub mod tables;
