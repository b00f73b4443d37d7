//! HUP when the file system does not answer, and signals that come close together.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::support::client::Client;
use crate::support::rota::{PLAIN, Place, Signal, edge};
use crate::support::{Authority, Origin, Rota, eventually};

/// Puts a pipe in a file's place: who reads it waits for a writer, as for a server of files that is dead.
fn replace_by_pipe(file: &Path) {
    let fresh = file.with_extension("pipe");
    let made = Command::new("mkfifo").arg(&fresh).status().unwrap();
    assert!(made.success());
    fs::rename(fresh, file).unwrap();
}

/// The pipe's writing end, once somebody reads; who reads then waits for a byte or for this to close.
fn writer_once_read(pipe: &Path) -> File {
    let mut writer = None;
    eventually("the file is being read", || {
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let mut options = OpenOptions::new();
        writer = options
            .write(true)
            .custom_flags(nonblocking)
            .open(pipe)
            .ok();
        writer.is_some()
    });
    writer.unwrap()
}

/// A file that names certificates, and a CA for servers.
fn with_files(server: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\ncertificates = [{{ certificate = \"shop.pem\", key = \"shop.key\" }}]\n{}[[service]]\nname = \"other\"\nservers = [\"127.0.0.1:1\"]\nprotocol = \"https\"\ntls = {{ ca = \"ca.pem\" }}\n",
        edge(&[server])
    )
}

#[test]
fn a_file_that_hangs_at_hup_keeps_nobody_from_being_served_and_term_from_nothing() {
    for file in ["rota.toml", "shop.pem", "shop.key", "ca.pem"] {
        let origin = Origin::fixed("ok");
        let (authority, place) = (Authority::new(), Place::new());
        authority.leaf(&["shop.test"]).write(place.path(), "shop");
        fs::write(place.path().join("ca.pem"), &authority.pem).unwrap();
        let rota = place.start(&with_files(origin.address()));
        let path = rota.directory().join(file);
        replace_by_pipe(&path);
        rota.signal(Signal::HUP);
        let _writer = writer_once_read(&path);
        assert_eq!(rota.get("a", "/").text(), "ok");
        assert_eq!(rota.readiness(), Some(200), "{file}");
        let begun = Instant::now();
        assert!(rota.stop().success(), "{file}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{file}");
    }
}

#[test]
fn a_hup_that_comes_while_the_file_is_read_is_followed_by_another_reading() {
    let (one, two, three) = (Origin::fixed("1"), Origin::fixed("2"), Origin::fixed("3"));
    let rota = Rota::start(&edge(&[one.address()]));
    let path = rota.directory().join("rota.toml");
    let whole = |server: SocketAddr| {
        let before = fs::read_to_string(&path).unwrap();
        before.replace(&one.address().to_string(), &server.to_string())
    };
    let (second, third) = (whole(two.address()), whole(three.address()));
    replace_by_pipe(&path);
    rota.signal(Signal::HUP);
    let mut writer = writer_once_read(&path);
    fs::write(path.with_extension("new"), third).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    for _ in 0..3 {
        rota.signal(Signal::HUP);
    }
    assert_eq!(rota.get("a", "/").text(), "1");
    writer.write_all(second.as_bytes()).unwrap();
    drop(writer);
    eventually("the newest file is in force", || {
        rota.get("a", "/").text() == "3"
    });
    assert!(rota.stop().success());
}

/// Whether the kernel has yet to deliver a TERM.
fn is_term_pending(rota: &Rota) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", rota.pid())).unwrap();
    let masks = status.lines().filter_map(|line| {
        let (name, mask) = line.split_once(':')?;
        let mask = || u64::from_str_radix(mask.trim(), 16).unwrap();
        ["SigPnd", "ShdPnd"].contains(&name).then(mask)
    });
    masks.fold(0, |all, mask| all | mask) & 1 << (Signal::TERM.as_raw() - 1) != 0
}

#[test]
fn of_two_terms_at_once_the_second_stops() {
    for _ in 0..5 {
        let origin = Origin::start(|exchange| {
            std::thread::sleep(Duration::from_secs(3));
            exchange.answer(200, &[], b"late")
        });
        let rota = Place::new().start(&format!(
            "[timeouts]\ndrain = \"60s\"\n{}",
            edge(&[origin.address()])
        ));
        let mut busy = Client::connect(rota.http());
        busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the server has it", || origin.count() == 1);
        let begun = Instant::now();
        rota.signal(Signal::TERM);
        // Two that are pending at once are one: that is the kernel's.
        while is_term_pending(&rota) {}
        rota.signal(Signal::TERM);
        rota.wait();
        assert!(begun.elapsed() < Duration::from_secs(2), "it was drained");
    }
}

#[test]
fn a_certificate_that_was_exchanged_is_served_after_hup_and_the_others_go_on() {
    let origin = Origin::fixed("ok");
    let (authority, place) = (Authority::new(), Place::new());
    for name in ["one", "two"] {
        authority
            .leaf(&[&format!("{name}.test")])
            .write(place.path(), name);
    }
    let pair = |name: &str| format!("{{ certificate = \"{name}.pem\", key = \"{name}.key\" }}");
    let listener = format!(
        "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{{https}}\"\nprotocol = \"https\"\ncertificates = [{}, {}]\n{PLAIN}",
        pair("one"),
        pair("two")
    );
    let rota = place.start(&format!(
        "{listener}{}",
        edge(&[origin.address()]).replace(PLAIN, "")
    ));
    let is_served = |name: &str| Client::connect_tls(rota.https(), &authority.client(name)).is_ok();
    assert!(is_served("one.test") && is_served("two.test"));
    authority
        .leaf(&["three.test"])
        .write(rota.directory(), "two");
    rota.signal(Signal::HUP);
    eventually("the new one is served", || is_served("three.test"));
    assert!(is_served("one.test") && !is_served("two.test"));
}
