//! What a load balancer keeps on its own disk: it serves at its next start although Consul is down, says of when its table is, and
//! goes on by what Consul says once it returns.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::consul_agent::Agent;
use super::support::rota::{PLAIN, Place, said};
use super::support::{Origin, Rota, Signal, eventually};
use super::{PREFIX, app, consul, document, eventually_answers};

/// Between the start of a process and what it is to serve, on a machine with other things to do.
const LENIENT: Duration = Duration::from_secs(5);

/// A state directory, Consul's `app` for all, and whatever documents there are.
fn file(agent: &Agent) -> String {
    format!(
        "[node]\nname = \"lb-1\"\nstate_dir = \"state\"\n{}",
        app(agent)
    )
}

fn table(folder: &Path) -> std::path::PathBuf {
    folder.join("state/kept/table")
}

/// Both servers and a document, served and kept; then the process is killed.
fn killed_with(agent: &Agent, one: &Origin, two: &Origin) -> Rota {
    agent.register_passing("app", "one", one.address().port());
    agent.register_passing("app", "two", two.address().port());
    let three = format!("servers = [\"{}\"]", one.address());
    document(agent, "services/shop", &three);
    document(
        agent,
        "routes/shop",
        "host = \"shop.test\"\nservice = \"shop\"",
    );
    let rota = Place::new().start(&file(agent));
    eventually_answers(&rota, &["one", "two"]);
    eventually("the document is in force", || {
        rota.get("shop.test", "/").text() == "one"
    });
    let (path, port) = (table(rota.directory()), two.address().port().to_string());
    eventually("it is kept", || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.contains(&port) && text.contains("shop.test")
    });
    rota.signal(Signal::KILL);
    rota.wait();
    rota
}

/// A place with what a process that has ended kept in another.
fn after(before: &Rota) -> Place {
    let place = Place::new();
    copy(before.directory(), place.path());
    place
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("state/kept")).unwrap();
    fs::copy(table(from), table(to)).unwrap();
}

fn status(rota: &Rota) -> serde_json::Value {
    rota.admin_get("/v1/status").json()
}

#[test]
fn an_lb_that_starts_while_consul_is_down_serves_what_it_knew_and_reconciles_when_consul_returns() {
    let mut agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let before = killed_with(&agent, &one, &two);
    agent.kill();

    let place = after(&before);
    let start = Instant::now();
    let rota = place.spawn(&file(&agent));
    let served = || {
        let mut client = super::support::Client::try_connect(rota.http()).ok()?;
        client
            .try_send(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
            .ok()?;
        client.try_answer().ok()
    };
    eventually("it serves", || {
        served().is_some_and(|answer| answer.text() == "one")
    });
    let took = start.elapsed();
    println!("served {took:?} after its start, with Consul down");
    assert!(took < LENIENT, "{took:?}");
    rota.wait_until_ready();
    assert!(
        start.elapsed() < LENIENT,
        "ready after {:?}",
        start.elapsed()
    );
    eventually_answers(&rota, &["one", "two"]);

    let discovery = &status(&rota)["discovery"];
    assert!(discovery["remembered"].is_string(), "{discovery}");
    let shown = said(&rota.command(&["status"]));
    assert!(
        shown.contains("from the state of") && shown.contains("Consul not reached yet"),
        "{shown}"
    );
    let shown = said(&rota.command(&["why", &format!("app/{}", one.address())]));
    assert!(shown.contains("remembered from"), "{shown}");
    assert_eq!(rota.metric("rota_discovery_remembered", &[]), 1.0);
    let age = rota.metric("rota_discovery_age_seconds", &[]);
    eventually("its age grows", || {
        rota.metric("rota_discovery_age_seconds", &[]) > age + 1.0
    });

    agent.restart();
    agent.set_check("one", "pass");
    agent.set_check("two", "fail");
    eventually("Consul's word is taken", || {
        rota.metric("rota_discovery_remembered", &[]) == 0.0
            && rota.metric("rota_discovery_age_seconds", &[]) < 3.0
    });
    eventually_answers(&rota, &["one"]);
    assert!(status(&rota)["discovery"]["remembered"].is_null());
    let shown = said(&rota.command(&["why", &format!("app/{}", one.address())]));
    assert!(!shown.contains(", remembered"), "{shown}");
}

#[test]
fn a_consul_that_comes_back_empty_takes_nothing_of_what_is_remembered() {
    let mut agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let before = killed_with(&agent, &one, &two);
    agent.kill();
    let rota = after(&before).start(&file(&agent));
    eventually_answers(&rota, &["one", "two"]);
    agent.restart_empty();
    eventually("Consul is heard, and doubted", || {
        let labels = [("service", "app")];
        rota.metric("rota_discovery_guard_active", &labels) == 1.0
            && rota.metric("rota_discovery_remembered", &[]) == 0.0
    });
    eventually_answers(&rota, &["one", "two"]);
    assert_eq!(rota.get("shop.test", "/").text(), "one");
}

#[test]
fn a_damaged_file_is_named_and_the_lb_starts_without_it() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let before = killed_with(&agent, &one, &two);
    let path = table(before.directory());
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("shop.test", "evil.test")).unwrap();
    let rota = after(&before).start(&file(&agent));
    eventually_answers(&rota, &["one", "two"]);
    assert!(
        rota.log().contains("damaged: its checksum is another"),
        "{}",
        rota.log()
    );
    eventually("it is written anew, and the mistake is gone", || {
        let text = fs::read_to_string(table(rota.directory())).unwrap();
        text.contains("shop.test") && status(&rota)["mistakes"].as_array().unwrap().is_empty()
    });
}

#[test]
fn a_damaged_file_is_named_in_status_while_nothing_better_is_known() {
    let mut agent = Agent::start();
    agent.kill();
    let place = Place::new();
    fs::create_dir_all(place.path().join("state/kept")).unwrap();
    fs::write(table(place.path()), "half of a fi").unwrap();
    let rota = place.start_unready(&file(&agent));
    eventually("status names it", || {
        let mistakes = status(&rota)["mistakes"].clone();
        let entry = mistakes[0]["entry"].as_str().unwrap_or_default().to_owned();
        entry.starts_with("state:") && entry.ends_with("state/kept/table")
    });
    assert!(status(&rota)["discovery"]["remembered"].is_null());
    assert_eq!(rota.readiness(), Some(503));
    // What nobody can read any more may still be what somebody wants to look at.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(
        fs::read_to_string(table(rota.directory())).unwrap(),
        "half of a fi"
    );
}

#[test]
fn a_process_killed_again_and_again_while_it_writes_leaves_a_file_that_can_be_read() {
    let agent = Agent::start();
    let origin = Origin::fixed("one");
    agent.register_passing("app", "one", origin.address().port());
    let folder = Place::new();
    let state = folder.path().join("state");
    let text = file(&agent).replace("\"state\"", &format!("{:?}", state.to_str().unwrap()));
    let mut recalled = 0;
    let mut was_recalled = false;
    for round in 0..12u32 {
        let rota = Place::new().spawn(&text);
        eventually("it serves", || {
            rota.try_admin("GET /healthz").is_ok() && rota.get("a", "/").status == 200
        });
        assert!(!rota.log().contains("damaged"), "{}", rota.log());
        let is_recalled = rota.log().contains("remembered: ");
        assert!(is_recalled || !was_recalled, "{}", rota.log());
        was_recalled = is_recalled;
        recalled += u32::from(is_recalled);
        // Each a change, and each life ends somewhere around the second at which it is written.
        let note = "# a document that grows\n".repeat(1500 * (round as usize + 1));
        document(
            &agent,
            "services/shop",
            &format!("{note}servers = [\"127.0.0.1:1\"]"),
        );
        std::thread::sleep(Duration::from_millis(900 + u64::from(round % 6) * 60));
        rota.signal(Signal::KILL);
        rota.wait();
    }
    assert!(recalled > 0, "each life was too short");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("kept"))), (0o700, 0o700));
    assert_eq!(mode(&state.join("kept/table")), 0o600);
}

#[test]
fn a_state_directory_of_another_pod_is_not_this_ones() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let before = killed_with(&agent, &one, &two);
    let place = after(&before);
    let rota = place.start(&file(&agent).replace(PREFIX, "rota/other"));
    assert!(rota.log().contains("it is of the pod"), "{}", rota.log());
    let routes = rota.admin_get("/v1/routes").text();
    assert!(!routes.contains("shop.test"), "{routes}");
}

/// As the file would be had the name been this one.
fn renamed(text: &str, from: &str, to: &str) -> String {
    let (_, body) = text.split_once('\n').unwrap();
    let body = body.replace(from, to);
    let digest = rota::seal::Digest::of(body.as_bytes()).to_hex();
    format!("rota-kept 1 {digest}\n{body}")
}

#[test]
fn servers_given_by_name_are_served_at_their_last_addresses_while_neither_consul_nor_dns_answers() {
    let mut agent = Agent::start();
    let origin = Origin::fixed("one");
    let port = origin.address().port();
    document(
        &agent,
        "services/shop",
        &format!("servers = [\"localhost:{port}\"]"),
    );
    let route = "host = \"shop.test\"\nservice = \"shop\"";
    document(&agent, "routes/shop", route);
    let text = format!(
        "[node]\nname = \"lb-1\"\nstate_dir = \"state\"\n{}{PLAIN}",
        consul(&agent)
    );
    let before = Place::new().start(&text);
    eventually("it is served", || {
        before.get("shop.test", "/").text() == "one"
    });
    let kept = || fs::read_to_string(table(before.directory())).unwrap_or_default();
    eventually("it is kept", || {
        kept().contains("[\"localhost\",[\"127.0.0.1\"") && kept().contains("shop.test")
    });
    before.signal(Signal::KILL);
    before.wait();
    agent.kill();

    // A name that nobody resolves stands for one whose servers are away.
    let place = after(&before);
    fs::write(
        table(place.path()),
        renamed(&kept(), "localhost", "shop.invalid"),
    )
    .unwrap();
    let rota = place.spawn(&text);
    eventually("it is served from the last address", || {
        rota.try_admin("GET /healthz").is_ok() && rota.get("shop.test", "/").text() == "one"
    });
    rota.wait_until_ready();
    eventually("that it cannot be resolved is named", || {
        let mistakes = status(&rota)["mistakes"].to_string();
        mistakes.contains("dns:shop.invalid") && mistakes.contains("last good answer")
    });
}
