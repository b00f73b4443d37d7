//! How what is not a text or a number stands in a record; what may be secret does not.

/// A moment, in nanoseconds since 1970: exact, since decisions hang on it.
pub mod nanoseconds {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        to.serialize_u64(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<SystemTime, D::Error> {
        Ok(UNIX_EPOCH + Duration::from_nanos(u64::deserialize(from)?))
    }
}

pub mod text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Arc::from)
    }
}

/// What a document holds: its text without what its probes say; bytes that are no text as a list of numbers.
pub mod document {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::config::hushed_document;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Value {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(value: &Arc<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(value) {
            Ok(text) => Value::Text(hushed_document(text)),
            Err(_) => Value::Bytes(value.to_vec()),
        }
        .serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        Ok(match Value::deserialize(from)? {
            Value::Text(text) => text.into_bytes().into(),
            Value::Bytes(bytes) => bytes.into(),
        })
    }
}

/// All documents of a subtree, which many hold.
pub mod documents {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::control::consul::Document;

    pub fn serialize<S: Serializer>(documents: &Arc<[Document]>, to: S) -> Result<S::Ok, S::Error> {
        documents.serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Arc<[Document]>, D::Error> {
        Vec::deserialize(from).map(Arc::from)
    }
}

/// A configuration as its text, with what the environment added to it; read again where it is read back.
pub mod file {
    use std::num::NonZeroUsize;
    use std::path::PathBuf;
    use std::sync::Arc;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::config::{Config, Environment, parse};

    #[derive(Serialize, Deserialize)]
    struct Written {
        path: PathBuf,
        text: String,
        node: String,
        workers: NonZeroUsize,
    }

    pub fn serialize<S: Serializer>(config: &Arc<Config>, to: S) -> Result<S::Ok, S::Error> {
        Written {
            path: config.source.path.clone(),
            text: config.source.hushed(),
            node: config.node.name.clone(),
            workers: config.node.workers,
        }
        .serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Arc<Config>, D::Error> {
        let written = Written::deserialize(from)?;
        let environment = Environment {
            cores: written.workers,
            ..Environment::bare(&written.node)
        };
        let config = parse(&written.text, &written.path, &environment);
        config.map(Arc::new).map_err(D::Error::custom)
    }
}

/// What was kept of a run before this one, its documents as documents are written.
pub mod table {
    use std::net::IpAddr;
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::config::ConsulService;
    use crate::control::consul::{Document, Instance, Subtree};
    use crate::control::kept::table::Table;

    #[derive(Serialize, Deserialize)]
    struct Written {
        #[serde(with = "super::nanoseconds")]
        heard: SystemTime,
        services: Vec<(ConsulService, Vec<Instance>)>,
        documents: Vec<(Subtree, Vec<Document>)>,
        tagged: Vec<String>,
        #[serde(default)]
        names: Vec<(String, Vec<IpAddr>)>,
    }

    pub fn serialize<S: Serializer>(table: &Table, to: S) -> Result<S::Ok, S::Error> {
        let services = table.services.iter();
        Written {
            heard: table.heard,
            services: services
                .map(|(watch, instances)| (watch.clone(), instances.to_vec()))
                .collect(),
            documents: table.documents.clone(),
            tagged: table.tagged.clone(),
            names: table.names.clone(),
        }
        .serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Box<Table>, D::Error> {
        let written = Written::deserialize(from)?;
        let services = written.services.into_iter();
        Ok(Box::new(Table {
            heard: written.heard,
            services: services
                .map(|(watch, instances)| (watch, instances.into()))
                .collect(),
            documents: written.documents,
            tagged: written.tagged,
            names: written.names,
        }))
    }
}

pub mod mistakes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::control::mistake::{IGNORED, LAST_GOOD, Mistake, UNAVAILABLE};

    #[derive(Serialize, Deserialize)]
    struct Written {
        entry: String,
        message: String,
        in_force: String,
    }

    pub fn serialize<S: Serializer>(mistakes: &[Mistake], to: S) -> Result<S::Ok, S::Error> {
        let written = |mistake: &Mistake| Written {
            entry: mistake.entry.clone(),
            message: mistake.message.clone(),
            in_force: mistake.in_force.to_owned(),
        };
        to.collect_seq(mistakes.iter().map(written))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<Mistake>, D::Error> {
        let written = Vec::<Written>::deserialize(from)?;
        let mistake = |one: Written| {
            let mut words = [LAST_GOOD, UNAVAILABLE].into_iter();
            let in_force = words.find(|word| *word == one.in_force);
            Mistake::new(one.entry, one.message, in_force.unwrap_or(IGNORED))
        };
        Ok(written.into_iter().map(mistake).collect())
    }
}
