//! No answer of Consul's makes its reader panic; what is read out of it keeps every limit and does not depend on order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota::control::consul::parse::{
    self, CHECKS_PER_INSTANCE, INSTANCES_PER_SERVICE, OUTPUT_BYTES,
};

/// An entry's name and the reason, each cut to 200 bytes, and the words around them.
const SKIPPED_BYTES: usize = 500;

fuzz_target!(|body: &[u8]| {
    if let Ok(read) = parse::instances(body) {
        assert!(read.instances.len() <= INSTANCES_PER_SERVICE);
        assert!(
            read.instances
                .is_sorted_by_key(|instance| (&instance.node, &instance.id))
        );
        for instance in &read.instances {
            assert!(!instance.address.is_empty() && instance.port != 0);
            assert!(instance.weight_passing <= 65_535 && instance.weight_warning <= 65_535);
            assert!(instance.checks.len() <= CHECKS_PER_INSTANCE);
            assert!(
                instance
                    .checks
                    .iter()
                    .all(|check| check.output.len() <= OUTPUT_BYTES)
            );
        }
        assert!(
            read.skipped.iter().all(|why| why.len() <= SKIPPED_BYTES),
            "{:?}",
            read.skipped
        );
    }
    if let Ok(documents) = parse::documents(body, 0) {
        assert!(documents.is_sorted_by_key(|document| &document.name));
    }
    let _ = parse::documents(body, 7);
    if let Ok(states) = parse::check_states(body) {
        assert_eq!(
            Ok(&states),
            parse::check_states(body).as_ref(),
            "the same answer condenses to the same numbers"
        );
    }
    if let Ok(services) = parse::services(body) {
        assert!(services.values().all(|tags| tags.is_sorted()));
    }
});
