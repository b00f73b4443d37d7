//! What the Date field of an answer says (RFC 9110 section 6.6.1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::rfc3339::civil_from_days;

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// This moment. rota's own answers are few: no text is kept from one to the next.
pub fn now() -> [u8; 29] {
    text(SystemTime::now())
}

/// As RFC 9110 section 5.6.7 writes it; before 1970 is 1970, after 9999 is nonsense.
pub fn text(at: SystemTime) -> [u8; 29] {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    text[8..11].copy_from_slice(MONTHS[month as usize - 1]);
    for (at, number) in [
        (5, day),
        (12, year / 100),
        (14, year % 100),
        (17, of_day / 3600),
        (20, of_day / 60 % 60),
        (23, of_day % 60),
    ] {
        text[at] = b'0' + (number / 10 % 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        let written = |unix| {
            let text = text(UNIX_EPOCH + Duration::from_secs(unix));
            String::from_utf8(text.to_vec()).unwrap()
        };
        assert_eq!(written(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(written(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(written(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(written(4_107_542_399), "Sun, 28 Feb 2100 23:59:59 GMT");
    }
}
