//! Promises about single orders, kept with a real CA: taken up where they are, proven in each way, revoked, and begun elsewhere when a CA fails.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rota::certs::Certificate;
use rota::config::{self, Acme, Challenge, DomainName, Environment};
use rota::control::acme::authority::{Authority, Credentials, Kept, Reason};
use rota::control::acme::failure::{Failure, Turn};
use rota::control::acme::jose::AccountKey;
use rota::control::acme::pending::{Pending, Proof};
use rota::control::acme::request::CertificateRequest;
use rota::dial::tls;

use super::HOURS;
use super::pebble::Pebble;
use super::support::rota::free_port;

fn settings(table: &str) -> Acme {
    let text =
        format!("[node]\nstate_dir = \"state\"\n[[listener]]\naddress = \"127.0.0.1:80\"\n{table}");
    let read = config::parse(&text, Path::new("rota.toml"), &Environment::bare("lb-1"));
    read.unwrap().acme.unwrap()
}

/// At the CA of the settings whose turn it is.
async fn open(settings: &Acme, turn: Turn, credentials: Credentials) -> Result<Authority, Failure> {
    let directory = match turn {
        Turn::Primary => &settings.primary,
        Turn::Fallback => settings.fallback.as_ref().unwrap(),
    };
    let client = tls::client_config(directory.ca_file.as_deref(), None, &[b"http/1.1"]).unwrap();
    Authority::open(settings, directory, client, credentials).await
}

async fn open_new(settings: &Acme) -> Authority {
    let key = Credentials::New(AccountKey::generate());
    open(settings, Turn::Primary, key).await.unwrap()
}

/// What a load balancer does that has nothing but what was kept.
async fn open_again(settings: &Acme, authority: &Authority) -> Authority {
    let kept = Kept::from_text(&authority.kept().to_text()).unwrap();
    open(settings, Turn::Primary, Credentials::Kept(kept))
        .await
        .unwrap()
}

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

/// Answers http-01 for all tokens of one account, for ever.
struct Answers {
    port: u16,
    listener: TcpListener,
}

impl Answers {
    fn new() -> Answers {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        Answers { port, listener }
    }

    fn begin(self, thumbprint: &str) {
        let thumbprint = thumbprint.to_owned();
        thread::spawn(move || {
            for stream in self.listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines();
                let line = lines.next().and_then(Result::ok).unwrap_or_default();
                let _ = lines
                    .by_ref()
                    .take_while(|l| l.as_ref().is_ok_and(|l| !l.is_empty()))
                    .count();
                let path = line.split(' ').nth(1).unwrap_or_default();
                let token = path.rsplit('/').next().unwrap_or_default();
                let body = format!("{token}.{thumbprint}");
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
            }
        });
    }
}

async fn shown(pending: &mut Pending, challenge: Challenge) -> Proof {
    pending.proof(challenge).await.unwrap().unwrap()
}

async fn issue(authority: &Authority, settings: &Acme, name: &DomainName) -> Certificate {
    let mut pending = authority.begin(name, None).await.unwrap();
    let proof = shown(&mut pending, Challenge::Http01).await;
    pending.prove(&proof).await.unwrap();
    let request = CertificateRequest::generate(name, settings.key_type)
        .await
        .unwrap();
    let chain = pending.finalize(&request.der).await.unwrap();
    usable(name, &chain, &request)
}

fn usable(name: &DomainName, chain: &str, request: &CertificateRequest) -> Certificate {
    let nowhere = Path::new("order");
    let read = Certificate::from_pem(chain.as_bytes(), &request.key_pem, nowhere, nowhere);
    let certificate = read.unwrap();
    assert!(certificate.covers(name.as_str()));
    certificate
}

#[tokio::test]
async fn an_order_is_taken_up_by_its_url_wherever_it_was_left() {
    let answers = Answers::new();
    let pebble = Pebble::start(answers.port, HOURS);
    let settings = settings(&pebble.table());
    let first = open_new(&settings).await;
    answers.begin(first.thumbprint());
    let shop = name("shop.test");
    let request = CertificateRequest::generate(&shop, settings.key_type)
        .await
        .unwrap();
    let url = first.begin(&shop, None).await.unwrap().url().to_owned();

    // Left before the proof.
    let second = open_again(&settings, &first).await;
    assert_eq!(second.thumbprint(), first.thumbprint());
    let mut pending = second.resume(&url).await.unwrap().unwrap();
    let proof = shown(&mut pending, Challenge::Http01).await;
    assert_eq!(proof.name, "shop.test");
    pending.prove(&proof).await.unwrap();

    // Left before it was finalized.
    let mut pending = first.resume(&url).await.unwrap().unwrap();
    assert!(pending.proof(Challenge::Http01).await.unwrap().is_none());
    let again = CertificateRequest::again(&shop, &request.key_pem)
        .await
        .unwrap();
    let chain = pending.finalize(&again.der).await.unwrap();
    usable(&shop, &chain, &request);

    // Left before its certificate was kept.
    let mut pending = second.resume(&url).await.unwrap().unwrap();
    assert!(pending.proof(Challenge::Http01).await.unwrap().is_none());
    assert_eq!(pending.finalize(&again.der).await.unwrap(), chain);

    // Of nobody, and of another account.
    assert!(first.resume(&format!("{url}x")).await.unwrap().is_none());
    let other = open_new(&settings).await;
    assert!(other.resume(&url).await.is_ok_and(|found| found.is_none()));
}

#[tokio::test]
async fn an_order_whose_proof_nobody_shows_has_failed_for_whoever_takes_it_up() {
    let pebble = Pebble::start(free_port(), HOURS);
    let settings = settings(&pebble.table());
    let authority = open_new(&settings).await;
    let mut pending = authority.begin(&name("shop.test"), None).await.unwrap();
    let proof = shown(&mut pending, Challenge::Http01).await;
    let refused = pending.prove(&proof).await.unwrap_err();
    assert!(matches!(refused, Failure::Refused(_)), "{refused:?}");
    assert!(refused.text().contains("connection"), "{refused:?}");
    let mut again = authority.resume(pending.url()).await.unwrap().unwrap();
    assert_eq!(again.proof(Challenge::Http01).await.err(), Some(refused));
}

#[tokio::test]
async fn tls_alpn_01_is_proven_by_the_digest_that_the_order_gives() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let words = serde_json::json!({ "tlsPort": port });
    let pebble = Pebble::start_with(free_port(), HOURS, words);
    let settings = settings(&pebble.table());
    let authority = open_new(&settings).await;
    let shop = name("shop.test");
    let mut pending = authority.begin(&shop, None).await.unwrap();
    let proof = shown(&mut pending, Challenge::TlsAlpn01).await;
    let config = alpn_server(&proof);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
            while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
        }
    });
    pending.prove(&proof).await.unwrap();
    let request = CertificateRequest::generate(&shop, settings.key_type)
        .await
        .unwrap();
    usable(
        &shop,
        &pending.finalize(&request.der).await.unwrap(),
        &request,
    );
}

fn alpn_server(proof: &Proof) -> Arc<rustls::ServerConfig> {
    let mut params = rcgen::CertificateParams::new([proof.name.clone()]).unwrap();
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&proof.digest)];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key.into()).unwrap();
    // Not checked as one's own certificates are: rustls does not know the extension, which is critical.
    let shown = rustls::sign::CertifiedKey::new(vec![certificate], key);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn a_revoked_certificate_is_revoked_and_may_be_again() {
    let answers = Answers::new();
    let pebble = Pebble::start(answers.port, HOURS);
    let settings = settings(&pebble.table());
    let authority = open_new(&settings).await;
    answers.begin(authority.thumbprint());
    let certificate = issue(&authority, &settings, &name("shop.test")).await;
    let leaf = &certificate.served().cert[0];
    let (_, read) = x509_parser::parse_x509_certificate(leaf).unwrap();
    let serial = read.raw_serial_as_string().replace(':', "");
    assert_eq!(pebble.status_of(&serial), "Valid");
    for _ in 0..2 {
        authority.revoke(leaf, Reason::Superseded).await.unwrap();
    }
    assert_eq!(pebble.status_of(&serial), "Revoked");
}

#[tokio::test]
async fn when_the_first_ca_is_dead_the_second_issues_under_the_same_key() {
    let answers = Answers::new();
    let dead = Pebble::prepare(answers.port, HOURS);
    let pebble = Pebble::start(answers.port, HOURS);
    let fallback = pebble.table().replace("[acme]", "[acme.fallback]");
    let fallback = fallback.replace("preflight = \"off\"\n", "");
    let settings = settings(&format!("{}{fallback}", dead.table()));
    let key = AccountKey::generate();
    answers.begin(&key.thumbprint());
    let credentials = || Credentials::New(AccountKey::from_pkcs8(key.pkcs8().clone()).unwrap());

    let mut of_authorities = 0;
    let authority = loop {
        let turn = Turn::after(of_authorities);
        match open(&settings, turn, credentials()).await {
            Ok(authority) => break authority,
            Err(failure) => of_authorities = failure.of_authorities(of_authorities),
        }
        assert!(of_authorities < 10);
    };
    assert_eq!(of_authorities, 3);
    assert_eq!(authority.directory(), pebble.directory());
    assert_eq!(authority.thumbprint(), key.thumbprint());
    issue(&authority, &settings, &name("shop.test")).await;
}

#[tokio::test]
async fn a_key_that_the_ca_knows_gives_the_account_that_it_has() {
    let pebble = Pebble::start(free_port(), HOURS);
    let table = format!("{}contact = [\"mailto:ops@example.com\"]\n", pebble.table());
    let settings = settings(&table);
    let first = open_new(&settings).await;
    let key = Credentials::New(first.kept().key().unwrap());
    let again = open(&settings, Turn::Primary, key).await.unwrap();
    assert_eq!(*again.kept().to_text(), *first.kept().to_text());
}
