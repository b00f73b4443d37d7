//! What wrk and h2load cannot do for `benches/peers/run`: a constant rate, handshakes by many names, thousands of idle connections.
//!
//! Built by `cargo build --release --example peers-load`. Each order prints what the usage says, or what is wrong, and then ends with 1.

mod appserver;
mod certificates;
mod handshakes;
mod hold;
mod paced;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// What went wrong, for whoever reads the run's output.
type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: peers-load
  paced APP-ADDRESS                                    a line once the app server listens there; then of standard input, a line each:
    peak ADDRESS SECONDS CONNECTIONS                   the same line as:
    rate ADDRESS REQUESTS-A-SECOND SECONDS CONNECTIONS answered a second; p50, p99, p99.9, longest, p99 of its own lateness (µs); its spare time (%)
  handshakes ADDRESS AUTHORITY COUNT NAMES             a line: answered
  hold ADDRESS COUNT [AUTHORITY]                       a line once all are open; at the end of standard input another
  certificates DIRECTORY COUNT shared|each             a line: the directory";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match obey(&arguments) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("peers-load {}: {failure}", arguments.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn obey(arguments: &[String]) -> Result<String, Failure> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["paced", app] => paced::run(parsed(app)?),
        ["handshakes", address, authority, count, names] => handshakes::run(
            parsed(address)?,
            &PathBuf::from(authority),
            parsed(count)?,
            parsed(names)?,
        ),
        ["hold", address, count] => hold::plain(parsed(address)?, parsed(count)?),
        ["hold", address, count, authority] => {
            hold::tls(parsed(address)?, parsed(count)?, &PathBuf::from(authority))
        }
        ["certificates", directory, count, keys] => {
            certificates::make(&PathBuf::from(directory), parsed(count)?, parsed(keys)?)
        }
        _ => Err(USAGE.into()),
    }
}

fn parsed<T: FromStr>(word: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    word.parse()
        .map_err(|error| format!("{word:?}: {error}").into())
}

/// A request for `/`, on a connection that is kept.
fn request(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// The length of the answer at the start of `bytes`, head and body; `None` while its head is not whole.
fn answer_length(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else {
        return Ok(None);
    };
    if answer.code != Some(200) {
        return Err(format!("answered with {:?}", answer.code).into());
    }
    let length = answer
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .ok_or("an answer without Content-Length")?;
    Ok(Some(
        head + std::str::from_utf8(length.value)?.parse::<usize>()?,
    ))
}

/// Sends a request and reads its answer whole.
fn exchange(stream: &mut (impl std::io::Read + std::io::Write), host: &str) -> Result<(), Failure> {
    stream.write_all(request(host).as_bytes())?;
    stream.flush()?;
    let mut buffer = [0; 8192];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Err("closed before its answer was whole".into());
        }
        filled += read;
        if answer_length(&buffer[..filled])?.is_some_and(|length| filled >= length) {
            return Ok(());
        }
    }
}

/// Connected, with deadlines, so that a proxy that hangs hangs nobody.
fn connect(address: SocketAddr) -> Result<std::net::TcpStream, Failure> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
    let stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
