//! The one task that writes what is kept, on a thread that may block: what a disk refuses is named, counted and tried again.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use super::format::{self, Head};
use super::{Content, Keeper, MAX_BYTES};
use crate::control::durable::{fresh, put_in_place, sync_folder, write_fresh};
use crate::control::mistake::LAST_GOOD;
use crate::seal::{Digest, Keyring};

/// Files written before the newest contents are looked at again.
const BATCH: usize = 64;
/// A disk that refused is asked again after so long.
const RETRY: Duration = Duration::from_secs(5);

/// What is to be written, and the moment that it is of.
type Pending = (String, (SystemTime, Content));

/// Whether a file could be written.
#[must_use]
pub(super) enum Written {
    Well,
    /// It may be another time.
    NotNow,
}

/// Goes on as long as there is somebody who gives keyrings.
pub(super) async fn run(keeper: Keeper, mut keyrings: watch::Receiver<Option<Arc<Keyring>>>) {
    loop {
        tokio::select! {
            () = keeper.0.bell.notified() => {}
            changed = keyrings.changed() => match changed {
                Ok(()) => blocking(&keeper, Keeper::look_at_seals).await,
                Err(_) => return,
            }
        }
        while !keeper.is_idle() {
            let (sender, written) = tokio::sync::oneshot::channel();
            blocking(&keeper, move |keeper| {
                drop(sender.send(keeper.write_some()))
            })
            .await;
            if let Ok(Written::NotNow) | Err(_) = written.await {
                sleep(RETRY).await;
            }
        }
    }
}

async fn blocking(keeper: &Keeper, work: impl FnOnce(&Keeper) + Send + 'static) {
    let keeper = keeper.clone();
    let done = tokio::task::spawn_blocking(move || work(&keeper)).await;
    if let Err(panicked) = done {
        tracing::error!("what is kept on disk: {panicked}");
    }
}

impl Keeper {
    fn is_idle(&self) -> bool {
        let pending = self.0.pending.lock().expect("no panic while held");
        pending.is_empty()
    }

    /// Another key file: what is sealed with a key that is not its first is written anew.
    pub(super) fn look_at_seals(&self) {
        drop(self.recall_below(""));
    }

    /// Writes some of what is pending; what fails is pending again, unless there is something newer.
    pub(super) fn write_some(&self) -> Written {
        let batch = self.take_some();
        if !self.is_ours() {
            self.0.vitals.state_failed.fetch_add(1, Relaxed);
            self.put_back(batch);
            return Written::NotNow;
        }
        let keyring = self.0.keyrings.borrow().clone();
        let mut failed = Vec::new();
        for (name, (of, content)) in batch {
            match self.write_one(&name, of, &content, keyring.as_deref()) {
                Ok(()) => self.mended(&self.path(&name)),
                Err(error) => {
                    self.0.vitals.state_failed.fetch_add(1, Relaxed);
                    self.trouble(&name, format!("not kept: {error}"), LAST_GOOD);
                    // What is too large stays so.
                    if error.kind() != io::ErrorKind::FileTooLarge {
                        failed.push((name, (of, content)));
                    }
                }
            }
        }
        let is_well = failed.is_empty();
        self.put_back(failed);
        match is_well {
            true => Written::Well,
            false => Written::NotNow,
        }
    }

    fn take_some(&self) -> Vec<Pending> {
        let mut pending = self.0.pending.lock().expect("no panic while held");
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(first) = pending.pop_first()
        {
            batch.push(first);
        }
        batch
    }

    fn put_back(&self, batch: Vec<Pending>) {
        let mut pending = self.0.pending.lock().expect("no panic while held");
        for (name, content) in batch {
            pending.entry(name).or_insert(content);
        }
    }

    fn write_one(
        &self,
        name: &str,
        of: SystemTime,
        content: &Content,
        keyring: Option<&Keyring>,
    ) -> io::Result<()> {
        let path = self.path(name);
        let text = match content {
            Content::Table(table) => table.to_text(),
            Content::Text(text) => text.clone(),
            Content::Nothing => {
                self.forget(name);
                return removed(&path);
            }
        };
        let digest = Digest::of(&text);
        if self.holds(name, &digest) {
            return Ok(());
        }
        let head = Head {
            name: name.to_owned(),
            node: self.0.owner.node.clone(),
            prefix: self.0.owner.prefix.clone(),
            of_ms: format::milliseconds(of),
            written_ms: format::milliseconds(SystemTime::now()),
        };
        let whole = format::write(&head, &text, keyring);
        if whole.len() > MAX_BYTES {
            let message = format!("{} bytes, at most {MAX_BYTES} are kept", whole.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        write_fresh(&path, &whole)
            .and_then(|()| put_in_place(&path))
            .inspect_err(|_| drop(fs::remove_file(fresh(&path))))?;
        let mut lies = self.0.lies.lock().expect("no panic while held");
        lies.insert(name.to_owned(), digest);
        Ok(())
    }

    fn holds(&self, name: &str, digest: &Digest) -> bool {
        let lies = self.0.lies.lock().expect("no panic while held");
        lies.get(name) == Some(digest)
    }

    fn forget(&self, name: &str) {
        let mut lies = self.0.lies.lock().expect("no panic while held");
        lies.remove(name);
    }
}

fn removed(path: &Path) -> io::Result<()> {
    match fs::remove_file(path).and_then(|()| sync_folder(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
