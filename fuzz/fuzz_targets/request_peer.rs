//! A request that rota and hyper both accept means the same to both, and ends at the same byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota_fuzz::codec::{RequestCase, compare_requests};

fuzz_target!(|case: &[u8]| {
    if let Some(case) = RequestCase::of(case) {
        compare_requests(case.sent, case.reads);
    }
});
