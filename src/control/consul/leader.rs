//! Whether Consul has a leader that answers: asked each second, since watches that hang for want of news, and answers that need no
//! leader, say nothing of it.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::client::Client;
use super::error::ConsulError;
use super::subject::Subject;

/// How often it is asked, jittered by a tenth.
const ASKED_EACH: Duration = Duration::from_secs(1);
/// Once it did not answer it is asked again after so long, before anybody is told: one question may get lost.
const ASKED_AGAIN: Duration = Duration::from_millis(250);
/// For each of the two questions.
const PATIENCE: Duration = Duration::from_secs(2);

/// Goes on until it is aborted. `key` is one that the token has to be able to read.
pub(super) async fn follow_leader(client: Client, key: String, subject: Subject) {
    let mut is_told = false;
    loop {
        sleep(ASKED_EACH.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
        let mut asked = ask(&client, &key).await;
        if asked.is_err() && !is_told {
            sleep(ASKED_AGAIN).await;
            asked = ask(&client, &key).await;
        }
        is_told = asked.is_err();
        match asked {
            Ok(()) => {
                subject.answered().await;
                subject.outlet().contact();
            }
            Err(error) => subject.failed(&error).await,
        }
    }
}

/// Who the leader is any agent says as it remembers it; only a question to the leader shows that it is there.
async fn ask(client: &Client, key: &str) -> Result<(), ConsulError> {
    if !client.has_leader().await? {
        return Err(ConsulError::NoLeader);
    }
    match timeout(PATIENCE, client.kv_read(key)).await {
        Ok(read) => read.map(drop),
        // The agent has just answered.
        Err(_) => Err(ConsulError::NoLeader),
    }
}
