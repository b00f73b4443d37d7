//! The file and the documents: from what was written (low form) to what is used (high form); only the arrow between can fail.

pub mod model;

pub use model::*;
