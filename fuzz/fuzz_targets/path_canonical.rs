//! The canonical form has nothing left that two readers could read differently, and no path leaves the root.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::routing::path::{canonical, without_query};

fuzz_target!(|target: &str| {
    let path = without_query(target);
    assert!(!path.contains('?'));
    let Ok(canonical) = canonical(path) else {
        return;
    };
    assert!(canonical.starts_with('/'));
    assert!(!canonical.contains("//") && !canonical.contains('\\'));
    assert!(
        !canonical
            .split('/')
            .any(|segment| segment == "." || segment == "..")
    );
});
