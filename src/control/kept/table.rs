//! The last good table as it is kept: what Consul said of each service, and the documents in force, as texts. Pure.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::ConsulService;
use crate::control::consul::{Document, Instance, Subtree};
use crate::seal::Plain;

/// What a model is fed with to know what it knew.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// When Consul was last heard while nothing failed.
    pub heard: SystemTime,
    /// What is believed of each: its newest answer, and those that vanished from it and are doubted.
    pub services: Vec<(ConsulService, Arc<[Instance]>)>,
    /// Last good versions; drains as they were written.
    pub documents: Vec<(Subtree, Vec<Document>)>,
    /// Services whose tags ask for routes.
    pub tagged: Vec<String>,
    /// Host names that servers are given by, each with its last addresses.
    pub names: Vec<(String, Vec<IpAddr>)>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    services: Vec<WrittenService>,
    documents: Vec<WrittenTree>,
    #[serde(default)]
    tagged: Vec<String>,
    #[serde(default)]
    names: Vec<(String, Vec<IpAddr>)>,
}

#[derive(Serialize, Deserialize)]
struct WrittenService {
    service: String,
    tag: Option<String>,
    datacenter: Option<String>,
    instances: Vec<Instance>,
}

#[derive(Serialize, Deserialize)]
struct WrittenTree {
    /// As in KV.
    key: String,
    documents: Vec<WrittenDocument>,
}

#[derive(Serialize, Deserialize)]
struct WrittenDocument {
    name: String,
    text: String,
    create_index: u64,
}

impl Table {
    /// All of it but the moment, which the file's head has.
    pub fn to_text(&self) -> Plain {
        let written = Written {
            services: self.services.iter().map(written_service).collect(),
            documents: self.documents.iter().map(written_tree).collect(),
            tagged: self.tagged.clone(),
            names: self.names.clone(),
        };
        Plain::new(serde_json::to_vec(&written).expect("texts and numbers are json"))
    }

    /// What [`Table::to_text`] gave. Subtrees that nobody knows are passed over.
    pub fn read(text: &[u8], heard: SystemTime) -> Result<Table, &'static str> {
        let written: Written =
            serde_json::from_slice(text).map_err(|_| "its content is no table")?;
        let documents = written.documents.into_iter().filter_map(tree_of).collect();
        Ok(Table {
            heard,
            services: written.services.into_iter().map(service_of).collect(),
            documents,
            tagged: written.tagged,
            names: written.names,
        })
    }

    /// The pod's, if it is known.
    pub fn pod_id(&self) -> Option<Vec<u8>> {
        let mut documents = self.documents.iter();
        let (_, pod) = documents.find(|(subtree, _)| *subtree == Subtree::Pod)?;
        Some(pod.first()?.value.to_vec())
    }

    /// How much it is, for people.
    pub fn extent(&self) -> String {
        let servers: usize = self.services.iter().map(|(_, servers)| servers.len()).sum();
        let documents = self
            .documents
            .iter()
            .filter(|(subtree, _)| *subtree != Subtree::Pod);
        let documents: usize = documents.map(|(_, documents)| documents.len()).sum();
        format!(
            "{servers} servers of {} services in consul, {documents} documents",
            self.services.len()
        )
    }
}

fn written_service((watch, instances): &(ConsulService, Arc<[Instance]>)) -> WrittenService {
    let ConsulService {
        service,
        tag,
        datacenter,
    } = watch.clone();
    WrittenService {
        service,
        tag,
        datacenter,
        instances: instances.to_vec(),
    }
}

fn service_of(written: WrittenService) -> (ConsulService, Arc<[Instance]>) {
    let watch = ConsulService {
        service: written.service,
        tag: written.tag,
        datacenter: written.datacenter,
    };
    (watch, written.instances.into())
}

/// What is no text is no document that was ever good.
fn written_tree((subtree, documents): &(Subtree, Vec<Document>)) -> WrittenTree {
    let written = |document: &Document| {
        Some(WrittenDocument {
            name: document.name.clone(),
            text: std::str::from_utf8(&document.value).ok()?.to_owned(),
            create_index: document.create_index,
        })
    };
    WrittenTree {
        key: subtree.key().to_owned(),
        documents: documents.iter().filter_map(written).collect(),
    }
}

fn tree_of(written: WrittenTree) -> Option<(Subtree, Vec<Document>)> {
    let subtree = Subtree::ALL
        .into_iter()
        .find(|one| one.key() == written.key)?;
    let document = |written: WrittenDocument| Document {
        name: written.name,
        value: written.text.into_bytes().into(),
        create_index: written.create_index,
        modify_index: written.create_index,
        is_locked: false,
    };
    Some((
        subtree,
        written.documents.into_iter().map(document).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::tests::{passing, watch};

    fn document(name: &str, text: &[u8]) -> Document {
        Document {
            name: name.into(),
            value: text.into(),
            create_index: 7,
            modify_index: 7,
            is_locked: false,
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let heard = SystemTime::UNIX_EPOCH;
        let table = Table {
            heard,
            services: vec![
                (watch(), passing(&["10.0.0.1:80", "10.0.0.2:80"]).into()),
                (
                    ConsulService {
                        service: "other".into(),
                        tag: Some("v1".into()),
                        datacenter: Some("east".into()),
                    },
                    Vec::new().into(),
                ),
            ],
            documents: vec![
                (
                    Subtree::Services,
                    vec![document("shop", b"{}\n\"\xc3\xa4\"")],
                ),
                (Subtree::Pod, vec![document("", b"id")]),
            ],
            tagged: vec!["shop".into()],
            names: vec![("app.test".into(), vec!["10.0.0.1".parse().unwrap()])],
        };
        assert_eq!(table.pod_id().unwrap(), b"id");
        assert_eq!(Table::read(&table.to_text(), heard).unwrap(), table);
        assert_eq!(
            table.extent(),
            "2 servers of 2 services in consul, 1 documents"
        );
    }

    #[test]
    fn what_is_no_text_is_left_out() {
        let heard = SystemTime::UNIX_EPOCH;
        let table = Table {
            heard,
            services: Vec::new(),
            documents: vec![(Subtree::Routes, vec![document("a", b"\xff")])],
            tagged: Vec::new(),
            names: Vec::new(),
        };
        let read = Table::read(&table.to_text(), heard).unwrap();
        assert_eq!(read.documents, [(Subtree::Routes, Vec::new())]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
            let _ = Table::read(&bytes, SystemTime::UNIX_EPOCH);
        }
    }
}
