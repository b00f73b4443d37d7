//! A disk without room under a running rota: a small one of its own, filled while it serves.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::rota::{Place, edge, said};
use crate::support::{Origin, Rota, eventually};

/// An agent that knows of nothing, and says so.
fn consul() -> Origin {
    let agent = Origin::start(|exchange| {
        let index = [("X-Consul-Index", "7"), ("X-Consul-KnownLeader", "true")];
        let target = exchange.request.target.clone();
        if target.contains("/status/leader") {
            return exchange.answer(200, &index, b"\"127.0.0.1:8300\"");
        }
        if target.contains("index=7") {
            exchange.is_left_within(Duration::from_secs(60));
            return Ok(());
        }
        exchange.answer(404, &index, b"")
    });
    agent.stop_recording();
    agent
}

/// A user namespace, in which a file system may be mounted, is not to be had everywhere.
fn has_namespaces() -> bool {
    let tried = Command::new("unshare").args(["-Urm", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// The state directory as the process sees it: nobody else has it mounted.
fn state(rota: &Rota) -> PathBuf {
    let inside = rota.directory().join("state");
    let inside = inside.strip_prefix("/").unwrap();
    PathBuf::from(format!("/proc/{}/root", rota.pid())).join(inside)
}

/// Writes until there is no room for a byte.
fn fill(rota: &Rota) -> PathBuf {
    let path = state(rota).join("filler");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    path
}

/// Something that is noted in the journal and kept.
fn drain_and_back(rota: &Rota) {
    for word in ["drain", "undrain"] {
        let done = rota.command(&[word, "app", "--here"]);
        assert!(done.status.success(), "{}", said(&done));
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_journal_and_kept_table_for_that_while_and_no_request() {
    if !has_namespaces() {
        println!("not tried: this machine gives no user namespaces");
        return;
    }
    let (app, agent) = (Origin::fixed("ok"), consul());
    let settings = format!(
        "[admin]\naddress = \"unix:{{dir}}/admin.sock\"\n[node]\nstate_dir = \"state\"\n[consul]\naddress = \"http://{}\"\n",
        agent.address()
    );
    let place = Place::new().with_small_disk("state", "256k");
    let rota = place.start_unready(&(settings + &edge(&[app.address()])));
    eventually("it serves", || rota.get("a", "/").status == 200);
    drain_and_back(&rota);
    assert_eq!(rota.metric("rota_journal_lost_total", &[]), 0.0);

    let filler = fill(&rota);
    eventually("the journal says that it lost something", || {
        drain_and_back(&rota);
        rota.metric("rota_journal_lost_total", &[]) > 0.0
    });
    eventually("so does what is kept", || {
        drain_and_back(&rota);
        rota.metric("rota_state_failed_total", &[]) > 0.0
    });
    let log = rota.log();
    assert!(log.contains("the journal cannot be written"), "{log}");
    for _ in 0..20 {
        assert_eq!(rota.get("a", "/").status, 200);
    }

    fs::remove_file(filler).unwrap();
    eventually("it is written again", || {
        drain_and_back(&rota);
        rota.log().contains("the journal is written again")
    });
    assert_eq!(rota.get("a", "/").status, 200);
    assert_eq!(rota.metric("rota_panics_total", &[]), 0.0);
    assert!(rota.stop().success());
}
