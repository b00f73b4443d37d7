//! An answer of the agent's: its index, what speaks against believing it, its content read.

use std::time::Duration;

use http_02::Response;

use super::error::{ConsulError, excerpt};

/// A server that heard of its leader longer ago than this is far behind: a follower hears of it each second or so, whatever
/// `raft_multiplier` is, and one that hears nothing for long knows that it has no leader.
pub const LAST_CONTACT: Duration = Duration::from_secs(5);
/// A longer answer is read on a thread of its own, so that no other watch waits for it.
const LONG_BODY_BYTES: usize = 128 * 1024;

/// A readable answer.
#[derive(Debug)]
pub(super) struct Reply<T> {
    pub content: T,
    /// To wait beyond; 0: none was given.
    pub index: u64,
    /// Access control left something out.
    pub is_filtered: bool,
    /// Why only who knows nothing yet takes its content: a success that says too little.
    pub flaw: Option<ConsulError>,
    /// Why something of its content is what was known before: the token may not read it any more.
    pub hidden: Option<ConsulError>,
}

impl<T> Reply<T> {
    /// What to wait beyond; of an answer with a flaw there is nothing to wait for.
    pub(super) fn sound_index(&self) -> Result<u64, ConsulError> {
        match &self.flaw {
            None => Ok(self.index),
            Some(flaw) => Err(flaw.clone()),
        }
    }

    /// The content for who compares it with what was, and would take for gone what the token may not read.
    pub(super) fn whole(self) -> Result<T, ConsulError> {
        self.sound_index()?;
        match self.is_filtered {
            false => Ok(self.content),
            true => {
                let what = "the answer lacks what the token may not read";
                Err(ConsulError::Denied(what.into()))
            }
        }
    }
}

/// An answer whose content is not read yet.
pub(super) struct RawReply {
    pub(super) body: Vec<u8>,
    index: u64,
    is_filtered: bool,
    flaw: Option<ConsulError>,
}

impl RawReply {
    pub(super) async fn read<T: Send + 'static>(
        self,
        parse: impl FnOnce(&[u8]) -> Result<T, ConsulError> + Send + 'static,
    ) -> Result<Reply<T>, ConsulError> {
        let RawReply {
            body,
            index,
            is_filtered,
            flaw,
        } = self;
        let content = if body.len() > LONG_BODY_BYTES {
            tokio::task::spawn_blocking(move || parse(&body))
                .await
                .map_err(|error| ConsulError::Local(error.to_string()))??
        } else {
            parse(&body)?
        };
        Ok(Reply {
            content,
            index,
            is_filtered,
            flaw,
            hidden: None,
        })
    }
}

pub(super) fn raw(answer: Response<Vec<u8>>) -> RawReply {
    let header = |name: &str| answer.headers().get(name)?.to_str().ok();
    let number = |name: &str| header(name).and_then(|number| number.parse::<u64>().ok());
    let last_contact = Duration::from_millis(number("x-consul-lastcontact").unwrap_or(0));
    let is_empty = matches!(answer.body().trim_ascii(), b"[]" | b"{}" | b"null" | b"");
    let is_filtered = header("x-consul-results-filtered-by-acls") == Some("true");
    let flaw = if header("x-consul-knownleader") == Some("false") {
        Some(ConsulError::NoLeader)
    } else if last_contact > LAST_CONTACT {
        Some(ConsulError::Behind(last_contact))
    } else if is_filtered && is_empty {
        let what = "the answer is empty since the token may not read what it is about";
        Some(ConsulError::Denied(what.into()))
    } else {
        None
    };
    RawReply {
        index: number("x-consul-index").unwrap_or(0),
        is_filtered,
        flaw,
        body: answer.into_body(),
    }
}

pub(super) fn by_status(answer: &Response<Vec<u8>>, token: Option<&str>) -> ConsulError {
    let excerpt = excerpt(answer.body(), token);
    match answer.status().as_u16() {
        401 | 403 => ConsulError::Denied(excerpt),
        status => ConsulError::Server { status, excerpt },
    }
}
