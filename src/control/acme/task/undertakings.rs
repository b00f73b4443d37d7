//! What the task has begun and not heard the end of: one that panics ends, too, as a failure of what it was for.

use std::collections::HashMap;
use std::time::SystemTime;

use tokio::task::{Id, JoinSet};

use super::super::failure::Failure;
use super::super::model::{Validity, seed_of};
use super::super::order::Outcome;
use super::super::records::Attempts;
use super::begun::Ended;
use crate::config::DomainName;

/// What something was begun for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Open,
    Ask(DomainName, Validity),
    Order(DomainName),
    /// An operator's, who is told.
    Answer,
}

/// As few as the model begins at once. What goes on ends with this.
#[derive(Default)]
pub(super) struct Undertakings {
    tasks: JoinSet<Ended>,
    purposes: HashMap<Id, Purpose>,
}

impl Undertakings {
    pub(super) fn begin(
        &mut self,
        purpose: Purpose,
        work: impl Future<Output = Ended> + Send + 'static,
    ) {
        let task = self.tasks.spawn(work);
        self.purposes.insert(task.id(), purpose);
    }

    /// None: nothing is under way.
    pub(super) async fn ended(&mut self) -> Option<Ended> {
        match self.tasks.join_next_with_id().await? {
            Ok((id, ended)) => {
                self.purposes.remove(&id);
                Some(ended)
            }
            Err(panicked) => {
                let purpose = self.purposes.remove(&panicked.id());
                Some(purpose.unwrap_or(Purpose::Answer).failed())
            }
        }
    }
}

impl Purpose {
    /// A fault of this program's own: what panicked once is not begun again at once.
    fn failed(self) -> Ended {
        let failure = Failure::Local("a fault of rota's own: see its log".into());
        match self {
            Purpose::Open => Ended::Opened(Err(failure)),
            Purpose::Ask(name, validity) => Ended::Told(name, validity, None),
            Purpose::Order(name) => {
                let seed = seed_of(&[name.as_str()]);
                let now = SystemTime::now();
                let attempts = Attempts::after(None, &failure, String::new(), seed, now);
                Ended::Ordered(name, Outcome::Failed(attempts))
            }
            Purpose::Answer => Ended::Answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_panics_ends_as_a_failure_of_what_it_was_for() {
        let mut begun = Undertakings::default();
        assert!(begun.ended().await.is_none());
        let name = DomainName::parse("a.test").unwrap();
        begun.begin(Purpose::Order(name.clone()), async { panic!("on purpose") });
        let Some(Ended::Ordered(of, Outcome::Failed(attempts))) = begun.ended().await else {
            panic!("its name's failure")
        };
        assert_eq!(of, name);
        assert!(attempts.rest(SystemTime::now()).is_some());
        begun.begin(Purpose::Open, async { panic!("on purpose") });
        let ended = begun.ended().await;
        assert!(matches!(ended, Some(Ended::Opened(Err(_)))));
        begun.begin(Purpose::Answer, async { Ended::Answered });
        assert!(matches!(begun.ended().await, Some(Ended::Answered)));
        assert!(begun.purposes.is_empty());
    }
}
