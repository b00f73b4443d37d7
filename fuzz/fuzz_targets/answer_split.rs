//! No split of an answer into reads changes what rota makes of it, nor does what follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota_fuzz::codec::{AnswerCase, split_answer};

fuzz_target!(|case: &[u8]| {
    if let Some(case) = AnswerCase::of(case) {
        split_answer(case.sent, case.asked, case.reads);
    }
});
