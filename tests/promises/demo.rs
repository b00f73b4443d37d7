//! `rota demo`: the main job on an embedded default, for somebody who has a minute.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::{self};
use crate::support::eventually;
use crate::support::rota::{Directory, Signal, binary};

struct Demo {
    child: Child,
    directory: Directory,
}

impl Demo {
    fn start() -> Demo {
        let directory = Directory::new();
        let out = File::create(directory.path().join("out")).unwrap();
        let child = Command::new(binary())
            .arg("demo")
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .spawn()
            .unwrap();
        Demo { child, directory }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.directory.path().join("out")).unwrap()
    }

    /// Ports of the first three URLs, whose schemes have to be HTTP, HTTPS and HTTP.
    fn ports(&self) -> [u16; 3] {
        let mut ports = Vec::new();
        eventually("three URLs are printed", || {
            ports = self.text().split_whitespace().filter_map(port_of).collect();
            ports.len() >= 3
        });
        let schemes: Vec<_> = ports
            .iter()
            .map(|(scheme, _)| scheme.as_str())
            .take(3)
            .collect();
        assert_eq!(schemes, ["http", "https", "http"], "{}", self.text());
        [ports[0].1, ports[1].1, ports[2].1]
    }

    fn end(&mut self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        let mut code = None;
        eventually("it ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        assert!(code.unwrap().success(), "{}", self.text());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port_of(word: &str) -> Option<(String, u16)> {
    let (scheme, rest) = word.split_once("://")?;
    let authority = rest.split('/').next()?;
    let digits = authority.rsplit(':').next()?;
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    let scheme = scheme.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
    Some((scheme.to_owned(), digits.parse().ok()?))
}

#[test]
fn the_demo_serves_explains_itself_and_ends_cleanly_also_beside_another() {
    let mut first = Demo::start();
    let [http, https, admin] = first.ports();
    let mut second = Demo::start();
    let others = second.ports();
    assert!(
        others
            .iter()
            .all(|port| ![http, https, admin].contains(port)),
        "the next free ones: {others:?}"
    );
    let here = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for port in [http, others[0]] {
        let servers: BTreeSet<_> = (0..30)
            .map(|_| client::get(here(port), "localhost", "/").text())
            .collect();
        assert!(
            servers.len() >= 2,
            "more than one server answers: {servers:?}"
        );
    }
    assert_eq!(
        client::get(here(admin), &here(admin).to_string(), "/readyz").status,
        200
    );
    first.end(Signal::INT);
    second.end(Signal::TERM);
}

#[test]
fn one_of_the_demos_servers_leaves_the_rota_and_rejoins_it() {
    let mut demo = Demo::start();
    let [_, _, admin] = demo.ports();
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], admin));
    let up = || {
        let metrics = client::get(admin, &admin.to_string(), "/metrics").text();
        crate::support::rota::sum_of(&metrics, "rota_upstream_up", &[])
    };
    let within = |what: &str, is_so: &dyn Fn(f64) -> bool| {
        let begin = Instant::now();
        while !is_so(up()) {
            assert!(begin.elapsed() < Duration::from_secs(90), "{what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    within("all three are on the rota", &|up| up == 3.0);
    within("one leaves", &|up| up == 2.0);
    within("it comes back", &|up| up == 3.0);
    demo.end(Signal::INT);
}

#[test]
fn demos_started_at_the_same_moment_each_get_ports_of_their_own() {
    let mut demos: Vec<Demo> = (0..6).map(|_| Demo::start()).collect();
    let ports: BTreeSet<u16> = demos.iter().flat_map(Demo::ports).collect();
    assert_eq!(ports.len(), 3 * demos.len(), "{ports:?}");
    for demo in &mut demos {
        demo.end(Signal::INT);
    }
}

#[test]
fn each_way_to_end_the_demo_removes_its_ca_file() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut demo = Demo::start();
        demo.ports();
        let text = demo.text();
        let mut words = text.split_whitespace();
        words.find(|word| *word == "--cacert").unwrap();
        let ca = std::path::PathBuf::from(words.next().unwrap());
        assert!(ca.exists());
        // At once: also when it has only just said that it runs.
        demo.end(signal);
        assert!(!ca.exists(), "{}", ca.display());
    }
}
