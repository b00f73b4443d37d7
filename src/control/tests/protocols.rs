//! Probes speak what the service speaks: TLS, verified, and HTTP/2.

use super::*;
use crate::control::probe::{Spec, probe};
use crate::routing::Protocol;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A file of its own, removed in the end.
struct CaFile(PathBuf);

impl Drop for CaFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An HTTPS server that answers 200 to its first connections, with the CA that vouches for it as `app.internal`.
async fn https_server() -> (SocketAddr, CaFile) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["app.internal".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let file = std::env::temp_dir().join(format!(
        "rota-ca-{}-{}.pem",
        std::process::id(),
        address.port()
    ));
    std::fs::write(&file, certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(settings));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    (address, CaFile(file))
}

async fn ask(world: &mut World, host_name: Option<&str>) -> Result<(), String> {
    let service = world.service("app");
    let upstream = &service.members[0].upstream;
    let spec = Spec {
        key: upstream.key().clone(),
        check: world.model.services()["app"]
            .entry()
            .active
            .clone()
            .unwrap(),
        host_name: host_name.map(Arc::from),
        protocol: service.protocol.clone(),
    };
    probe(&spec, tokio::time::Instant::now() + seconds(5)).await
}

fn text(address: SocketAddr, protocol: &str, tls: &str) -> String {
    format!(
        "[[service]]\nname = \"app\"\nservers = [\"{address}\"]\nprotocol = \"{protocol}\"\n{tls}\n\
         [service.health.active]\npath = \"/\"\n[[route]]\nhost = \"*\"\nservice = \"app\"\n"
    )
}

#[tokio::test]
async fn a_probe_over_tls_verifies_the_servers_name() {
    let (address, ca) = https_server().await;
    let ca = ca.0.display().to_string();
    let named = format!("tls = {{ ca = \"{ca}\", server_name = \"app.internal\" }}");
    let mut world = World::of(&text(address, "https", &named));
    assert_eq!(ask(&mut world, None).await, Ok(()));
    let unnamed = format!("tls = {{ ca = \"{ca}\" }}");
    let mut world = World::of(&text(address, "https", &unnamed));
    assert_eq!(ask(&mut world, Some("app.internal")).await, Ok(()));
    let evidence = ask(&mut world, Some("other.internal")).await.unwrap_err();
    assert!(evidence.starts_with("tls:"), "{evidence}");
}

#[tokio::test]
async fn tls_settings_that_cannot_be_had_leave_the_last_good_ones_in_force() {
    let (address, ca) = https_server().await;
    let with = |path: String| {
        let tls = format!("tls = {{ ca = \"{path}\", server_name = \"app.internal\" }}");
        text(address, "https", &tls)
    };
    let mut world = World::of(&with(ca.0.display().to_string()));
    world.apply(Event::File(file(&with("/nowhere/ca.pem".into()))));
    assert_eq!(ask(&mut world, None).await, Ok(()));
    let mistake = &world.mistakes()["file:service app"];
    assert!(mistake.contains("/nowhere/ca.pem") && mistake.ends_with("(last good version)"));
    let mut world = World::of(&with("/nowhere/ca.pem".into()));
    assert!(world.service("app").members.is_empty());
    assert!(world.mistakes()["file:service app"].ends_with("(ignored)"));
}

#[tokio::test]
async fn services_of_one_ca_share_its_settings_also_after_the_file_was_read_again() {
    let (address, ca) = https_server().await;
    let tls = format!("tls = {{ ca = \"{}\" }}", ca.0.display());
    let one = text(address, "https", &tls);
    let both = format!(
        "{one}[[service]]\nname = \"other\"\nservers = [\"{address}\"]\nprotocol = \"https\"\n{tls}\n"
    );
    let mut world = World::of(&both);
    let settings = |world: &mut World| {
        ["app", "other"].map(|name| match &world.service(name).protocol {
            Protocol::Https(tls) => tls.config.clone(),
            other => panic!("{other:?}"),
        })
    };
    let [before, _] = settings(&mut world);
    world.apply(Event::File(file(&both)));
    let [app, other] = settings(&mut world);
    assert!(Arc::ptr_eq(&before, &app), "the CA is as it was");
    assert!(Arc::ptr_eq(&app, &other));
    let (_, another) = https_server().await;
    std::fs::copy(&another.0, &ca.0).unwrap();
    world.apply(Event::File(file(&both)));
    let [app, other] = settings(&mut world);
    assert!(!Arc::ptr_eq(&before, &app), "the CA's file was read again");
    assert!(Arc::ptr_eq(&app, &other), "once for both");
}

#[tokio::test]
async fn a_probe_of_an_h2c_service_speaks_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/");
            let answer = http::Response::builder().status(503).body(()).unwrap();
            respond.send_response(answer, true).unwrap();
        }
    });
    let mut world = World::of(&text(address, "h2c", ""));
    assert!(matches!(world.service("app").protocol, Protocol::H2c));
    assert_eq!(ask(&mut world, None).await, Err("HTTP 503".into()));
}
