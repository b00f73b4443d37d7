//! A chunked body reads the same however its bytes are split, and never takes a byte of the message behind it.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rota::proxy::http1::body::{Decoder, Framing, Malformed, Step, trailer_fields};

#[derive(Arbitrary, Debug)]
struct Case<'a> {
    /// Sizes of the reads, over and over.
    reads: [u8; 4],
    sent: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Where the body ended, and its trailers.
    Whole {
        end: usize,
        trailers: Result<Vec<(String, Vec<u8>)>, Malformed>,
    },
    /// The connection would have to bring more.
    Part,
    Malformed(Malformed),
}

fn read(sent: &[u8], mut sizes: impl Iterator<Item = usize>) -> (Outcome, Vec<u8>) {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut data, mut trailers) = (Vec::new(), Ok(Vec::new()));
    let (mut start, mut received) = (0, 0);
    loop {
        let held = &sent[start..received];
        let step = match decoder.step(held) {
            Ok(step) => step,
            Err(why) => return (Outcome::Malformed(why), data),
        };
        match step {
            Step::Framing(count) | Step::Data(count) | Step::Trailers(count) => {
                assert!(
                    0 < count && count <= held.len(),
                    "a step is forward, within what was received"
                );
                if let Step::Data(_) = step {
                    data.extend_from_slice(&held[..count]);
                }
                if let Step::Trailers(_) = step {
                    let plain = |field: &httparse::Header<'_>| {
                        (field.name.to_owned(), field.value.to_vec())
                    };
                    trailers = trailer_fields(&held[..count])
                        .map(|fields| fields.iter().map(plain).collect());
                }
                start += count;
            }
            Step::End => {
                assert!(decoder.is_done());
                return (
                    Outcome::Whole {
                        end: start,
                        trailers,
                    },
                    data,
                );
            }
            Step::Read if received == sent.len() => return (Outcome::Part, data),
            Step::Read => {
                received = sent
                    .len()
                    .min(received + sizes.next().expect("sizes go on"))
            }
        }
    }
}

fuzz_target!(|case: Case<'_>| {
    let (whole, data) = read(case.sent, std::iter::repeat(case.sent.len()));
    let sizes = case.reads.map(|size| usize::from(size).max(1));
    let (split, split_data) = read(case.sent, sizes.into_iter().cycle());
    assert_eq!(whole, split);
    assert_eq!(data, split_data);
    if let Outcome::Whole { end, .. } = whole {
        let (alone, _) = read(&case.sent[..end], std::iter::repeat(1));
        assert_eq!(alone, whole, "what follows a body is not looked at");
        assert!(data.len() < end);
    }
});
