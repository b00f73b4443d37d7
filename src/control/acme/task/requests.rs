//! What an operator asks of the task: each is begun, and whoever asked is told what happens.

use tokio::sync::oneshot;

use super::super::model::{Event, Replaces};
use super::super::operator::{self, Next};
use super::super::order::Asker;
use super::Task;
use super::begun::Ended;
use super::undertakings::Purpose;
use crate::config::DomainName;
use crate::routing::operator::{CertificateOrder, OrderError};

/// Names that are listed one by one.
const SHOWN: usize = 20;

/// What was done or begun, in words; or why not.
type Said = Result<String, String>;

impl Task {
    pub(super) fn serve(
        &mut self,
        order: CertificateOrder,
        answer: oneshot::Sender<Result<String, OrderError>>,
    ) {
        let begun = match &order {
            CertificateOrder::Renew(name) => self.named(name).map(|name| self.renew(name)),
            CertificateOrder::RenewAll => Ok(self.renew_all()),
            CertificateOrder::Revoke(name) => {
                let known = self.kept(name).map_or_else(|| self.named(name), Ok);
                known.map(|name| self.revoke(name))
            }
            CertificateOrder::Rekey => Ok(self.rekey()),
        };
        match begun {
            Ok(said) => drop(tokio::spawn(async move {
                let said = said.await.unwrap_or_else(|_| Err("it was given up".into()));
                // Who asked may have gone.
                let _ = answer.send(said.map_err(OrderError::Failed));
            })),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// A name that certificates are ordered for here.
    fn named(&self, text: &str) -> Result<DomainName, OrderError> {
        let name = DomainName::parse(text).filter(|name| self.model.wants(name));
        name.ok_or_else(|| {
            let why = match self.shelf.imported.name_for(text) {
                Some(own) => format!(
                    ": it has a certificate of one's own, which `rota certs import` replaces and `rota certs forget {own}` takes out"
                ),
                None => String::new(),
            };
            OrderError::Unknown(format!(
                "{text:?} is no name that certificates are ordered for{why}"
            ))
        })
    }

    /// A name that has a certificate in the store, wanted or not.
    fn kept(&self, text: &str) -> Option<DomainName> {
        let shelf = &self.shelf;
        let is_kept =
            |name: &DomainName| shelf.held.contains_key(name) || shelf.refused.contains_key(name);
        DomainName::parse(text).filter(is_kept)
    }

    fn renew(&mut self, name: DomainName) -> oneshot::Receiver<Said> {
        let (sender, said) = oneshot::channel();
        match self.model.orders(&name) {
            true => drop(sender.send(Ok(format!("{name} is being ordered already")))),
            false => {
                self.apply(Event::Begun(name.clone()));
                self.order(name, Replaces::Nothing, Asker(Some(sender)));
            }
        }
        said
    }

    /// Each as soon as its own back-off and the budgets let it.
    fn renew_all(&mut self) -> oneshot::Receiver<Said> {
        let (sender, said) = oneshot::channel();
        self.apply(Event::AskedForAll);
        let (mut ordered, mut rests, mut why) = (0, 0, String::new());
        for (name, standing) in self.model.standings() {
            match standing.next {
                None => ordered += 1,
                Some(_) => {
                    rests += 1;
                    if rests <= SHOWN {
                        let error = standing.error.as_deref().unwrap_or("not yet");
                        why.push_str(&format!("; {name} rests: {error}"));
                    }
                }
            }
        }
        if rests > SHOWN {
            why.push_str(&format!("; {} more rest", rests - SHOWN));
        }
        let text = format!("{ordered} are ordered, some at once{why}: `rota certs` shows each");
        drop(sender.send(Ok(text)));
        said
    }

    fn revoke(&mut self, name: DomainName) -> oneshot::Receiver<Said> {
        let (sender, said) = oneshot::channel();
        let next = match self.model.wants(&name) {
            true => Next::Another,
            false => Next::Nothing,
        };
        if let Some(tools) = self.link.as_ref().map(|link| link.tools.clone()) {
            self.begun.begin(Purpose::Answer, async move {
                let _ = sender.send(operator::revoke(&tools, &name, next).await);
                Ended::Answered
            });
        }
        said
    }

    fn rekey(&mut self) -> oneshot::Receiver<Said> {
        let (sender, said) = oneshot::channel();
        match (self.store.clone(), self.keyring.clone()) {
            (Some(store), Some(keyring)) => self.begun.begin(Purpose::Answer, async move {
                let _ = sender.send(operator::rekey(&store, keyring).await);
                Ended::Answered
            }),
            (None, _) | (_, None) => {
                drop(sender.send(Err("there is no key file: nothing is sealed".into())));
            }
        }
        said
    }
}
