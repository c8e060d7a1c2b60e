// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the start line of a message, checks that it is HTTP/1.x, and notes the parts that affect
//! framing.

use super::{
    METHOD_CONNECT, METHOD_CONNECT_LIKE, METHOD_HEAD, METHOD_OPTIONS, METHOD_PRI, METHOD_SM,
    MODE_FIELD, MODE_START, Rules, Scan,
    segment::malformed,
    word::{each, first, spaces, text},
};

/// The length of `HTTP/1.x` in bytes.
const VERSION: u32 = 8;

/// Reads the complete start line between the positions `begin` and `end`. Returns true if an event
/// has occurred.
#[inline(always)]
pub(super) fn line(scan: &mut Scan, rules: &Rules, begin: u32, end: u32) -> bool {
    if scan.state.method == METHOD_SM {
        // The line must be `SM`, the last line of the HTTP/2 preface. No HTTP/1.x server continues
        // after this line, and therefore HTTP/2 follows.
        scan.state.mode = MODE_FIELD;
        return (end.wrapping_sub(begin) != 2
            || scan.word(begin) as u16 != u16::from_le_bytes(*b"SM"))
            && malformed(scan);
    }
    if begin == end {
        // Empty lines before a request are ignored (RFC 9112, section 2.2).
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
    // The shortest possible request line is "A * HTTP/1.1".
    if length < 12 {
        return malformed(scan);
    }
    if length == 14
        && scan.word(begin) == text(b"PRI * HT")
        && scan.word(begin + 6) == text(b"HTTP/2.0")
        && scan.state.begun == 0
        && scan.state.lines == 1
    {
        // Some servers (for example h11) read this line as an HTTP/1.x request. Therefore the
        // preface is reported only after `blank` has checked the rest of the preface.
        scan.state.method = METHOD_PRI;
        return false;
    }
    // There must be a method, and a second space before the version. Otherwise some servers read
    // the line as HTTP/0.9.
    let method = method(scan, begin);
    if method == 0 || begin.wrapping_add(method).wrapping_add(VERSION + 1) >= end {
        return malformed(scan);
    }
    version(scan, end)
}

/// Reads the method of the request line at `begin`. Returns the length of the method in bytes, or 0
/// if there is no method or the method is longer than any known method.
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
    } else if word == text(b"OPTIONS ") {
        scan.state.method = METHOD_OPTIONS;
    } else if word | each(0x20) == text(b"connect ") {
        scan.state.method = if word == text(b"CONNECT ") {
            METHOD_CONNECT
        } else {
            METHOD_CONNECT_LIKE
        };
    }
    length + first(bits) as u32
}

/// Reads the version of the request line that ends at `end`. Returns true if the version is not
/// HTTP/1.x (RFC 9112, section 3), which makes the request malformed.
#[inline(always)]
pub(super) fn version(scan: &mut Scan, end: u32) -> bool {
    let digit = scan.byte(end.wrapping_sub(1));
    if scan.word(end.wrapping_sub(VERSION + 1)) != text(b" HTTP/1.") || digit & 0xfe != b'0' {
        return malformed(scan);
    }
    scan.state.minor = u32::from(digit & 1);
    false
}

/// Reads the status line at `begin` (RFC 9112, section 4). Returns false if the line is invalid.
#[inline(always)]
pub(super) fn status(scan: &mut Scan, begin: u32) -> bool {
    let version = scan.word(begin);
    // The first four bytes of this word are a space and the three digits of the status.
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
