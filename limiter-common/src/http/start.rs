//! The first line of a message: what matters of it to framing, and whether it is HTTP/1.x.

use super::{
    METHOD_CONNECT, METHOD_HEAD, METHOD_PRI, METHOD_SM, MODE_FIELD, MODE_START, Rules, Scan,
    segment::malformed,
    word::{first, spaces, text},
};

/// The first byte behind the version of a request line's or a response's `HTTP/1.x`.
const VERSION: u32 = 8;

/// A complete start line from `begin` to `end`.
#[inline(always)]
pub(super) fn line(scan: &mut Scan, rules: &Rules, begin: u32, end: u32) -> bool {
    if scan.state.method == METHOD_SM {
        // No server of HTTP/1.x goes on behind this line, so what comes then is HTTP/2.
        scan.state.mode = MODE_FIELD;
        return (end.wrapping_sub(begin) != 2
            || scan.word(begin) as u16 != u16::from_le_bytes(*b"SM"))
            && malformed(scan);
    }
    if begin == end {
        // Empty lines before a request are to be ignored (RFC 9112, section 2.2).
        scan.state.mode = MODE_START;
        return false;
    }
    scan.state.mode = MODE_FIELD;
    let length = end.wrapping_sub(begin);
    if rules.response != 0 {
        if length < VERSION + 4 || !status(scan, begin) {
            return malformed(scan);
        }
        return false;
    }
    // The shortest that can be: "A * HTTP/1.1".
    if length < 12 {
        return malformed(scan);
    }
    if length == 14
        && scan.word(begin) == text(b"PRI * HT")
        && scan.word(begin + 6) == text(b"HTTP/2.0")
        && scan.state.begun == 0
        && scan.state.lines == 1
    {
        // Some servers (h11) take it for a request of HTTP/1.x: `blank` wants to see the rest.
        scan.state.method = METHOD_PRI;
        return false;
    }
    // A method, and another space before the version: else it is the HTTP/0.9 of some servers.
    let method = method(scan, begin);
    if method == 0 || begin.wrapping_add(method).wrapping_add(VERSION + 1) >= end {
        return malformed(scan);
    }
    version(scan, end)
}

/// The method of the request line at `begin`: how long it is; 0 if it is none, or longer than any.
#[inline(always)]
pub(super) fn method(scan: &mut Scan, begin: u32) -> u32 {
    if scan.state.method == METHOD_SM {
        return 0;
    }
    let cursor = scan.cursor(begin);
    let word = cursor.word::<0>();
    let mut length = 0;
    let mut bits = spaces(word);
    if bits == 0 {
        length = 8;
        bits = spaces(cursor.word::<8>());
        if bits == 0 {
            length = 16;
            bits = spaces(cursor.word::<16>());
            if bits == 0 {
                return 0;
            }
        }
    }
    if word & 0xff_ffff_ffff == text(b"HEAD ") {
        scan.state.method = METHOD_HEAD;
    } else if word == text(b"CONNECT ") {
        scan.state.method = METHOD_CONNECT;
    }
    length + first(bits) as u32
}

/// Whether the request line that ends at `end` ends as HTTP/1.x (RFC 9112, section 3).
#[inline(always)]
pub(super) fn version(scan: &mut Scan, end: u32) -> bool {
    let digit = scan.byte(end.wrapping_sub(1));
    if scan.word(end.wrapping_sub(VERSION + 1)) != text(b" HTTP/1.") || digit & 0xfe != b'0' {
        return malformed(scan);
    }
    scan.state.minor = u32::from(digit & 1);
    false
}

/// Reads the status line at `begin` (RFC 9112, section 4); false if it is none.
#[inline(always)]
pub(super) fn status(scan: &mut Scan, begin: u32) -> bool {
    let version = scan.word(begin);
    // A space, then three digits.
    let status = scan.word(begin.wrapping_add(VERSION));
    let digits = (status as u32 >> 8).wrapping_sub(0x30_3030);
    let (hundreds, tens, ones) = (digits & 0xff, digits >> 8 & 0xff, digits >> 16 & 0xff);
    if (version & !(1 << 56)) != text(b"HTTP/1.0")
        || status as u8 != b' '
        || hundreds > 9
        || hundreds == 0
        || tens > 9
        || ones > 9
    {
        return false;
    }
    scan.state.minor = (version >> 56) as u32 & 1;
    scan.state.status = hundreds * 100 + tens * 10 + ones;
    true
}
