//! The admin API over real sockets: what it answers, and to whom.

use super::*;
use crate::admin::fleet::FleetView;
use crate::admin::listener::{Address, bind};
use crate::admin::orders::{Answered, Carried, Control};
use crate::admin::{CertificateRow, Token};
use crate::drain::{self, Drain};
use crate::routing::Snapshot;
use crate::routing::operator::{CertificateOrder, Matter, Order, OrderError, ShiftOrder, Target};
use crate::routing::staged::{Staging, StagingError};
use crate::routing::swap::{self, Publisher};
use crate::telemetry::Vitals;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const SECRET: &str = "0123456789abcdef";

/// Keeps what it was ordered; knows the service `shop` alone.
#[derive(Default)]
struct Ordered(Mutex<Vec<Order>>);

impl Control for Ordered {
    fn order(&self, order: Order) -> Carried {
        let is_known = match &order {
            Order::Drain { target, .. } | Order::Undrain { target, .. } => match target {
                Target::Service(service) | Target::Server(service, _) => service.as_str() == "shop",
                Target::Node => true,
            },
            Order::Accept { matter, .. } => *matter == Matter::Documents,
        };
        self.0.lock().unwrap().push(order);
        Box::pin(async move {
            match is_known {
                true => Ok("done".to_owned()),
                false => Err(OrderError::Unknown("no such service".into())),
            }
        })
    }

    fn shift(&self, order: ShiftOrder) -> Carried {
        let done = shift::described(&order);
        Box::pin(async move { Ok(done) })
    }

    fn stage(&self, _: Staging) -> Answered {
        Box::pin(async { Err(StagingError::NoConsul("there is no [consul]".into())) })
    }

    fn order_certificate(&self, order: CertificateOrder) -> Carried {
        Box::pin(async move {
            match order {
                CertificateOrder::Renew(name) => Ok(format!("{name} is being ordered")),
                CertificateOrder::RenewAll => Ok("2 are ordered".to_owned()),
                CertificateOrder::Revoke(name) => Err(OrderError::Unknown(name)),
                CertificateOrder::Rekey => Err(OrderError::Failed("no key file".into())),
            }
        })
    }
}

struct World {
    publisher: Publisher<Snapshot>,
    drain: Drain,
    ordered: Arc<Ordered>,
    state: Arc<State>,
    token_path: PathBuf,
    _token_dir: Scratch,
}

/// A directory of its own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("rota-admin-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn world(name: &str) -> World {
    let scratch = Scratch::new(name);
    let token_path = scratch.0.join("token");
    std::fs::write(&token_path, SECRET).unwrap();
    std::fs::set_permissions(&token_path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (publisher, table) = swap::channel(Snapshot::default());
    let (drain, gate) = drain::channel();
    let ordered = Arc::new(Ordered::default());
    let row = CertificateRow {
        domain: "shop.example.com".into(),
        listener: "web".into(),
        source: "file:a.pem".into(),
        issuer: "CN=a ca".into(),
        not_after: 2_000_000_000,
        renewal: None,
        error: None,
    };
    let state = Arc::new(State {
        node: "<lb-1>".into(),
        version: "0.1.0",
        table,
        certificates: Arc::new(move || vec![row.clone()]),
        fleet: Arc::new(FleetView::default),
        vitals: Arc::new(Vitals::new(1)),
        gate,
        control: ordered.clone(),
        token: Some(Token::in_file(&token_path)),
        large_bodies: tokio::sync::Semaphore::new(1),
    });
    World {
        publisher,
        drain,
        ordered,
        state,
        token_path,
        _token_dir: scratch,
    }
}

fn over_tcp(world: &World) -> SocketAddr {
    let listener = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let AdminListener::Tcp(tcp) = &listener else {
        panic!("it is TCP")
    };
    let address = tcp.local_addr().unwrap();
    start(world.state.clone(), listener).unwrap();
    address
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: String,
) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

async fn send(to: SocketAddr, request: String) -> (u16, String) {
    exchange(TcpStream::connect(to).await.unwrap(), request).await
}

async fn get(to: SocketAddr, path: &str) -> (u16, String) {
    send(
        to,
        format!("GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n"),
    )
    .await
}

fn post(path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{fields}\r\n{body}"
    )
}

const JSON: &str = "content-type: application/json\r\n";
const DRAIN_SHOP: &str = r#"{"target":"shop","reach":"here","by":"ops","for":"10m"}"#;

fn bearer(token: &str) -> String {
    format!("{JSON}authorization: Bearer {token}\r\n")
}

#[tokio::test]
async fn readiness_waits_for_the_first_table_and_ends_with_the_drain() {
    let mut world = world("ready");
    let to = over_tcp(&world);
    assert_eq!(get(to, "/healthz").await.0, 200);
    let (status, words) = get(to, "/readyz").await;
    assert_eq!((status, &*words), (503, "no table was published yet\n"));
    world.publisher.publish(why::tests::table());
    assert_eq!(get(to, "/readyz").await.0, 200);
    world.drain.advance(Phase::Announced);
    assert_eq!(get(to, "/readyz").await, (503, "it is draining\n".into()));
    assert_eq!(get(to, "/healthz").await.0, 200);
}

#[tokio::test]
async fn everything_that_can_be_read_is_answered() {
    let mut world = world("read");
    world.publisher.publish(why::tests::table());
    let to = over_tcp(&world);
    for (path, part) in [
        ("/", "&lt;lb-1&gt;"),
        (
            "/metrics",
            "rota_certificate_not_after_seconds{domain=\"shop.example.com\"} 2000000000",
        ),
        ("/v1/status", r#""generation":1"#),
        ("/v1/services", r#""server":"10.0.0.7:81""#),
        ("/v1/services/shop", r#""up":1,"total":2"#),
        ("/v1/routes", r#""host":"*.example.com""#),
        ("/v1/certificates", r#""not_after":2000000000"#),
        ("/v1/why?q=shop%2F10.0.0.7%3a81", r#""kind":"servers""#),
        (
            "/v1/why?q=https://shop.example.com/news",
            r#""kind":"route""#,
        ),
    ] {
        let (status, body) = get(to, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
    }
    assert!(!get(to, "/").await.1.contains("<b>full"));
    for (path, status) in [
        ("/v1/services/none", 404),
        ("/nothing", 404),
        ("/v1/why", 400),
        ("/v1/why?q=%zz", 400),
        ("/v1/why?q=%ff", 400),
        ("/v1/drain", 405),
    ] {
        assert_eq!(get(to, path).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_rebound_name_and_a_foreign_origin_are_turned_away() {
    let world = world("host");
    let to = over_tcp(&world);
    for (fields, status) in [
        ("host: localhost\r\n", 200),
        ("host: rebound.example\r\n", 403),
        ("host: localhost\r\norigin: http://evil.example\r\n", 403),
        ("host: localhost\r\norigin: null\r\n", 403),
        ("host: localhost\r\norigin: http://localhost\r\n", 200),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\n{fields}connection: close\r\n\r\n");
        assert_eq!(send(to, request).await.0, status, "{fields}");
    }
}

#[tokio::test]
async fn nothing_changes_over_tcp_without_the_token() {
    let world = world("token");
    let to = over_tcp(&world);
    let wrong = bearer("0123456789abcdeF");
    let right = bearer(SECRET);
    let untyped = format!("authorization: Bearer {SECRET}\r\n");
    let foreign = format!("{right}origin: http://evil.example\r\n");
    for (fields, status) in [
        (JSON, 401),
        (&*wrong, 401),
        (&*untyped, 415),
        (&*foreign, 403),
    ] {
        let (answered, body) = send(to, post("/v1/drain", fields, DRAIN_SHOP)).await;
        assert_eq!(answered, status, "{fields}: {body}");
    }
    assert!(world.ordered.0.lock().unwrap().is_empty());
    let done = send(to, post("/v1/drain", &right, DRAIN_SHOP)).await;
    assert_eq!(done, (200, "{\"message\":\"done\"}\n".into()));
    assert_eq!(world.ordered.0.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_that_others_can_read_changes_nothing() {
    let world = world("open-token");
    let to = over_tcp(&world);
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&world.token_path, mode).unwrap();
    let (status, body) = send(to, post("/v1/drain", &bearer(SECRET), DRAIN_SHOP)).await;
    assert_eq!(status, 403);
    let path = world.token_path.display().to_string();
    assert!(!body.contains(&path), "a stranger learns no path: {body}");
    assert!(world.ordered.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_shift_takes_the_token_and_is_checked_before_it_is_given() {
    let world = world("shift");
    let to = over_tcp(&world);
    let body = r#"{"service": "shop", "groups": {"green": 100}, "by": "ops"}"#;
    let (status, _) = send(to, post("/v1/shift", JSON, body)).await;
    assert_eq!(status, 401);
    let (status, words) = send(to, post("/v1/shift", &bearer(SECRET), body)).await;
    assert_eq!(status, 200, "{words}");
    assert!(words.contains("shift shop to green=100 by ops"), "{words}");
    let wrong = body.replace("100", "-1");
    let (status, _) = send(to, post("/v1/shift", &bearer(SECRET), &wrong)).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_plan_needs_no_token_and_what_shows_or_changes_documents_does() {
    let world = world("staging");
    let to = over_tcp(&world);
    let documents = r#"{"kinds": ["routes"], "documents": {"routes/a": ""}}"#;
    let (status, words) = send(to, post("/v1/plan", JSON, documents)).await;
    assert_eq!(status, 503, "{words}");
    assert!(words.contains("there is no [consul]"), "{words}");
    let apply = format!(r#"{{"staged": {documents}, "by": "ops"}}"#);
    for (path, body) in [
        ("/v1/apply", &*apply),
        ("/v1/diff", r#"{"from": 1}"#),
        ("/v1/rollback", r#"{"to": 1, "by": "ops"}"#),
    ] {
        assert_eq!(send(to, post(path, JSON, body)).await.0, 401, "{path}");
        assert_eq!(send(to, post(path, &bearer(SECRET), body)).await.0, 503);
        assert_eq!(send(to, post(path, &bearer(SECRET), "{")).await.0, 400);
        assert_eq!(get(to, path).await.0, 405, "{path}");
    }
    let nobody = apply.replace("ops", " ");
    assert_eq!(
        send(to, post("/v1/apply", &bearer(SECRET), &nobody))
            .await
            .0,
        400
    );
    let long = documents.replace(
        r#""""#,
        &format!("{:?}", "x".repeat(staging::MAX_STAGED_BYTES)),
    );
    assert_eq!(send(to, post("/v1/plan", JSON, &long)).await.0, 413);
}

#[tokio::test]
async fn orders_with_mistakes_are_refused_with_words() {
    let world = world("mistakes");
    let to = over_tcp(&world);
    let long = format!(r#"{{"target":"{}"}}"#, "x".repeat(MAX_BODY_BYTES));
    for (body, status) in [
        ("{", 400),
        (r#"{"target":"shop","reach":"here"}"#, 400),
        (
            r#"{"target":"shop","reach":"here","by":"a","force":true}"#,
            400,
        ),
        (r#"{"target":"a b","reach":"here","by":"a"}"#, 400),
        (r#"{"target":"blog","reach":"pod","by":"a"}"#, 404),
        (&*long, 413),
    ] {
        let (answered, words) = send(to, post("/v1/drain", &bearer(SECRET), body)).await;
        assert_eq!(answered, status, "{words}");
        assert!(words.contains("\"error\":"), "{words}");
    }
}

#[tokio::test]
async fn the_unix_socket_needs_no_token() {
    let world = world("unix");
    let path = world.token_path.with_file_name("admin.sock");
    let listener = bind(&Address::Unix(path.clone())).unwrap();
    start(world.state.clone(), listener).unwrap();
    let stream = UnixStream::connect(&path).await.unwrap();
    let body = r#"{"target":"@self","reach":"here","by":"ops"}"#;
    let (status, words) = exchange(stream, post("/v1/undrain", JSON, body)).await;
    assert_eq!(status, 200, "{words}");
    let ordered = world.ordered.0.lock().unwrap();
    assert!(matches!(
        &ordered[..],
        [Order::Undrain {
            target: Target::Node,
            ..
        }]
    ));
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait_and_are_served_later() {
    let world = world("places");
    let to = over_tcp(&world);
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(to).await.unwrap());
    }
    let late = tokio::spawn(async move { get(to, "/healthz").await.0 });
    drop(idle);
    let status = tokio::time::timeout(Duration::from_secs(10), late).await;
    assert_eq!(status.unwrap().unwrap(), 200);
}
