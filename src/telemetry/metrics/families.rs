//! Every metric that rota shows, in one list: what `/metrics` renders and what METRICS.md is made from.

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up, until the process ends or its server leaves the table.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn label(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric with its labels, in the order in which its samples give their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub meaning: &'static str,
}

macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $meaning:literal;)*) => {
        $(pub const $id: Family = Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], meaning: $meaning };)*
        /// In the order of METRICS.md.
        pub const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    REQUESTS = Counter "rota_requests_total" ["service", "code", "method"]
        "Requests that ended, by the status sent to the client; code 0: no answer was sent, method other: none of the well-known ones.";
    REQUEST_DURATION = Histogram "rota_request_duration_seconds" ["service"]
        "From a request head's first byte to its answer's last.";
    REQUESTS_ACCEPTED = Counter "rota_requests_accepted_total" []
        "Requests accepted: whole heads, and what was refused before it was one; those that rota_requests_ended_total does not have yet are under way, WebSockets among them.";
    REQUESTS_ENDED = Counter "rota_requests_ended_total" ["reason"]
        "Every request accepted, whether a service had it or not, by the reason of its end.";
    NOTED = Gauge "rota_noted_requests" []
        "Requests that failed or were sent again and that `rota why ID` can explain.";
    NOTED_DROPPED = Counter "rota_noted_requests_dropped_total" []
        "Requests that failed or were sent again and that `rota why ID` cannot explain any more: newer ones took their places (limits.noted_requests).";
    RETRIES = Counter "rota_retries_total" ["service"]
        "Requests sent again to another server.";
    RETRIES_DENIED = Counter "rota_retries_denied_total" ["service"]
        "Retries not made since the service's retry budget was spent.";
    SERVICE_IN_FLIGHT = Gauge "rota_service_in_flight" ["service"]
        "Requests under way, WebSockets among them; absent without max_in_flight.";
    SERVICE_WAITING = Gauge "rota_service_waiting" ["service"]
        "Requests that wait since max_in_flight are under way; absent without it.";
    SERVICE_OVERLOADED = Counter "rota_service_overloaded_total" ["service"]
        "Requests answered with 503 since max_in_flight were under way, and the queue was full or took too long; absent without it.";
    GROUP_SHARE = Gauge "rota_service_group_share" ["service", "group"]
        "The share of a service's requests that a group has by its weight, among the groups with somebody on the rota: 0 to 1; absent where a service names no groups.";
    UPSTREAM_REQUESTS = Counter "rota_upstream_requests_total" ["service", "upstream", "outcome"]
        "Attempts at a server, by how they ended.";
    UPSTREAM_UP = Gauge "rota_upstream_up" ["service", "upstream"]
        "1: on the rota, 0: something speaks against it (rota_upstream_state says what).";
    UPSTREAM_STATE = Gauge "rota_upstream_state" ["service", "upstream", "signal", "state", "reason"]
        "1 for what each signal (consul, probe, passive, operator) says now: state is fit, warning, unknown or unfit.";
    UPSTREAM_DOUBTED = Gauge "rota_upstream_doubted" ["service", "upstream"]
        "1: vanished from Consul's answers, and kept while rota's own probe finds it well.";
    UPSTREAM_WEIGHT = Gauge "rota_upstream_weight" ["service", "upstream"]
        "The weight in force; 0 takes no turn.";
    UPSTREAM_IN_FLIGHT = Gauge "rota_upstream_in_flight" ["service", "upstream"]
        "Requests that a server is working on.";
    UPSTREAM_CONNECTS = Counter "rota_upstream_connects_total" ["service", "upstream"]
        "Connections opened to a server.";
    CONNECTIONS = Gauge "rota_connections" ["listener"]
        "Open connections from clients.";
    CONNECTIONS_ACCEPTED = Counter "rota_connections_accepted_total" ["listener"]
        "Connections accepted from clients.";
    ACCEPT_PAUSED = Counter "rota_accept_paused_total" []
        "How often accepting paused: limits.connections, or as many as there are descriptors for, were open.";
    CROWDED = Counter "rota_client_connections_refused_total" []
        "Connections closed at once since their client had limits.connections_per_client open.";
    SHED = Counter "rota_connections_shed_total" []
        "Connections closed at once since their worker did not keep up with limits.loop_lag.";
    LINGER_SKIPPED = Counter "rota_linger_skipped_total" []
        "Connections closed without waiting for their clients to have read the last answer, since 1000 of their worker waited already.";
    ACCEPT_FAILED = Counter "rota_accept_failed_total" []
        "Accepts that failed for want of descriptors or memory.";
    TLS_HANDSHAKES = Counter "rota_tls_handshakes_total" ["listener", "version", "resumed", "outcome"]
        "TLS handshakes with clients; version is empty where none was agreed on.";
    HTTP2_CALMED = Counter "rota_http2_calmed_total" ["frame"]
        "HTTP/2 connections ended with ENHANCE_YOUR_CALM, by the kind of frame that came last.";
    HEADS_REFUSED = Counter "rota_http2_heads_refused_total" []
        "Heads over HTTP/2 that were refused before they were a request, and are in no log: beyond limits.head_bytes (431), malformed or more than may be open (reset).";
    STALLED = Gauge "rota_http2_stalled_answers" []
        "Answers that wait for HTTP/2 clients to take more of them.";
    STALLED_CUT = Counter "rota_http2_stalled_cut_total" []
        "Answers cut since limits.stalled_answers waited and they had waited for a second.";
    STUCK = Counter "rota_http2_stuck_total" []
        "HTTP/2 connections reset since their clients took less than 16 KiB of what waited for them within timeouts.body, or within a second while limits.stalled_answers waited.";
    PROXY_REFUSED = Counter "rota_proxy_protocol_refused_total" []
        "Connections closed since they began with no PROXY header from a trusted address.";
    POOL_IDLE = Gauge "rota_pool_idle_connections" []
        "Idle connections to servers.";
    POOL_REUSED = Counter "rota_pool_reused_total" []
        "Requests sent over a connection from the pool.";
    POOL_STALE = Counter "rota_pool_stale_total" []
        "Pooled connections found closed when they were to be used.";
    WORKER_BUSY = Counter "rota_worker_busy_seconds_total" ["worker"]
        "CPU time of a worker's thread.";
    WORKER_BUSY_RATIO = Gauge "rota_worker_busy_ratio" ["worker"]
        "The share of the last 5 s that a worker's thread was busy: 0 to 1.";
    WORKER_LAG = Gauge "rota_worker_lag_seconds" ["worker"]
        "How late a worker's loop came to its last tick, of ten a second: what all that it serves waits for.";
    PANICS = Counter "rota_panics_total" []
        "Panics caught; each cost one request or connection.";
    DISCOVERY_AGE = Gauge "rota_discovery_age_seconds" []
        "Since Consul's last good answer, also one from before the start that `node.state_dir` kept; since the start where there was none yet; absent without Consul.";
    DISCOVERY_FAILING = Gauge "rota_discovery_failing" []
        "Watches of Consul that fail now; absent without Consul.";
    DISCOVERY_REMEMBERED = Gauge "rota_discovery_remembered" []
        "1: the table is the one that `node.state_dir` kept, Consul was not reached since the start; absent without Consul.";
    DISCOVERY_TROUBLE = Gauge "rota_discovery_trouble" ["reason"]
        "1 for what is wrong with Consul as a whole: consul_unreachable, no_leader, token_denied, consul_state_lost, many_lost_pod_wide or consul_failing; absent while nothing is. `rota why` tells since when.";
    DOCUMENTS_HELD = Gauge "rota_documents_held" []
        "Kinds of documents (services, routes, domains, tuning) of which there is news that waits: for the end of a change of several transactions (10 s at most), or for a service that a route names (1 s); absent without Consul.";
    STAGED = Counter "rota_staged_total" ["verb", "outcome"]
        "What operators asked about documents: plan, apply, rollback or shift, ok or refused; absent without Consul.";
    STATE_FAILED = Counter "rota_state_failed_total" []
        "Files below `node.state_dir` that could not be written; each is tried again.";
    DISCOVERY_GUARD = Gauge "rota_discovery_guard_active" ["service"]
        "1: at least one of the service's servers vanished from Consul's answers and is kept.";
    CONFIG_ERRORS = Gauge "rota_config_errors" ["entry"]
        "1 for each entry (document, tag, server) that is wrong; its last good version is in force, or it is ignored.";
    CANARY = Gauge "rota_canary_active" []
        "1: a change is tried on some load balancers of the pod, this one among them or not.";
    CANARIES = Counter "rota_canaries_total" ["outcome"]
        "Canaries that this load balancer ended: promoted or rolled_back.";
    SNAPSHOT_GENERATION = Gauge "rota_snapshot_generation" []
        "Counts up with each table published; 0: none yet.";
    FLEET_NODES = Gauge "rota_fleet_nodes" ["state"]
        "Load balancers of the pod as this one sees it: live, or gone without a drain within the last hour; absent without Consul.";
    FLEET_DIVERGING = Gauge "rota_fleet_diverging" []
        "Load balancers whose table has been another one for longer than a change needs to spread; absent without Consul.";
    FLEET_FINDINGS = Gauge "rota_fleet_findings" ["finding"]
        "What `rota fleet` finds wrong between load balancers, by kind: same_name, behind, diverging, certificates, stuck_watch, gone, silent, unreadable, untold, deaf, version_skew, too_many; absent without Consul.";
    FLEET_AGE = Gauge "rota_fleet_age_seconds" []
        "Since this load balancer last heard of its pod; absent before it first did, and without Consul.";
    RELOADS = Counter "rota_reloads_total" ["outcome"]
        "Re-reads of the configuration file: ok, or failed (nothing was changed).";
    READY = Gauge "rota_ready" []
        "1: a table is in force and nothing configured is missing in it. The way out (draining) shows in /readyz alone.";
    CERTIFICATE_NOT_AFTER = Gauge "rota_certificate_not_after_seconds" ["domain"]
        "When the certificate served for a name ends, in Unix seconds; the earliest where several have the name; 0: it is to be ordered or was imported, and there is none that can be served.";
    ACME_ORDERS = Counter "rota_acme_orders_total" ["outcome"]
        "Certificates ordered by ACME: ok, or failed (`rota certs` says why).";
    ACCESS_LOG_DROPPED = Counter "rota_access_log_dropped_total" []
        "Lines of the access log lost since its queue was full.";
    ACCESS_LOG_FAILED = Counter "rota_access_log_failed_total" []
        "Lines of the access log lost since they could not be written.";
    JOURNAL_LOST = Counter "rota_journal_lost_total" []
        "Records that did not come into the journal below `node.state_dir`: its disk was slow, full or refused them.";
    BUILD_INFO = Gauge "rota_build_info" ["version"]
        "Always 1.";
    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "CPU time of the process, user and system.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "The limit of open file descriptors; absent if there is none.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "When the process started, in Unix seconds.";
}

/// METRICS.md.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\nServed by the admin listener at `/metrics`. Base units, bounded labels; the series of a server, a service or an \
         entry end with it.\n\n| name | type | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for family in ALL {
        let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        let labels = if labels.is_empty() {
            "–".to_owned()
        } else {
            labels.join(", ")
        };
        text.push_str(&format!(
            "| `{}` | {} | {labels} | {} |\n",
            family.name,
            family.kind.label(),
            family.meaning
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_md_is_what_the_code_shows() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/METRICS.md");
        if std::env::var_os("ROTA_BLESS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            file == markdown(),
            "METRICS.md differs from the code: run this test with ROTA_BLESS=1"
        );
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for family in ALL {
            let is_total = family.name.ends_with("_total");
            assert_eq!(is_total, family.kind == Kind::Counter, "{}", family.name);
            assert!(!family.meaning.contains('|'), "{}", family.name);
        }
    }
}
