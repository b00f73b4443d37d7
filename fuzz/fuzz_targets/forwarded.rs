//! What a server gets of a request over HTTP/1 is that request and no other, with nobody's word about the client but those that count.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::proxy::http1::head::{field_space, request};
use rota::routing::Limits;
use rota_fuzz::forwarded::EDGE;

// The first line: `1`, the client is believed; then a request's head.
fuzz_target!(|input: &[u8]| {
    let [is_believed, b'\n', head @ ..] = input else {
        return;
    };
    let mut space = field_space();
    if let Ok(head) = request(head, &mut space, &Limits::default()) {
        let _ = EDGE.forward(&head, *is_believed == b'1');
    }
});
