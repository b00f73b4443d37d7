//! What docker/ says, without an engine: its registration and its configuration, with ports of this machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::consul_agent::{Agent, binary};
use super::eventually_answers;
use super::support::rota::{Directory, Place};
use super::support::{Origin, Rota};

/// Runs docker/register as its container does: `consul` on the path, the rest in the environment.
fn register(agent: &Agent, apps: &[&Origin]) {
    let tools = Directory::new();
    symlink(binary(), tools.path().join("consul")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let apps: Vec<_> = apps.iter().map(|app| app.address().to_string()).collect();
    let status = Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docker/register"))
        .env("PATH", format!("{}:{path}", tools.path().display()))
        .env("CONSUL_HTTP_ADDR", agent.http_address())
        .env("APPS", apps.join(" "))
        .status();
    assert!(status.unwrap().success());
}

/// The image's own configuration, moved to where a test may be.
fn start(agent: &Agent) -> Rota {
    let image = include_str!("../../docker/rota.toml");
    let place = Place::new().with_variable("CONSUL_HTTP_ADDR", &agent.http_address());
    let state = place.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let mut text = image.to_owned();
    for (of_image, here) in [
        ("/var/lib/rota", "{dir}/state"),
        ("127.0.0.1:9900", "127.0.0.1:{admin}"),
        ("0.0.0.0:8080", "127.0.0.1:{http}"),
        (
            "[consul]",
            "[consul]\nallow_upstreams = [\"127.0.0.0/8\"] #",
        ),
    ] {
        assert!(text.contains(of_image), "docker/rota.toml has {of_image}");
        text = text.replace(of_image, here);
    }
    place.start(&text)
}

#[test]
fn the_images_configuration_serves_what_the_compose_file_registers() {
    let agent = Agent::start();
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let rota = start(&agent);
    register(&agent, &[&one, &two]);
    eventually_answers(&rota, &["one", "two"]);
    two.stop();
    eventually_answers(&rota, &["one"]);
}
