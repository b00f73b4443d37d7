//! An answer that rota and hyper both accept means the same to both, and ends at the same byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota_fuzz::codec::{AnswerCase, compare_answers};

fuzz_target!(|case: &[u8]| {
    if let Some(case) = AnswerCase::of(case) {
        compare_answers(case.sent, case.asked, case.reads);
    }
});
