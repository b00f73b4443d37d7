//! One key by a blocking query of its own, for who wants its value and nothing else.

use tokio::sync::watch;

use super::client::{Client, When};
use super::error::ConsulError;
use super::follow::{Watched, follow};
use super::observation::Document;
use super::watcher::Task;

/// What is known of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyState {
    /// Nobody has answered yet.
    Unknown,
    /// The last question was not answered; the next one is on its way.
    Failing(ConsulError),
    /// There is no such key.
    Missing,
    Is(Document),
}

/// A key that is watched until this is dropped.
pub struct KeyWatch {
    states: watch::Receiver<KeyState>,
    _task: Task,
}

impl KeyWatch {
    /// Begins on the current tokio runtime. `key` is whole, with its prefix.
    pub fn start(client: Client, key: String) -> KeyWatch {
        let (sender, states) = watch::channel(KeyState::Unknown);
        let task = Task::spawn(follow(Following {
            client,
            key,
            sender,
        }));
        KeyWatch {
            states,
            _task: task,
        }
    }

    /// Waits until there is a state that [`KeyWatch::state`] has not given yet.
    pub async fn changed(&mut self) {
        // The sender lives in the task, and the task in here.
        let _ = self.states.changed().await;
    }

    pub fn state(&mut self) -> KeyState {
        self.states.borrow_and_update().clone()
    }
}

struct Following {
    client: Client,
    key: String,
    sender: watch::Sender<KeyState>,
}

impl Following {
    fn say(&self, state: KeyState) {
        self.sender.send_if_modified(|said| {
            let is_news = *said != state;
            if is_news {
                *said = state;
            }
            is_news
        });
    }
}

impl Watched for Following {
    async fn look(&mut self, when: When) -> Result<u64, ConsulError> {
        let reply = self.client.key(&self.key, when).await?;
        // A server without a leader may have read only a part of its state yet: its answer says nothing.
        let index = reply.sound_index()?;
        self.say(match reply.content.into_iter().next() {
            Some(document) => KeyState::Is(document),
            None => KeyState::Missing,
        });
        Ok(index)
    }

    async fn failed(&mut self, error: ConsulError) {
        self.say(KeyState::Failing(error));
    }
}
