//! No split of a request into reads changes what rota makes of it, nor does what follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota_fuzz::codec::{RequestCase, split_request};

fuzz_target!(|case: &[u8]| {
    if let Some(case) = RequestCase::of(case) {
        split_request(case.sent, case.reads);
    }
});
