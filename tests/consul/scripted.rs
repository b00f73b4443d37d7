//! An agent that misbehaves as told: raw bytes for each question, over plain sockets.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Answers on the loopback until it is dropped.
pub struct Scripted {
    pub address: String,
    is_over: Arc<AtomicBool>,
}

impl Scripted {
    /// `answer` gets the target of each question and writes whatever it likes; the connection is closed when it returns.
    pub fn start(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, answer) = (is_over.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Relaxed) {
                    return;
                }
                let answer = answer.clone();
                std::thread::spawn(move || serve(&mut stream.unwrap(), &*answer));
            }
        });
        Scripted { address, is_over }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        let _ = TcpStream::connect(&self.address); // Wakes the listener, so that it sees its end.
    }
}

fn serve(stream: &mut TcpStream, answer: &dyn Fn(&str, &mut TcpStream)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        line.clear();
    }
    answer(first.split(' ').nth(1).unwrap_or(""), stream);
}

pub fn reply(stream: &mut TcpStream, status: u16, index: &str, body: &str) {
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\nX-Consul-Index: {index}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// A question that is never answered: until the asker goes away.
pub fn hang(stream: &mut TcpStream) {
    let _ = std::io::Read::read(stream, &mut [0]);
}
