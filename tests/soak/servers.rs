//! App servers as processes of their own, since only a process can be killed or hang: this test binary, started once more.

use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::content::{bytes, number, write_pieces};
use super::support::rota::free_port;
use super::support::{Exchange, Origin, Signal, eventually};

/// `PORT FILE`, in the environment of a server's process: where it listens, and where it notes what must not come twice.
const ROLE: &str = "SOAK_SERVER";

/// A server's process, started and ended as often as one likes; always at the same port.
pub struct Server {
    port: u16,
    /// The ids of POSTs that came, a line each.
    posts: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Server {
    pub fn start(directory: &Path, name: &str) -> Server {
        let server = Server {
            port: free_port(),
            posts: directory.join(format!("{name}.posts")),
            child: Mutex::default(),
        };
        server.revive();
        server
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Starts the process, and waits until it listens.
    pub fn revive(&self) {
        let role = format!("{} {}", self.port, self.posts.display());
        // Not by its path: in half an hour another build may have taken its place.
        let child = Command::new("/proc/self/exe")
            .args(["--exact", "servers::serves_if_it_is_told_to"])
            .args(["--nocapture", "--ignored"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
        eventually("an app server listens", || {
            TcpStream::connect(self.address()).is_ok()
        });
    }

    /// At once, without a farewell.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.lock().unwrap();
        let pid = rustix::process::Pid::from_child(child.as_ref().expect("it runs"));
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The ids of all POSTs that it was ever sent.
    pub fn posts(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(&self.posts).unwrap_or_default();
        text.lines().map(|id| id.parse().unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "no test, but what an app server's process does"]
fn serves_if_it_is_told_to() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (port, posts) = role.split_once(' ').unwrap();
    let posts = File::options().create(true).append(true).open(posts);
    let posts = posts.unwrap();
    let server = Origin::start_at(port.parse().unwrap(), move |exchange| {
        answer(exchange, &posts)
    });
    server.stop_recording();
    // Who started it holds the other end, whatever becomes of him.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    std::process::exit(0);
}

fn answer(exchange: &mut Exchange, posts: &File) -> io::Result<()> {
    let target = exchange.request.target.clone();
    let id = number(&target, "id").unwrap_or_default();
    if exchange.request.method == "POST" {
        // Before its body: a request that came is one that came, whatever becomes of it. In one write, so that no kill cuts it.
        let mut posts = posts;
        posts.write_all(format!("{id}\n").as_bytes())?;
    }
    let length = number(&target, "n").unwrap_or_default();
    match target.split('?').next().unwrap_or_default() {
        "/echo" => {
            exchange.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
            exchange.echo()
        }
        "/bytes" => {
            std::thread::sleep(Duration::from_millis(
                number(&target, "ms").unwrap_or_default(),
            ));
            send_length(exchange, id, length, length)
        }
        "/chunks" => {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            write_pieces(id, length, |piece| {
                exchange
                    .send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
            })?;
            exchange.send("0\r\n\r\n")
        }
        // Says more than it does.
        "/cut" => {
            send_length(exchange, id, length, length / 2)?;
            exchange.close()
        }
        "/take" => {
            exchange.read_body()?;
            let request = &exchange.request;
            let is_sound = request.is_complete && request.body == bytes(id, request.body_length);
            let word = if is_sound { "whole" } else { "other" };
            exchange.answer(200, &[], receipt(id, word).as_bytes())
        }
        _ => exchange.answer(200, &[], b"well"),
    }
}

/// What is said of an upload.
pub fn receipt(id: u64, word: &str) -> String {
    format!("{id} {word}")
}

fn send_length(exchange: &mut Exchange, id: u64, said: u64, sent: u64) -> io::Result<()> {
    exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {said}\r\n\r\n"))?;
    write_pieces(id, sent, |piece| exchange.send(piece))
}
