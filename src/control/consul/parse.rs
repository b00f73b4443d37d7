//! Consul's JSON into plain values: what is wrong with one entry costs that entry, what is wrong as a whole is an error.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use consulrs::api::kv::common::KVPair;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{ConsulError, cut, excerpt};
use super::observation::{Check, CheckStatus, Document, Instance};

/// Instances of one service; those beyond, by node and id, are left out and named.
pub const INSTANCES_PER_SERVICE: usize = 4096;
/// Checks of one instance; the worst are kept.
pub const CHECKS_PER_INSTANCE: usize = 64;
/// Bytes of a check's output that are kept.
pub const OUTPUT_BYTES: usize = 512;
/// The most that Consul itself allows.
const WEIGHT_MAX: u32 = 65_535;

/// One answer about one service.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Instances {
    /// By node and id.
    pub instances: Vec<Instance>,
    /// Entries that could not be read, each with its reason.
    pub skipped: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthEntry {
    node: NodeEntry,
    service: ServiceEntry,
    checks: Option<Vec<CheckEntry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeEntry {
    node: String,
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceEntry {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    port: u16,
    tags: Option<Vec<String>>,
    meta: Option<Meta>,
    weights: Option<Weights>,
    #[serde(default)]
    create_index: u64,
}

/// What is asked of an instance's meta; its keys hold no dots.
#[derive(Default, Deserialize)]
struct Meta {
    #[serde(rename = "rota-group")]
    group: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
    warning: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckEntry {
    #[serde(rename = "CheckID")]
    check_id: String,
    #[serde(default)]
    name: String,
    status: String,
    #[serde(default)]
    output: String,
    notes: Option<String>,
}

/// Reads an answer of `/v1/health/service/:name`.
pub fn instances(body: &[u8]) -> Result<Instances, ConsulError> {
    let entries: Vec<Value> = whole(body)?;
    let mut read = Instances::default();
    for (position, entry) in entries.into_iter().enumerate() {
        let name = name_of(&entry, position);
        let instance = HealthEntry::deserialize(entry)
            .map_err(|error| excerpt(error.to_string().as_bytes(), None))
            .and_then(instance);
        match instance {
            Ok(instance) => read.instances.push(instance),
            Err(why) => read.skipped.push(format!("{name}: {why}")),
        }
    }
    read.instances
        .sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    if read.instances.len() > INSTANCES_PER_SERVICE {
        let beyond = read.instances.len() - INSTANCES_PER_SERVICE;
        read.instances.truncate(INSTANCES_PER_SERVICE);
        read.skipped.push(format!(
            "{beyond} instances: a service has at most {INSTANCES_PER_SERVICE}"
        ));
    }
    Ok(read)
}

fn name_of(entry: &Value, position: usize) -> String {
    let text = |pointer| entry.pointer(pointer).and_then(Value::as_str);
    match (text("/Node/Node"), text("/Service/ID")) {
        (Some(node), Some(id)) => excerpt(format!("{id} on {node}").as_bytes(), None),
        _ => format!("entry {position}"),
    }
}

fn instance(entry: HealthEntry) -> Result<Instance, String> {
    let HealthEntry {
        node,
        service,
        checks,
    } = entry;
    let address = match service.address.is_empty() {
        true => node.address,
        false => service.address,
    };
    if address.is_empty() {
        return Err("neither the service nor its node has an address".into());
    }
    if service.port == 0 {
        return Err("has no port".into());
    }
    let weights = service.weights.unwrap_or(Weights {
        passing: 1,
        warning: 1,
    });
    Ok(Instance {
        node: node.node,
        id: service.id,
        address,
        port: service.port,
        tags: service.tags.unwrap_or_default(),
        group: service.meta.unwrap_or_default().group,
        weight_passing: weights.passing.min(WEIGHT_MAX),
        weight_warning: weights.warning.min(WEIGHT_MAX),
        checks: self::checks(checks.unwrap_or_default()),
        create_index: service.create_index,
    })
}

fn checks(entries: Vec<CheckEntry>) -> Vec<Check> {
    let mut checks: Vec<Check> = entries.into_iter().map(check).collect();
    if checks.len() > CHECKS_PER_INSTANCE {
        checks.sort_by_key(|check| std::cmp::Reverse(check.status));
        checks.truncate(CHECKS_PER_INSTANCE);
    }
    checks.sort_by(|a, b| a.id.cmp(&b.id));
    checks
}

fn check(entry: CheckEntry) -> Check {
    let status = status(&entry.check_id, &entry.status);
    let mut output = entry.output;
    // The reason that maintenance was asked for with stands there; a usual check's notes say what it does.
    if status == CheckStatus::Maintenance && output.is_empty() {
        output = entry.notes.unwrap_or_default();
    }
    cut(&mut output, OUTPUT_BYTES);
    Check {
        status,
        id: entry.check_id,
        name: entry.name,
        output,
    }
}

/// Maintenance is a check of that name that is critical. A status that nobody knows is not a passing one.
fn status(check_id: &str, status: &str) -> CheckStatus {
    let maintenance =
        check_id == "_node_maintenance" || check_id.starts_with("_service_maintenance:");
    match status {
        "passing" => CheckStatus::Passing,
        "warning" => CheckStatus::Warning,
        _ if maintenance => CheckStatus::Maintenance,
        _ => CheckStatus::Critical,
    }
}

/// Reads an answer of `/v1/kv/…` into documents by name: a key without its first `below` bytes.
pub fn documents(body: &[u8], below: usize) -> Result<Vec<Document>, ConsulError> {
    let pairs: Vec<KVPair> = whole(body)?;
    let mut documents = pairs
        .into_iter()
        .map(|pair| document(pair, below))
        .collect::<Result<Vec<_>, _>>()?;
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(documents)
}

/// One key into a document, named by the key without its first `below` bytes.
pub fn document(pair: KVPair, below: usize) -> Result<Document, ConsulError> {
    let unreadable = |what: &str| {
        ConsulError::Unreadable(format!(
            "key {}: {what}",
            excerpt(pair.key.as_bytes(), None)
        ))
    };
    let name = pair
        .key
        .get(below..)
        .ok_or_else(|| unreadable("was not asked for"))?
        .to_owned();
    let value: Vec<u8> = match pair.value.clone() {
        Some(encoded) => encoded
            .try_into()
            .map_err(|_| unreadable("its value is not base64"))?,
        None => Vec::new(),
    };
    Ok(Document {
        name,
        value: value.into(),
        create_index: pair.create_index,
        modify_index: pair.modify_index,
        is_locked: pair.session.is_some(),
    })
}

/// The state of all checks of a datacenter, each service's and each node's condensed to a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckStates {
    pub services: HashMap<String, u64>,
    pub nodes: HashMap<String, u64>,
    /// How many there are.
    pub checks: usize,
}

#[derive(Deserialize, Hash)]
#[serde(rename_all = "PascalCase")]
struct StateEntry {
    node: String,
    #[serde(rename = "CheckID")]
    check_id: String,
    status: String,
    #[serde(default, rename = "ServiceID")]
    service_id: String,
    #[serde(default)]
    service_name: String,
}

/// Reads an answer of `/v1/health/state/any`. Output is left out: it changes nothing about whose turn it is.
pub fn check_states(body: &[u8]) -> Result<CheckStates, ConsulError> {
    let entries: Vec<StateEntry> = whole(body)?;
    let mut states = CheckStates {
        checks: entries.len(),
        ..CheckStates::default()
    };
    for entry in entries {
        let mut hasher = DefaultHasher::new();
        entry.hash(&mut hasher);
        let cell = match entry.service_name.is_empty() {
            true => states.nodes.entry(entry.node).or_default(),
            false => states.services.entry(entry.service_name).or_default(),
        };
        // A sum, so that the order of the answer does not matter.
        *cell = cell.wrapping_add(hasher.finish());
    }
    Ok(states)
}

/// Reads an answer of `/v1/catalog/services`: name → tags.
pub fn services(body: &[u8]) -> Result<HashMap<String, Vec<String>>, ConsulError> {
    let mut services: HashMap<String, Vec<String>> = whole(body)?;
    for tags in services.values_mut() {
        tags.sort();
    }
    Ok(services)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AccessAnswer {
    allow: bool,
}

/// Reads an answer of `/v1/internal/acl/authorize`: whether what was asked about is allowed, in its order.
pub fn are_allowed(body: &[u8]) -> Result<Vec<bool>, ConsulError> {
    let answers: Vec<AccessAnswer> = whole(body)?;
    Ok(answers.into_iter().map(|answer| answer.allow).collect())
}

/// Reads a whole answer. serde's message may quote it, so it is cut.
pub fn whole<T: DeserializeOwned>(body: &[u8]) -> Result<T, ConsulError> {
    serde_json::from_slice(body)
        .map_err(|error| ConsulError::Unreadable(excerpt(error.to_string().as_bytes(), None)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(id: &str) -> Value {
        json!({
            "Node": {"Node": "n1", "Address": "10.0.0.9"},
            "Service": {"ID": id, "Service": "app", "Address": "", "Port": 80, "Tags": null,
                        "Weights": {"Passing": 3, "Warning": 0}},
            "Checks": [{"CheckID": "serfHealth", "Name": "Serf", "Status": "passing", "Output": "alive"}],
        })
    }

    fn read(value: Value) -> Instances {
        instances(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_empty_service_address_is_the_nodes() {
        let read = read(json!([entry("a")]));
        assert_eq!(read.instances[0].address, "10.0.0.9");
        assert_eq!(read.instances[0].weight_passing, 3);
        assert_eq!(read.instances[0].weight_warning, 0);
        assert_eq!(read.instances[0].status(), CheckStatus::Passing);
        assert_eq!(read.skipped, Vec::<String>::new());
    }

    #[test]
    fn missing_weights_are_one_and_missing_checks_are_passing() {
        let mut bare = entry("a");
        bare["Service"].as_object_mut().unwrap().remove("Weights");
        bare["Checks"] = Value::Null;
        let read = read(json!([bare]));
        let instance = &read.instances[0];
        assert_eq!((instance.weight_passing, instance.weight_warning), (1, 1));
        assert_eq!(instance.status(), CheckStatus::Passing);
    }

    #[test]
    fn a_malformed_entry_costs_itself_alone_and_is_named() {
        let mut no_address = entry("b");
        no_address["Node"]["Address"] = json!("");
        let mut port = entry("c");
        port["Service"]["Port"] = json!(70_000);
        let mut no_port = entry("d");
        no_port["Service"]["Port"] = json!(0);
        let read = read(json!([entry("a"), no_address, port, no_port, 7]));
        assert_eq!(read.instances.len(), 1);
        assert_eq!(read.skipped.len(), 4);
        assert!(
            read.skipped[0].starts_with("b on n1: neither"),
            "{:?}",
            read.skipped
        );
        assert!(read.skipped[1].starts_with("c on n1: "));
        assert!(read.skipped[2].starts_with("d on n1: has no port"));
        assert!(read.skipped[3].starts_with("entry 4: "));
    }

    #[test]
    fn a_malformed_whole_is_an_error_of_bounded_length() {
        for body in ["", "null", "{}", "[", "\"x\"", "[{}"] {
            assert!(instances(body.as_bytes()).is_err(), "{body}");
        }
        let long = format!("\"{}\"", "x".repeat(10_000));
        let error = instances(long.as_bytes()).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }

    #[test]
    fn maintenance_of_node_or_service_is_told_from_critical() {
        let mut sick = entry("a");
        sick["Checks"] = json!([
            {"CheckID": "_node_maintenance", "Status": "critical"},
            {"CheckID": "_service_maintenance:a", "Status": "critical"},
            {"CheckID": "service:a", "Status": "critical"},
            {"CheckID": "service:b", "Status": "warning"},
            {"CheckID": "service:c", "Status": "confused"},
        ]);
        let read = read(json!([sick]));
        let statuses: Vec<CheckStatus> = read.instances[0]
            .checks
            .iter()
            .map(|check| check.status)
            .collect();
        use CheckStatus::*;
        assert_eq!(
            statuses,
            [Maintenance, Maintenance, Critical, Warning, Critical]
        );
    }

    #[test]
    fn the_reason_for_maintenance_is_in_its_notes() {
        let mut sick = entry("a");
        sick["Checks"] = json!([
            {"CheckID": "_node_maintenance", "Status": "critical", "Output": "", "Notes": "new disk"},
            {"CheckID": "_service_maintenance:a", "Status": "critical", "Notes": "é".repeat(400)},
            {"CheckID": "service:a", "Status": "critical", "Output": "", "Notes": "asks /health"},
            {"CheckID": "service:b", "Status": "passing", "Output": "fine", "Notes": null},
        ]);
        let read = read(json!([sick]));
        let checks = &read.instances[0].checks;
        assert_eq!(checks[0].output, "new disk");
        assert_eq!(checks[1].output.len(), OUTPUT_BYTES);
        assert_eq!(checks[2].output, "", "what a check does is no evidence");
        assert_eq!(checks[3].output, "fine");
    }

    #[test]
    fn a_long_output_is_cut_between_characters() {
        let mut talkative = entry("a");
        talkative["Checks"][0]["Output"] = json!(format!("x{}", "é".repeat(400)));
        let output = &read(json!([talkative])).instances[0].checks[0].output;
        assert_eq!(output.len(), OUTPUT_BYTES - 1);
    }

    #[test]
    fn instances_beyond_the_limit_are_left_out_and_counted() {
        let many: Vec<Value> = (0..INSTANCES_PER_SERVICE + 2)
            .map(|number| entry(&format!("app-{number:05}")))
            .collect();
        let read = read(Value::Array(many));
        assert_eq!(read.instances.len(), INSTANCES_PER_SERVICE);
        assert!(read.skipped[0].starts_with("2 instances"));
    }

    #[test]
    fn of_too_many_checks_the_worst_are_kept() {
        let mut many = entry("a");
        many["Checks"] = (0..CHECKS_PER_INSTANCE * 2)
            .map(|number| json!({"CheckID": format!("{number:04}"), "Status": "passing"}))
            .chain([json!({"CheckID": "z", "Status": "critical"})])
            .collect();
        let read = read(json!([many]));
        assert_eq!(read.instances[0].checks.len(), CHECKS_PER_INSTANCE);
        assert_eq!(read.instances[0].status(), CheckStatus::Critical);
    }

    #[test]
    fn documents_are_named_by_what_follows_the_prefix() {
        let body = json!([
            {"LockIndex": 0, "Key": "rota/config/routes/b", "Flags": 0, "Value": null, "CreateIndex": 4, "ModifyIndex": 5},
            {"LockIndex": 0, "Key": "rota/config/routes/a b", "Flags": 0, "Value": "eHk=", "CreateIndex": 2, "ModifyIndex": 3},
        ]);
        let read = documents(body.to_string().as_bytes(), "rota/config/routes/".len()).unwrap();
        assert_eq!(read[0].name, "a b");
        assert_eq!(&*read[0].value, b"xy");
        assert_eq!((read[1].create_index, read[1].modify_index), (4, 5));
        assert!(read[1].value.is_empty());
    }

    #[test]
    fn check_states_do_not_depend_on_the_order_of_the_answer() {
        let check = |id: &str, status: &str| json!({"Node": "n", "CheckID": id, "Status": status, "ServiceID": id, "ServiceName": "app"});
        let states = |list: Value| check_states(list.to_string().as_bytes()).unwrap();
        let one = states(json!([check("a", "passing"), check("b", "critical")]));
        assert_eq!(
            one,
            states(json!([check("b", "critical"), check("a", "passing")]))
        );
        assert_ne!(
            one,
            states(json!([check("a", "critical"), check("b", "passing")]))
        );
        assert_eq!(one.checks, 2);
    }
}
