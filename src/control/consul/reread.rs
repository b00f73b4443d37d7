//! A consistent re-read of one service: asked for when its losses are doubted, until the leader has said how it stands.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::client::{Client, When};
use super::error::ConsulError;
use super::follow::Pause;
use super::observation::Finding;
use super::parse::Instances;
use super::reply::Reply;
use super::subject::Subject;
use crate::config::ConsulService;

/// Re-reads at once: all services of a pod may be doubted together.
pub(super) const AT_ONCE: usize = 2;

/// Asks again and again while there is no leader to answer; ends with an answer, or when it is aborted.
pub(super) async fn reread(
    client: Client,
    service: ConsulService,
    subject: Arc<Subject>,
    places: Arc<Semaphore>,
) {
    let mut pause = Pause::default();
    loop {
        let place = places.acquire().await;
        let since = subject.index();
        match read(&client, &service, &subject, since).await {
            Ok((reply, finding)) => {
                let learned = subject.learned_again(&service, reply, since, finding);
                if learned.await {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(service = %service.service, %error, "consul: no consistent re-read yet");
            }
        }
        drop(place);
        pause.rest().await;
    }
}

async fn read(
    client: &Client,
    service: &ConsulService,
    subject: &Subject,
    since: u64,
) -> Result<(Reply<Instances>, Finding), ConsulError> {
    let mut reply = client.instances_consistently(service).await?;
    // It is asked anew: nothing of it is outdated.
    let _ = client
        .restore_hidden_instances(service, subject, When::Now, &mut reply)
        .await?;
    let node = subject.some_node().unwrap_or_default();
    let finding = match &reply.flaw {
        Some(ConsulError::Denied(_)) => Finding::Hidden,
        Some(flaw) => return Err(flaw.clone()),
        None if matches!(client.may_read(service, &node).await, Ok(false)) => Finding::Hidden,
        None if reply.index < since => Finding::WentBack,
        None => Finding::AsItIs,
    };
    Ok((reply, finding))
}
