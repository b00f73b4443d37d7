//! An operator's word for the whole pod or for this LB alone: who said it, when, and until when it holds. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub by: String,
    pub at: SystemTime,
    pub until: Option<SystemTime>,
}

/// `<prefix>/operator/…` as written: times in Unix seconds.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    by: String,
    at: u64,
    #[serde(default)]
    until: Option<u64>,
}

impl Word {
    /// From `now` on; an end beyond what time can be told is none.
    pub fn begun(by: String, now: SystemTime, lasting: Option<Duration>) -> Word {
        Word {
            by,
            at: now,
            until: lasting.and_then(|span| now.checked_add(span)),
        }
    }

    /// The document that says so for the whole pod.
    pub fn to_json(&self) -> Vec<u8> {
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs()
        };
        let written = Written {
            by: self.by.clone(),
            at: seconds(self.at),
            until: self.until.map(seconds),
        };
        serde_json::to_vec(&written).expect("strings and numbers are always JSON")
    }

    pub fn from_json(bytes: &[u8]) -> Result<Word, String> {
        let written: Written = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let time = |seconds: u64| {
            UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .ok_or_else(|| format!("{seconds} is no time"))
        };
        Ok(Word {
            by: written.by,
            at: time(written.at)?,
            until: written.until.map(time).transpose()?,
        })
    }

    pub fn is_over(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// `by alice`, for people.
    pub fn evidence(&self) -> String {
        match self.until {
            None => format!("by {}", self.by),
            Some(until) => {
                let seconds = until.duration_since(self.at).unwrap_or_default().as_secs();
                format!("by {} for {seconds} s", self.by)
            }
        }
    }
}
