//! A host's form is a fixed point: what was parsed parses to itself, and both readers agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::routing::host::{Host, HostBuffer, MAX_HOST_LEN};

fuzz_target!(|sent: &[u8]| {
    let mut buffer = HostBuffer::new();
    let Ok(name) = buffer.fill(sent).map(str::to_owned) else {
        return;
    };
    assert!(!name.is_empty() && name.len() <= MAX_HOST_LEN);
    assert!(
        !name
            .bytes()
            .any(|b| b.is_ascii_uppercase() || b <= b' ' || matches!(b, b'@' | b',' | b'/'))
    );
    assert_eq!(HostBuffer::new().fill(name.as_bytes()), Ok(name.as_str()));
    let text = std::str::from_utf8(sent).expect("a host is ASCII");
    assert_eq!(
        Host::parse(text).expect("both readers agree").as_str(),
        name
    );
});
