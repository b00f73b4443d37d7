//! A state directory that two processes write to: a load balancer that runs, and a command beside it.
//!
//! They take turns by a lock on a file, so that a change is compared with what is there and put in its place as one step; and the one
//! that follows a folder looks at it again and again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::{Directory, FOLDER, Files, Follower, away, make_folder};
use crate::control::store::{Seen, StoreError, Watch};
use crate::seal::Keyring;

/// Locked by who writes, for as long as it takes.
const TURN: &str = "writing";
/// Writing takes milliseconds: who has not had its turn after this is told so.
const TURN_PATIENCE: Duration = Duration::from_secs(10);
const TURN_PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at a folder that others write to.
const LOOK_EACH: Duration = Duration::from_millis(500);
/// A folder's time is this coarse at worst: what changed so lately may have changed again since.
const LATELY: Duration = Duration::from_secs(3);

impl Directory {
    /// As [`Directory::open`], whoever else uses the state directory. Nothing is sealed anew. Blocking.
    pub(in crate::control::store) fn open_beside(
        state_dir: &Path,
        keyring: Option<Arc<Keyring>>,
    ) -> Result<Directory, String> {
        let root = state_dir.join(FOLDER);
        make_folder(&root)
            .map_err(|error| format!("node.state_dir: {}: {error}", root.display()))?;
        Ok(Directory(Arc::new(Files {
            _lock: None,
            root,
            keyring: Mutex::new(keyring),
            followers: Mutex::default(),
            held: Mutex::default(),
        })))
    }

    /// As [`Directory::watch`], and what other processes put into that folder or take out of it.
    pub(in crate::control::store) fn watch_with_others(&self, prefix: &str) -> Watch {
        let (says, states) = watch::channel(Seen::Unknown);
        let follower = Follower {
            prefix: prefix.to_owned(),
            says: says.clone(),
        };
        let looking = tokio::spawn(look_again_and_again(self.clone(), follower));
        Watch {
            states,
            _following: None,
            _looking: Some(Looking(looking.abort_handle())),
        }
    }
}

/// Goes on until this is dropped.
pub(in crate::control::store) struct Looking(AbortHandle);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn look_again_and_again(directory: Directory, follower: Follower) {
    let Follower { prefix, says } = follower;
    let (first, its_prefix) = (says.clone(), prefix.clone());
    let begun = directory.blocking(move |files| {
        let mut followers = files.followers.lock().expect("no panic while held");
        let seen = files.changed_at(&its_prefix);
        first.send_replace(Seen::Is(Arc::new(files.below(&its_prefix))));
        followers.push(Follower {
            prefix: its_prefix,
            says: first,
        });
        Ok(seen)
    });
    let mut seen = begun.await.ok().flatten();
    loop {
        sleep(LOOK_EACH).await;
        let (before, prefix, says) = (seen, prefix.clone(), says.clone());
        let looked = directory.blocking(move |files| Ok(files.look(&prefix, &says, before)));
        seen = looked.await.unwrap_or(seen);
    }
}

impl Files {
    /// Ends with the value. Blocking.
    pub(super) fn turn(&self) -> Result<File, StoreError> {
        let path = self.root.with_file_name(TURN);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|error| away(&path, &error))?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(away(&path, &error)),
                Err(TryLockError::WouldBlock) if begun.elapsed() > TURN_PATIENCE => {
                    return Err(StoreError::Away(format!(
                        "{}: another process has been writing for {TURN_PATIENCE:?}",
                        path.display()
                    )));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(TURN_PAUSE),
            }
        }
    }

    /// Tells what lies below `prefix` if the folder is another than at `before`; gives its time.
    fn look(
        &self,
        prefix: &str,
        says: &watch::Sender<Seen>,
        before: Option<SystemTime>,
    ) -> Option<SystemTime> {
        let followers = self.followers.lock().expect("no panic while held");
        let now = self.changed_at(prefix);
        let is_late = now.is_some_and(|at| at.elapsed().is_ok_and(|since| since > LATELY));
        if now == before && (is_late || now.is_none()) {
            return now;
        }
        let seen = Seen::Is(Arc::new(self.below(prefix)));
        says.send_if_modified(|said| {
            let is_news = *said != seen;
            *said = seen;
            is_news
        });
        drop(followers);
        now
    }

    /// When something was put into the prefix's folder or taken out; None: there is none.
    fn changed_at(&self, prefix: &str) -> Option<SystemTime> {
        let folder = self.path(prefix.trim_end_matches('/'));
        fs::metadata(folder).and_then(|about| about.modified()).ok()
    }
}
