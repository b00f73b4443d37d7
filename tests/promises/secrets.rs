//! Secrets planted in everything that rota reads are in nothing that it says: answers, logs, metrics, mistakes, commands.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::client::Client;
use crate::support::rota::{Place, edge, run, said};
use crate::support::{Authority, Origin, Rota, Signal, eventually};

const ADMIN_TOKEN: &str = "planted-admin-token-0123456789";
const CONSUL_TOKEN: &str = "9d1f00aa-1111-2222-3333-planted00001";
const SEAL_KEY: &str = "UGxhbnRlZC1rZXktb2YtMzItYnl0ZXMtLS0tLS0tLTE=";
const HMAC: &str = "UGxhbnRlZEhtYWNLZXlPZkFDdXN0b21lckF0QUNB";
const OF_A_CLIENT: [&str; 3] = ["planted-bearer", "planted-cookie", "planted-body"];

/// A file that only its owner may read.
fn write_secret(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A file of the planted ones, and how it may be wrong.
fn text(origin: &Origin, agent: &Origin, more: &str) -> String {
    format!(
        "[admin]\naddress = \"127.0.0.1:{{admin}}\"\ntoken_file = \"admin.token\"\n\
         [node]\nstate_dir = \"state\"\n\
         [consul]\naddress = \"http://{}\"\ntoken = \"{CONSUL_TOKEN}\"\n\
         [acme]\ndirectory = \"https://127.0.0.1:1/\"\nkey_file = \"fleet.key\"\neab = {{ kid = \"customer\", hmac_file = \"eab.key\" }}\n\
         [access_log]\npath = \"{{dir}}/access.log\"\n{more}\
         [[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\ncertificates = [{{ certificate = \"shop.pem\", key = \"shop.key\" }}]\n\
         [[domain]]\nname = \"later.test\"\n{}",
        agent.address(),
        edge(&[origin.address()])
    )
}

struct Planted {
    all: Vec<String>,
}

impl Planted {
    /// In `directory`: what [`text`] names.
    fn in_files_of(directory: &Path) -> Planted {
        Authority::new()
            .leaf(&["shop.test"])
            .write(directory, "shop");
        for (name, secret) in [
            ("admin.token", ADMIN_TOKEN),
            ("fleet.key", SEAL_KEY),
            ("eab.key", HMAC),
        ] {
            write_secret(directory, name, secret);
        }
        let key = fs::read_to_string(directory.join("shop.key")).unwrap();
        let key_line = key.lines().nth(1).unwrap().to_owned();
        let of_files = [ADMIN_TOKEN, CONSUL_TOKEN, SEAL_KEY, HMAC].map(str::to_owned);
        let of_clients = OF_A_CLIENT.map(str::to_owned);
        let all = [&of_files[..], &of_clients[..], &[key_line]].concat();
        Planted { all }
    }

    fn assert_absent(&self, from: &str, said: &str) {
        for secret in &self.all {
            assert!(
                !said.contains(secret.as_str()),
                "{secret} in {from}:\n{said}"
            );
        }
    }
}

/// Refuses, and says back what it was sent, as a proxy before an agent may.
fn telltale_agent() -> Origin {
    Origin::start(|exchange| {
        let head = String::from_utf8_lossy(&exchange.request.head.raw).into_owned();
        exchange.answer(403, &[], head.as_bytes())
    })
}

/// Everything that can be asked of it without a token.
fn all_that_it_tells(rota: &Rota) -> Vec<(String, String)> {
    let paths = [
        "/",
        "/metrics",
        "/healthz",
        "/readyz",
        "/v1/status",
        "/v1/services",
        "/v1/services/app",
        "/v1/routes",
        "/v1/certificates",
        "/v1/why?q=app",
        "/v1/why?q=shop.test",
        "/v1/nothing",
        "/v1/history",
        "/v1/plan",
    ];
    let mut told: Vec<_> = paths
        .iter()
        .map(|path| ((*path).to_owned(), rota.admin_get(path).text()))
        .collect();
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["certs"],
        &["why", "app"],
    ] {
        told.push((words.join(" "), said(&rota.command(words))));
    }
    told
}

fn ask_with_secrets(rota: &Rota) {
    let fields = "Host: a\r\nAuthorization: Bearer planted-bearer\r\nCookie: s=planted-cookie\r\nContent-Length: 12\r\n";
    for line in [
        "POST / HTTP/1.1",
        "POST /a b HTTP/1.1",
        "POST / HTTP/1.1\r\nHost: b",
    ] {
        let mut client = Client::connect(rota.http());
        client.send(format!("{line}\r\n{fields}\r\nplanted-body"));
        let _ = client.try_answer();
    }
}

#[test]
fn no_planted_secret_is_in_an_answer_a_log_a_metric_a_mistake_or_a_command() {
    let (origin, agent) = (Origin::fixed("ok"), telltale_agent());
    let place = Place::new().with_variable("ROTA_LOG", "debug");
    let planted = Planted::in_files_of(place.path());
    let rota = place.start_unready(&text(&origin, &agent, ""));
    ask_with_secrets(&rota);
    eventually("consul was asked", || agent.count() > 3);
    // A guess, close to it, and the token itself where it may be used.
    for guess in ["planted-admin-token-012345678", ADMIN_TOKEN] {
        let fields = format!("Content-Type: application/json\r\nAuthorization: Bearer {guess}\r\n");
        let body = "{\"service\":\"absent\",\"who\":\"tester\"}";
        let answer = rota.admin_with("POST /v1/drain", &fields, body).unwrap();
        planted.assert_absent("an answer to an order", &answer.text());
    }
    for (from, told) in all_that_it_tells(&rota) {
        planted.assert_absent(&from, &told);
    }
    // Mistakes of every kind, beside the secrets.
    for wrong in [
        "[limits]\npool = \"x\"\n",
        "[limits\n",
        "[consul]\ntoken = 5\n",
        "[acme]\nkey_file = 7\n",
    ] {
        let refused = rota.metric("rota_reloads_total", &[("outcome", "failed")]);
        rota.reload(&text(&origin, &agent, wrong));
        eventually("it is refused", || {
            rota.metric("rota_reloads_total", &[("outcome", "failed")]) > refused
        });
        let file = rota.directory().join("rota.toml");
        let checked = run(&["check", file.to_str().unwrap()]);
        planted.assert_absent("rota check", &said(&checked));
    }
    rota.signal(Signal::TERM);
    rota.wait();
    planted.assert_absent("the log", &rota.log());
    planted.assert_absent("standard output", &rota.stdout());
    for file in files_below(&rota.directory().join("state")) {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        planted.assert_absent(&file.display().to_string(), &text);
    }
    let access = fs::read_to_string(rota.directory().join("access.log")).unwrap();
    planted.assert_absent("the access log", &access);
    assert!(access.contains("\"method\""), "{access}");
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let nested = paths.flat_map(|path| match path.is_dir() {
        true => files_below(&path),
        false => vec![path],
    });
    nested.collect()
}
