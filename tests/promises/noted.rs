//! `rota why ID`: what failed or was sent again is explained by the request's id, and nothing else is held.

use std::fs;

use serde_json::Value;

use crate::support::load::Load;
use crate::support::rota::{Place, edge, said};
use crate::support::{Origin, Rota, eventually};

/// Reads the request's head and ends the connection with a reset.
fn resets() -> Origin {
    Origin::start(|exchange| exchange.reset())
}

/// One worker, an access log, and a client whose `X-Request-Id` is believed.
fn start(servers: &[&Origin], settings: &str) -> Rota {
    let servers: Vec<_> = servers.iter().map(|origin| origin.address()).collect();
    let trusting = "protocol = \"http\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let edge = edge(&servers).replace("protocol = \"http\"\n", trusting);
    Place::new().start(&format!(
        "[node]\nworkers = 1\n[access_log]\npath = \"{{dir}}/access.log\"\n{settings}{edge}"
    ))
}

fn ask(rota: &Rota, method: &str, path: &str, id: &str) -> u16 {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: shop.test\r\nX-Request-Id: {id}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    rota.ask(&request).status
}

/// What the access log has of a request.
fn line(rota: &Rota, id: &str) -> Value {
    let of_it = || {
        let text = fs::read_to_string(rota.directory().join("access.log")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["request_id"] == id)
            .collect::<Vec<_>>()
    };
    eventually("the access log has it", || of_it().len() == 1);
    of_it().remove(0)
}

/// The one request of that id, as `rota why ID --json` tells it.
fn why(rota: &Rota, id: &str) -> Value {
    let output = rota.command(&["why", id, "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["kind"], "requests");
    let requests = answer["requests"].as_array_mut().unwrap();
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests.remove(0)
}

#[test]
fn a_request_that_was_sent_again_is_explained_by_its_id_with_both_attempts() {
    let (bad, well) = (resets(), [Origin::fixed("well"), Origin::fixed("well")]);
    let rota = start(&[&bad, &well[0], &well[1]], "");
    let ids: Vec<String> = (1..=6).map(|number| format!("trace-{number}")).collect();
    for id in &ids {
        assert_eq!(ask(&rota, "GET", "/cart?card=4111", id), 200);
    }
    let of = |attempts: u64| {
        let mut ids = ids.iter();
        ids.find(|id| line(&rota, id)["attempts"] == attempts)
            .unwrap()
    };
    let (again, plain) = (of(2), of(1));
    let (request, logged) = (why(&rota, again), line(&rota, again));
    let well = logged["upstream"].as_str().unwrap();
    let told = said(&rota.command(&["why", again]));
    for words in [
        format!("request {again}, ended 20"),
        "GET shop.test/cart from 127.0.0.1 over HTTP/1.1 at listener web".into(),
        "answered with 200 after ".into(),
        "answered (a server's own answer)".into(),
        "(* /) to service app, since no other route has this host".into(),
        format!("attempt 1: {} broken after ", bad.address()),
        "it closed or reset the connection before its answer began".into(),
        format!("attempt 2: {well} answered 200 after "),
        format!("app/{well} is now on the rota"),
        format!("more of it: rota why app/{}", bad.address()),
    ] {
        assert!(told.contains(&words), "{words}: {told}");
    }
    assert!(!told.contains("4111"), "a query may be secret: {told}");
    for field in ["reason", "attempts", "status"] {
        assert_eq!(request[field], logged[field], "{field}");
    }
    assert_eq!(request["route"]["name"], logged["route"]);
    let unknown = rota.command(&["why", plain]);
    assert!(!unknown.status.success(), "what went well is not held");
}

#[test]
fn a_request_that_failed_names_its_server_its_reason_and_the_servers_transitions() {
    let bad = resets();
    let rota = start(&[&bad], "");
    assert_eq!(
        ask(&rota, "POST", "/", "1-67891233-abcdef012345678912345678"),
        502
    );
    let request = why(&rota, "1-67891233-abcdef012345678912345678");
    assert_eq!(
        (&request["reason"], &request["status"]),
        (&"upstream_broken".into(), &502.into())
    );
    assert_eq!(request["tried"][0]["upstream"], bad.address().to_string());
    assert_eq!(request["tried"][0]["outcome"], "broken");
    bad.stop();
    // The first finds the connection refused, and the server is off.
    assert_eq!(ask(&rota, "GET", "/", "to.nobody"), 502);
    eventually("its ejection is among its transitions", || {
        let request = why(&rota, "request:to.nobody");
        let around = request["servers"][0]["around"].to_string();
        around.contains("\"refused\"")
    });
    assert_eq!(ask(&rota, "GET", "/", "no-turn"), 503);
    let request = why(&rota, "no-turn");
    assert_eq!(request["reason"], "no_upstream");
    assert_eq!(line(&rota, "no-turn")["reason"], "no_upstream");
    assert_eq!(
        request["servers"][0]["server"],
        format!("app/{}", bad.address())
    );
    let told = said(&rota.command(&["why", "no-turn"]));
    assert!(told.contains("no server was asked"), "{told}");
}

#[test]
fn an_answer_of_5xx_is_a_failure_whose_server_is_named() {
    let sick = Origin::start(|exchange| exchange.answer(500, &[], b"sorry"));
    let rota = start(&[&sick], "");
    assert_eq!(ask(&rota, "GET", "/", "five-hundred-1"), 500);
    let request = why(&rota, "five-hundred-1");
    assert_eq!(request["reason"], "answered");
    assert_eq!(request["tried"][0]["outcome"], "server_error");
    assert_eq!(request["tried"][0]["upstream"], sick.address().to_string());
}

#[test]
fn who_asks_for_an_id_that_is_not_held_learns_what_is_held_and_since_when() {
    let rota = start(&[&Origin::fixed("well")], "");
    let output = rota.command(&["why", "0af7651916cd43dd8448eb211c80319c"]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for words in [
        "none with it failed or was sent again on this load balancer since 20",
        "(0 such requests are held, limits.noted_requests)",
        "the access log has it by its request_id; other load balancers hold their own",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn a_flood_of_failed_requests_is_held_to_limits_noted_requests_and_the_rest_is_counted() {
    let bad = resets();
    bad.stop_recording();
    let rota = start(&[&bad], "[limits]\nnoted_requests = 100\n");
    assert_eq!(ask(&rota, "GET", "/", "the-very-first-1"), 502);
    let before = rota.memory_kib("VmRSS");
    let load = Load {
        path: format!("/{}", "x".repeat(8_000)),
        ..Load::new(rota.http(), 4)
    };
    assert_eq!(load.run_count(3_000).failed(), 3_000);
    assert_eq!(rota.metric("rota_noted_requests", &[]), 100.0);
    assert!(rota.metric("rota_noted_requests_dropped_total", &[]) >= 2_000.0);
    let growth = rota.memory_kib("VmRSS").saturating_sub(before);
    assert!(growth < 16 * 1024, "{growth} KiB");
    let told = said(&rota.command(&["why", "request:the-very-first-1"]));
    assert!(told.contains("100 such requests are held"), "{told}");
    assert_eq!(ask(&rota, "GET", "/", "the-last-one-1"), 502);
    assert_eq!(why(&rota, "the-last-one-1")["status"], 502);
}
