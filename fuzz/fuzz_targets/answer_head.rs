//! No bytes from a server make the reader of answer heads panic; what it accepts says once where its body ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::proxy::http1::body::Framing;
use rota::proxy::http1::head::{Found, Version, answer, field_space, find_end};
use rota_fuzz::{Lines, is_chunked, length};

fuzz_target!(|received: &[u8]| {
    let Found::Whole(end) = find_end(received, 0) else {
        return;
    };
    let head = &received[..end];
    let mut space = field_space();
    let Ok(read) = answer(head, &mut space) else {
        return;
    };

    let lines = Lines::of(head).expect("an accepted head is made of lines and fields");
    assert_eq!(lines.fields.len(), read.fields.len());
    assert!((100..600).contains(&read.status));
    assert!(lines.first.starts_with(b"HTTP/1."));
    let status = format!(" {}", read.status);
    assert_eq!(&lines.first[8..12], status.as_bytes());

    for has_no_body in [read.status < 200, read.status == 204, read.status == 304] {
        assert!(!has_no_body || read.framing_for(rota_fuzz::NOT_HEAD) == Framing::None);
    }
    assert_eq!(read.framing_for(rota_fuzz::HEAD), Framing::None);

    let (lengths, codings) = (lines.all("content-length"), lines.all("transfer-encoding"));
    assert!(lengths.len() <= 1, "one length at most");
    assert!(
        lengths.is_empty() || codings.is_empty(),
        "a length or a coding"
    );
    assert_eq!(
        read.declared_length(),
        lengths.first().and_then(|text| length(text))
    );
    match read.framing_for(rota_fuzz::NOT_HEAD) {
        Framing::None => {}
        Framing::Length(bytes) => assert_eq!(length(lengths[0]), Some(bytes)),
        Framing::Chunked => assert!(is_chunked(&codings) && read.version == Version::Http11),
        Framing::UntilClose => assert!(lengths.is_empty() && codings.is_empty()),
    }
});
