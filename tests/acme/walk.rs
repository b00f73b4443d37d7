//! README's way from nothing to a certificate, walked as it is written: only the ports are the test's own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::support::rota::{Directory, binary, free_port};
use super::support::{Origin, eventually};

const HEADING: &str = "### Try it with pebble\n";

/// The text between the fences of each block of the section, in their order: the script, the file, the rest.
fn blocks() -> [String; 3] {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, section) = readme.split_once(HEADING).unwrap();
    let (section, _) = section.split_once("\n### ").unwrap();
    let inside = section.split("```").skip(1).step_by(2);
    let text = |block: &str| block.split_once('\n').unwrap().1.to_owned();
    inside.map(text).collect::<Vec<_>>().try_into().unwrap()
}

/// A shell, and whoever it started in the background: one group of processes, which ends with the value.
struct Walker(Child);

impl Walker {
    /// What it says goes into the file "walk".
    fn start(directory: &Path, commands: &str, environment: &[(&str, String)]) -> Walker {
        let file = File::options()
            .create(true)
            .append(true)
            .open(directory.join("walk"));
        let file = file.unwrap();
        let child = Command::new("sh")
            .args(["-ec", &format!("{commands}\necho walked")])
            .current_dir(directory)
            .envs(environment.iter().cloned())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn();
        Walker(child.unwrap())
    }

    fn eventually_says(&mut self, directory: &Path, words: &str) {
        eventually(&format!("the walk says {words:?}"), || {
            let has_failed = self.0.try_wait().unwrap().is_some_and(|end| !end.success());
            assert!(!has_failed, "{}", read(directory, "walk"));
            read(directory, "walk").contains(words)
        });
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

fn read(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).unwrap_or_default()
}

#[test]
fn readmes_walk_with_pebble_ends_with_an_answer_over_tls() {
    let origin = Origin::fixed("from the app server\n");
    let place = Directory::new();
    let [script, file, rest] = blocks();
    let ports = ["8080", "8443", "9900", "14000", "15000", "8053", "8055"];
    let ports = ports.map(|port| (port, free_port().to_string()));
    let own = |text: String| {
        let text = text.replace("127.0.0.1:9001", &origin.address().to_string());
        let put = |text: String, (written, own): &(&str, String)| {
            text.replace(&format!("127.0.0.1:{written}"), &format!("127.0.0.1:{own}"))
        };
        ports.iter().fold(text, put)
    };
    let root = env!("CARGO_MANIFEST_DIR");
    let binary = binary();
    let path = std::env::var("PATH").unwrap();
    let mut environment = vec![
        (
            "PATH",
            format!("{}:{path}", binary.parent().unwrap().display()),
        ),
        ("ROTA_ADMIN", format!("127.0.0.1:{}", ports[2].1)),
    ];
    let names = [
        "HTTP_PORT",
        "TLS_PORT",
        "",
        "API_PORT",
        "ROOTS_PORT",
        "DNS_PORT",
        "RECORDS_PORT",
    ];
    let named = names
        .iter()
        .zip(&ports)
        .filter(|(name, _)| !name.is_empty());
    environment.extend(named.map(|(name, (_, port))| (*name, port.clone())));

    let script = script.replace("scripts/", &format!("{root}/scripts/"));
    let mut ca = Walker::start(place.path(), &script, &environment);
    ca.eventually_says(place.path(), "[acme]");
    fs::write(place.path().join("rota.toml"), own(file)).unwrap();
    let mut walk = Walker::start(place.path(), &own(rest), &environment);
    walk.eventually_says(place.path(), "\nwalked\n");
    let said = read(place.path(), "walk");
    assert!(said.contains("rota.toml: fine"), "{said}");
    assert!(said.contains("from the app server"), "{said}");
    let is_listed = |line: &str| line.starts_with("shop.example.com") && line.contains("Pebble");
    assert!(said.lines().any(is_listed), "{said}");
}
