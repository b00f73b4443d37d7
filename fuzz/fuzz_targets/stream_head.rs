//! What a server gets over HTTP/1 of a request that came over HTTP/2 is that request and no other: nothing is smuggled on the way down.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::proxy::http1::body::Framing;
use rota::proxy::http2::head::{check_limits, joined_cookies, request};
use rota::routing::Limits;
use rota_fuzz::forwarded::EDGE;
use rota_fuzz::{length, stream};

// The first line: two digits, the client is believed, and the stream ends with its head; then `name: value` a line.
fuzz_target!(|input: &[u8]| {
    let [is_believed, is_end, b'\n', lines @ ..] = input else {
        return;
    };
    let is_end = *is_end == b'1';
    let Some(parts) = stream::request(lines, is_end) else {
        return;
    };
    let Ok(cookies) = joined_cookies(&parts) else {
        return;
    };
    let mut list = Vec::new();
    let Ok(head) = request(&parts, is_end, &cookies, &mut list) else {
        return;
    };
    let declared = parts.headers.get_all("content-length").iter();
    let declared: Vec<_> = declared.map(|value| length(value.as_bytes())).collect();
    match head.framing {
        Framing::None => {
            assert!(is_end && declared.iter().all(|it| *it == Some(0)) && declared.len() <= 1)
        }
        Framing::Length(bytes) => assert!(!is_end && declared == [Some(bytes)]),
        Framing::Chunked => assert!(!is_end && declared.is_empty()),
        Framing::UntilClose => panic!("a stream has an end of its own"),
    }
    assert_eq!(parts.method.as_str(), head.method);
    let of_hop = ["connection", "transfer-encoding", "upgrade"];
    assert!(
        !parts
            .headers
            .keys()
            .any(|name| of_hop.contains(&name.as_str())),
        "a connection field"
    );
    assert!(!cookies.contains(&b'\n'));
    if check_limits(&head, &Limits::default()).is_ok() {
        let _ = EDGE.forward(&head, *is_believed == b'1');
    }
});
