//! The trace that a request belongs to (W3C Trace Context): kept as it came, or begun. Hot path.

use httparse::Header;

use super::fields::{Known, is_nominated, known, push_field};

/// What a request says of its trace, field by field.
#[derive(Default)]
pub struct Trace<'a> {
    parent: Option<&'a [u8]>,
    parents: usize,
    has_state: bool,
}

impl<'a> Trace<'a> {
    pub fn add_parent(&mut self, value: &'a [u8]) {
        self.parents += 1;
        // Of two nobody can tell which is meant (section 4.3: the trace is begun anew).
        let is_it = self.parents == 1 && is_traceparent(value);
        self.parent = is_it.then_some(value);
    }

    pub fn add_state(&mut self) {
        self.has_state = true;
    }

    /// Appends the trace that is kept, with its state, or a new one with the sampled flag: whether to record it stays the servers'
    /// decision.
    pub fn write(&self, out: &mut Vec<u8>, fields: &[Header<'_>]) {
        let Some(parent) = self.parent else {
            return begin(out);
        };
        push_field(out, "traceparent", parent);
        if self.has_state {
            write_states(out, fields);
        }
    }
}

fn write_states(out: &mut Vec<u8>, fields: &[Header<'_>]) {
    let states = fields.iter();
    let states = states.filter(|field| known(field.name) == Known::Tracestate);
    for field in states.filter(|field| !is_nominated(field.name, fields)) {
        push_field(out, field.name, field.value);
    }
}

fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(b"traceparent: 00-");
    out.extend_from_slice(&hex(fastrand::u128(1..)));
    out.push(b'-');
    out.extend_from_slice(&hex(u128::from(fastrand::u64(1..)))[16..]);
    out.extend_from_slice(b"-01\r\n");
}

/// W3C Trace Context, section 3.2: `version-traceid-parentid-flags` in lower-case hex, neither id all zeros.
fn is_traceparent(value: &[u8]) -> bool {
    let lower_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let not_zero = |part: &[u8]| part.iter().any(|&b| b != b'0');
    if value.len() < 55 || [2, 35, 52].iter().any(|&at| value[at] != b'-') {
        return false;
    }
    let (version, trace, parent, flags) =
        (&value[..2], &value[3..35], &value[36..52], &value[53..55]);
    let has_right_length = value.len() == 55 || (version != b"00" && value[55] == b'-');
    has_right_length
        && version != b"ff"
        && [version, trace, parent, flags].into_iter().all(lower_hex)
        && not_zero(trace)
        && not_zero(parent)
}

/// Each byte as two lower-case hex digits.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    table
};

/// A number of 16 bytes as 32 lower-case hex digits.
pub fn hex(value: u128) -> [u8; 32] {
    let mut text = [0; 32];
    let (pairs, _) = text.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(value.to_be_bytes()) {
        *pair = HEX[usize::from(byte)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_held_against_its_grammar() {
        assert!(is_traceparent(
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        ));
        assert!(is_traceparent(
            b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"
        ));
        for bad in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
        let mut out = Vec::new();
        begin(&mut out);
        assert!(is_traceparent(&out[13..out.len() - 2]));
    }
}
