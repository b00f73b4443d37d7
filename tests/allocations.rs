//! What a request allocates in the steady state of HTTP/1: the data plane runs inside this process, whose allocator counts.
#![allow(
    clippy::unwrap_used,
    reason = "this is a test: what cannot be unwrapped has failed"
)]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rota::app::run::{Launch, run};
use rota::app::signals::Signals;
use rota::certs::CertStore;
use rota::config::Environment;
use rustls_pki_types::ServerName;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "support/authority.rs"]
#[allow(
    dead_code,
    reason = "shared with the other rings, which need more of it"
)]
mod authority;

use authority::Authority;

/// As `support` has it, of which the authority is all that is needed here.
pub struct Tls {
    pub config: Arc<rustls::ClientConfig>,
    pub name: String,
}

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// One in `OTHERS` requests may see an allocation that is not its own: the control plane's timers, now and then.
const OTHERS: usize = 100;
const REQUESTS: usize = 2000;
/// rustls's own, of a request over TLS 1.3 and its answer in one record each: README says this figure.
const OVER_TLS: usize = 2;
const LARGE: usize = 1 << 20;
const WAIT: Duration = Duration::from_secs(60);

/// How the client's process learns where to go, and whom to trust.
const CONDUCTOR: &str = "ROTA_ALLOCATIONS_CONDUCTOR";
const SERVER: &str = "ROTA_ALLOCATIONS_SERVER";
const TRUSTED: &str = "ROTA_ALLOCATIONS_TRUSTED";

const NAME: &str = "a.test";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: test\r\n\r\n";
const BROWSERS_GET: &[u8] = b"GET /news/2026?page=2 HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive\r\n\
    Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nReferer: https://a.test/news\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.5\r\nCookie: session=0123456789abcdef; seen=1\r\n\
    Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n\r\n";
const CHUNKED_REQUEST: &[u8] =
    b"POST /chunked HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
const BODY_END: &[u8] = b"+++++";

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody";
const CHUNKED_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n\
    4\r\nfull\r\n4\r\nbody\r\n0\r\n\r\n";

/// One exchange that is repeated, and the bytes that close its answer.
struct Case {
    what: &'static str,
    request: Vec<u8>,
    end: &'static [u8],
    requests: usize,
}

impl Case {
    fn new(what: &'static str, request: &[u8]) -> Case {
        Case {
            what,
            request: request.to_vec(),
            end: b"body",
            requests: REQUESTS,
        }
    }

    fn all() -> Vec<Case> {
        let get = |path| format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n").into_bytes();
        vec![
            Case::new("GET", GET),
            Case::new("GET with a browser's fields", BROWSERS_GET),
            Case::new("POST of 5 B", &post(5)),
            Case::new("POST of 20 KB", &post(20_000)),
            Case::new("request in chunks", CHUNKED_REQUEST),
            Case {
                end: b"\r\n0\r\n\r\n",
                ..Case::new("answer in chunks", &get("/chunked"))
            },
            Case {
                requests: OTHERS,
                ..Case::new("answer of 1 MiB", &get("/large"))
            },
        ]
    }
}

/// A body of `length` bytes, which ends as [`end_of`] has it: nothing but its last bytes is a `+`.
fn post(length: usize) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {length}\r\n\r\n");
    let mut request = head.into_bytes();
    request.resize(request.len() + length - BODY_END.len(), b'x');
    request.extend_from_slice(BODY_END);
    request
}

/// How a request ends that begins like this.
fn end_of(request: &[u8]) -> &'static [u8] {
    if request.starts_with(b"POST /chunked") {
        b"\r\n0\r\n\r\n"
    } else if request.starts_with(b"POST") {
        BODY_END
    } else {
        b"\r\n\r\n"
    }
}

/// An app server that allocates nothing once a connection is open.
fn app_server() -> SocketAddr {
    serve(|mut stream| {
        let large = [vec![b'x'; LARGE - 4], b"body".to_vec()].concat();
        let large_head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
        let mut buffer = vec![0; 1 << 16];
        while let Some(request) = read_until(&mut stream, &mut buffer, end_of) {
            if request.starts_with(b"GET /large") {
                stream.write_all(large_head.as_bytes()).unwrap();
                stream.write_all(&large).unwrap();
            } else if request.starts_with(b"GET /chunked") {
                stream.write_all(CHUNKED_ANSWER).unwrap();
            } else {
                stream.write_all(ANSWER).unwrap();
            }
        }
    })
}

/// rustls and nothing else: what a request over TLS costs at least.
fn bare_tls_server(authority: &Authority) -> SocketAddr {
    let config = authority.leaf(&[NAME]).server();
    serve(move |stream| {
        let session = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        let mut buffer = vec![0; 1 << 16];
        while read_until(&mut stream, &mut buffer, end_of).is_some() {
            stream.write_all(ANSWER).unwrap();
        }
    })
}

/// A thread a connection.
fn serve(answer_all: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let answer_all = Arc::new(answer_all);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer_all = Arc::clone(&answer_all);
            std::thread::spawn(move || answer_all(stream.unwrap()));
        }
    });
    address
}

/// What came up to its end, which `end_of` knows by its beginning. None: the other side closed.
fn read_until<'a>(
    stream: &mut impl Read,
    buffer: &'a mut [u8],
    end_of: impl Fn(&[u8]) -> &'static [u8],
) -> Option<&'a [u8]> {
    let mut filled = 0;
    while filled == 0 || !buffer[..filled].ends_with(end_of(&buffer[..filled])) {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) | Err(_) => return None,
            Ok(count) => filled += count,
        }
    }
    Some(&buffer[..filled])
}

/// rota with one worker in threads of this process; they end with it.
struct Rota {
    plain: SocketAddr,
    tls: SocketAddr,
    authority: Authority,
}

static ROTA: LazyLock<Rota> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("rota-allocations-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let rota = Rota::start(app_server(), &directory);
    // Everything in it was read, and the admin listener bound, before its threads began.
    std::fs::remove_dir_all(&directory).unwrap();
    rota
});

impl Rota {
    fn start(app: SocketAddr, directory: &Path) -> Rota {
        let authority = Authority::new();
        authority.leaf(&[NAME]).write(directory, "a");
        let held = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let [plain, tls] = held.each_ref().map(|held| held.local_addr().unwrap());
        let config = rota::config::load(
            &config_file(directory, plain, tls, app),
            &Environment::of_this_process(),
        )
        .unwrap();
        drop(held);
        let opened = rota::app::sockets::open_all(&config).unwrap();
        let certificates = rota::certs::load(&config.listeners, &CertStore::default()).unwrap();
        std::thread::spawn(move || {
            run(Launch {
                signals: Signals::watch().unwrap(),
                config,
                opened,
                origin: None,
                certificates,
                keyring: None,
                opening: None,
            })
        });
        Rota {
            plain,
            tls,
            authority,
        }
    }
}

/// Without an access log, which allocates once a batch of lines (16 KiB).
fn config_file(directory: &Path, plain: SocketAddr, tls: SocketAddr, app: SocketAddr) -> PathBuf {
    let file = directory.join("rota.toml");
    let admin = directory.join("admin.sock");
    let admin = admin.display();
    let text = format!(
        "[node]\nworkers = 1\n[admin]\naddress = \"unix:{admin}\"\n\
         [[listener]]\naddress = \"{plain}\"\n\
         [[listener]]\nname = \"tls\"\nprotocol = \"https\"\naddress = \"{tls}\"\n\
         certificates = [{{ certificate = \"a.pem\", key = \"a.key\" }}]\n\
         [[service]]\nname = \"app\"\nservers = [\"{app}\"]\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn connect(address: SocketAddr) -> TcpStream {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(WAIT)).unwrap();
                return stream;
            }
            Err(error) if begin.elapsed() > WAIT => panic!("{address}: {error}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

fn exchange(client: &mut (impl Read + Write), case: &Case, buffer: &mut [u8]) {
    for _ in 0..case.requests {
        client.write_all(&case.request).unwrap();
        let answer = read_until(client, buffer, |_| case.end);
        assert!(answer.is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200 ")));
    }
}

/// What the quietest of three rounds allocates, one more having gone before.
fn allocations(mut round: impl FnMut()) -> usize {
    round();
    let rounds = (0..3).map(|_| {
        let region = Region::new(ALLOCATOR);
        round();
        let change = region.change();
        change.allocations + change.reallocations
    });
    rounds.min().unwrap()
}

/// A client in a process of its own, so that its rustls is not counted: a round of it for each byte it is sent.
struct Elsewhere {
    conductor: TcpStream,
    _process: Ended,
}

/// Ended when dropped.
struct Ended(Child);

impl Elsewhere {
    fn start(server: SocketAddr, authority: &Authority) -> Elsewhere {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "the_client_of_another_process"])
            .env(CONDUCTOR, listener.local_addr().unwrap().to_string())
            .env(SERVER, server.to_string())
            .env(TRUSTED, &authority.pem)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut process = Ended(process);
        let conductor = accept(&listener, &mut process.0);
        conductor.set_read_timeout(Some(WAIT)).unwrap();
        Elsewhere {
            conductor,
            _process: process,
        }
    }

    fn round(&mut self) {
        self.conductor.write_all(b"r").unwrap();
        self.conductor.read_exact(&mut [0]).unwrap();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The connection of `process`, which has to live until it comes.
fn accept(listener: &TcpListener, process: &mut Child) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let begin = Instant::now();
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            return stream;
        }
        assert_eq!(process.try_wait().unwrap(), None, "the client ended");
        assert!(begin.elapsed() < WAIT, "the client does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "started by the test over TLS, as its client"]
fn the_client_of_another_process() {
    let Ok(conductor) = std::env::var(CONDUCTOR) else {
        return;
    };
    let mut conductor = TcpStream::connect(conductor).unwrap();
    let server = std::env::var(SERVER).unwrap().parse().unwrap();
    let pem = std::env::var(TRUSTED).unwrap();
    let config = authority::trusting(&pem, &[&rustls::version::TLS13]);
    let name = ServerName::try_from(NAME).unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut client = rustls::StreamOwned::new(session, connect(server));
    let mut buffer = vec![0; 1 << 16];
    while conductor.read_exact(&mut [0]).is_ok() {
        exchange(&mut client, &Case::new("GET", GET), &mut buffer);
        conductor.write_all(b"d").unwrap();
    }
}

#[test]
fn a_request_in_the_steady_state_of_plain_http1_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = vec![0; 2 * LARGE];
    let mut faults = Vec::new();
    for case in Case::all() {
        let mut client = connect(ROTA.plain);
        let fewest = allocations(|| exchange(&mut client, &case, &mut buffer));
        let Case { what, requests, .. } = case;
        println!("figure: {what}: {fewest} allocations in {requests} requests");
        if fewest > requests / OTHERS {
            faults.push(format!(
                "{what}: {fewest} allocations in {requests} requests"
            ));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_request_in_the_steady_state_of_tls_allocates_what_rustls_does_and_nothing_more() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bare = bare_tls_server(&ROTA.authority);
    let [bare, rota] = [bare, ROTA.tls].map(|server| {
        let mut client = Elsewhere::start(server, &ROTA.authority);
        allocations(|| client.round())
    });
    println!("figure: TLS 1.3: {rota} allocations in {REQUESTS} requests, rustls alone {bare}");
    let told = format!("{rota} allocations in {REQUESTS} requests, rustls alone {bare}");
    assert!(rota <= bare + REQUESTS / OTHERS, "{told}");
    assert!(rota <= OVER_TLS * REQUESTS + REQUESTS / OTHERS, "{told}");
}
