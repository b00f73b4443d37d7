//! Three small app servers on one thread of their own; the second turns sick and well again.

use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, oneshot};

/// How many there are, named app-1 and so on.
pub const COUNT: usize = 3;

/// Connections to one of them; beyond it accept waits.
const MAX_CONNECTIONS: usize = 1024;

/// How long `/slow` thinks.
const SLOW: Duration = Duration::from_secs(3);

type Body = BoxBody<Bytes, hyper::Error>;

/// Running servers; they stop when this is dropped.
pub struct AppServers {
    addresses: [SocketAddr; COUNT],
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AppServers {
    pub fn addresses(&self) -> [SocketAddr; COUNT] {
        self.addresses
    }
}

impl Drop for AppServers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ended by a panic at worst, which has been printed.
            let _ = thread.join();
        }
    }
}

/// Starts them on loopback, on ports that are free. app-2 is well for `turn`, then sick for `turn`, and so on; each change is a
/// line on standard error, the first one `turn` from now.
///
/// `/healthz` is 200 or, sick, 503; `/` names the server, sick or not; `/slow` does so after three seconds, `/headers` shows
/// the request's fields as they arrived, `/echo` sends the body back.
pub fn start(turn: Duration) -> Result<AppServers, String> {
    let failed = |error: std::io::Error| format!("the demo's app servers: {error}");
    let mut listeners = Vec::with_capacity(COUNT);
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); COUNT];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        *address = listener.local_addr().map_err(failed)?;
        listeners.push(listener);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("demo-servers".to_owned())
        .spawn(move || runtime.block_on(run(listeners, turn, stopped)))
        .map_err(failed)?;
    Ok(AppServers {
        addresses,
        stop: Some(stop),
        thread: Some(thread),
    })
}

/// Until `stopped`; the runtime then ends with all that it carries.
async fn run(listeners: Vec<TcpListener>, turn: Duration, stopped: oneshot::Receiver<()>) {
    for (index, listener) in listeners.into_iter().enumerate() {
        let listener = tokio::net::TcpListener::from_std(listener)
            .expect("the listener is nonblocking and the runtime has I/O");
        let app = Arc::new(App {
            name: format!("app-{}", index + 1),
            is_sick: AtomicBool::new(false),
        });
        if index == 1 {
            tokio::spawn(take_turns(app.clone(), turn));
        }
        tokio::spawn(serve(listener, app));
    }
    let _ = stopped.await;
}

struct App {
    name: String,
    is_sick: AtomicBool,
}

async fn take_turns(app: Arc<App>, turn: Duration) {
    loop {
        tokio::time::sleep(turn).await;
        let was_sick = app.is_sick.fetch_xor(true, Ordering::Relaxed);
        let now = if was_sick {
            "is well again, its /healthz answers 200"
        } else {
            "turns sick, its /healthz answers 503"
        };
        // A closed standard error is no reason to stop.
        let _ = writeln!(std::io::stderr(), "{} {now}", app.name);
    }
}

async fn serve(listener: tokio::net::TcpListener, app: Arc<App>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or the client left: neither is helped by trying again at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let app = app.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(app.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // How a connection ends is the other side's affair.
            let _ = connection.await;
            drop(permit);
        });
    }
}

async fn answer(app: Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(match request.uri().path() {
        "/healthz" if app.is_sick.load(Ordering::Relaxed) => {
            let mut response = text("sick\n".to_owned());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
        "/healthz" => text("well\n".to_owned()),
        "/slow" => {
            tokio::time::sleep(SLOW).await;
            text(format!("{}, after {} s\n", app.name, SLOW.as_secs()))
        }
        "/headers" => text(fields(&app.name, &request)),
        "/echo" => echo(request),
        _ => text(format!("{}\n", app.name)),
    })
}

fn text(body: String) -> Response<Body> {
    let body = Full::from(body).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn fields(name: &str, request: &Request<Incoming>) -> String {
    let mut shown = format!("{name} was sent {} {}\n", request.method(), request.uri());
    for (field, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        shown.push_str(&format!("{field}: {value}\n"));
    }
    shown
}

/// The body as it comes, without waiting for its end.
fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.boxed());
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    /// A whole answer, head and body, as text.
    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let limit = Some(Duration::from_secs(10));
        stream.set_read_timeout(limit).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(address: SocketAddr, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n");
        ask(address, &request)
    }

    #[test]
    fn each_server_names_itself_and_is_well_at_first() {
        let servers = start(Duration::from_secs(600)).unwrap();
        for (index, address) in servers.addresses().into_iter().enumerate() {
            let answer = get(address, "/");
            assert!(
                answer.ends_with(&format!("\r\n\r\napp-{}\n", index + 1)),
                "{answer}"
            );
            assert!(get(address, "/healthz").starts_with("HTTP/1.1 200 "));
            assert!(get(address, "/headers").contains("host: demo\n"));
        }
        let posted = "POST /echo HTTP/1.1\r\nHost: demo\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
        assert!(ask(servers.addresses()[0], posted).contains("hello"));
    }

    #[test]
    fn the_second_turns_sick_and_well_again_and_answers_all_the_while() {
        let servers = start(Duration::from_millis(150)).unwrap();
        let [first, second, _] = servers.addresses();
        let deadline = Instant::now() + Duration::from_secs(20);
        for expected in ["503", "200", "503"] {
            while !get(second, "/healthz").starts_with(&format!("HTTP/1.1 {expected} ")) {
                assert!(Instant::now() < deadline, "never {expected}");
                assert!(get(second, "/").contains(" 200 "));
            }
        }
        assert!(get(first, "/healthz").contains(" 200 "));
    }

    #[test]
    fn they_stop_when_dropped() {
        let servers = start(Duration::from_secs(600)).unwrap();
        let address = servers.addresses()[0];
        drop(servers);
        assert!(TcpStream::connect(address).is_err());
    }
}
