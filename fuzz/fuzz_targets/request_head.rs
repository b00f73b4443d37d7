//! No bytes make the reader of request heads panic; what it accepts says once, to any reader, where its body ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::proxy::http1::body::Framing;
use rota::proxy::http1::head::{Found, Version, field_space, find_end, request};
use rota::routing::Limits;
use rota_fuzz::{Lines, is_chunked, is_token, length};

fuzz_target!(|received: &[u8]| {
    let Found::Whole(end) = find_end(received, 0) else {
        return;
    };
    let head = &received[..end];
    // However the bytes arrive, the same end is found.
    for seen in [1, end / 2, end - 1] {
        assert_eq!(find_end(&received[..seen], 0), Found::Part);
        assert_eq!(find_end(received, seen), Found::Whole(end));
    }
    let mut space = field_space();
    let limits = Limits::default();
    let Ok(read) = request(head, &mut space, &limits) else {
        return;
    };

    let lines = Lines::of(head).expect("an accepted head is made of lines and fields");
    assert_eq!(lines.fields.len(), read.fields.len());
    assert!(read.fields.len() <= limits.head_fields);
    for ((name, value), field) in lines.fields.iter().zip(read.fields) {
        assert!(name.eq_ignore_ascii_case(field.name) && *value == field.value.trim_ascii());
    }

    let first: Vec<&[u8]> = lines.first.split(|&b| b == b' ').collect();
    assert_eq!(first.len(), 3, "method, target and version");
    assert!(is_token(first[0]) && first[0] == read.method.as_bytes());
    assert_eq!(first[1], read.target.as_bytes());
    assert!(
        read.target.bytes().all(|b| b.is_ascii_graphic())
            && read.target.len() <= limits.target_bytes
    );
    assert!(read.path_and_query == "*" || read.path_and_query.starts_with('/'));

    let hosts = lines.all("host");
    match read.version {
        Version::Http11 => assert!(hosts.len() == 1 && !read.host.is_empty()),
        Version::Http10 => assert!(hosts.len() <= 1),
        Version::H2 => panic!("no head of HTTP/1"),
    }

    let (lengths, codings) = (lines.all("content-length"), lines.all("transfer-encoding"));
    match read.framing {
        Framing::None => assert!(
            codings.is_empty()
                && (lengths.is_empty() || lengths.len() == 1 && length(lengths[0]) == Some(0))
        ),
        Framing::Length(bytes) => {
            assert!(codings.is_empty() && lengths.len() == 1 && bytes > 0);
            assert_eq!(length(lengths[0]), Some(bytes));
        }
        Framing::Chunked => {
            assert!(lengths.is_empty() && is_chunked(&codings) && read.version == Version::Http11)
        }
        Framing::UntilClose => panic!("a request does not end with its connection"),
    }
    assert!(
        !read.upgrade || read.framing == Framing::None,
        "an upgrade has no body"
    );
});
