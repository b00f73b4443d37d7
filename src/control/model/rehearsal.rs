//! A second model beside the live one: what other documents would do is found out by the very decisions that would follow them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::tagged::TaggedServices;
use super::{Model, Terms};
use crate::config::{Config, ConsulService};
use crate::control::candidate::Resolution;
use crate::control::consul::{Document, Instance, Subtree};
use crate::control::documents::Documents;

/// What a second model is made of: all that the live one knows, but for what it has measured.
#[derive(Clone)]
pub struct Rehearsal {
    terms: Terms,
    file: Arc<Config>,
    documents: Documents,
    answers: BTreeMap<ConsulService, Arc<[Instance]>>,
    names: BTreeMap<String, Resolution>,
    tagged: TaggedServices,
}

impl Model {
    pub fn rehearsal(&self) -> Rehearsal {
        let mut documents = self.documents.clone();
        // What is compared is what the pod has.
        documents.lay_over(None);
        Rehearsal {
            terms: self.terms.clone(),
            file: self.file.clone(),
            documents,
            answers: self.answers.clone(),
            names: self.names.clone(),
            tagged: self.tagged.to_be_merged(),
        }
    }

    /// Whether Consul has been heard of this service.
    pub fn has_answer(&self, watch: &ConsulService) -> bool {
        self.answers.contains_key(watch)
    }
}

impl Rehearsal {
    pub fn file(&self) -> &Arc<Config> {
        &self.file
    }

    /// Why no change of documents would come into force before an operator accepts them; None: it would.
    pub fn held(&self) -> Option<&'static str> {
        self.documents.pod_trouble()
    }

    /// Whether Consul's answer about a service is known.
    pub fn has_answer(&self, watch: &ConsulService) -> bool {
        self.answers.contains_key(watch)
    }

    /// Consul's answer about a service that nobody has watched so far.
    pub fn answer(&mut self, watch: ConsulService, instances: Vec<Instance>) {
        self.answers.insert(watch, instances.into());
    }

    /// A model as the live one would be once it had heard these answers, one after the other.
    pub fn after(&self, heard: Vec<(Subtree, Vec<Document>)>, now: SystemTime) -> Model {
        let mut model = Model::new(self.terms.clone(), self.file.clone(), now);
        model.documents = self.documents.clone();
        model.answers = self.answers.clone();
        model.names = self.names.clone();
        model.tagged = self.tagged.clone();
        for (subtree, documents) in heard {
            // What it asks for is the live one's to do.
            let _ = model
                .documents
                .observe(subtree, &documents.into(), &mut model.drains);
        }
        model.merge(now);
        model.settle_those(now, |_| true);
        model.follow_tags(now);
        model
    }
}
