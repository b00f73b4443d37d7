//! No Host or Origin that a web page of somebody else can bring about is let in to the admin listener, however it is written.
#![no_main]

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderValue, Request, Uri};
use libfuzzer_sys::fuzz_target;
use rota::admin::access::{Via, check_reading};

/// Of an authority: without its port.
fn name_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// A name that no DNS server of somebody else answers for.
fn is_ours(authority: &str, own: IpAddr) -> bool {
    let name = name_of(authority);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback() || ip.to_canonical() == own)
}

// Lines: the target, a Host, and what follows alternates: Origins, Hosts.
fuzz_target!(|input: &str| {
    let mut lines = input.split('\n');
    let Ok(target) = lines.next().unwrap_or_default().parse::<Uri>() else {
        return;
    };
    let (mut head, ()) = Request::new(()).into_parts();
    let (mut hosts, mut origins) = (Vec::new(), Vec::new());
    for (number, line) in lines.take(6).enumerate() {
        let Ok(value) = HeaderValue::from_str(line) else {
            return;
        };
        let (name, texts) = if number % 2 == 0 {
            (HOST, &mut hosts)
        } else {
            (ORIGIN, &mut origins)
        };
        head.headers.append(name, value);
        texts.push(line);
    }
    head.uri = target;
    let own: IpAddr = [10, 0, 0, 7].into();
    let via = Via::Tcp {
        peer: ([10, 0, 0, 9], 40_000).into(),
        local: (own, 9900).into(),
    };
    if let Err(refusal) = check_reading(&via, &head) {
        return assert_eq!(refusal.status, 403);
    }
    assert!(hosts.len() == 1 && is_ours(hosts[0], own), "{hosts:?}");
    let authority = head.uri.authority().map(|authority| authority.as_str());
    assert!(
        authority.is_none_or(|authority| is_ours(authority, own)),
        "{authority:?}"
    );
    assert!(origins.len() <= 1);
    assert!(origins.iter().all(|origin| {
        origin
            .strip_prefix("http://")
            .is_some_and(|it| it.eq_ignore_ascii_case(hosts[0]))
    }));
});
