// SPDX-License-Identifier: MIT OR Apache-2.0

//! The chunked transfer coding (RFC 9112, section 7.1): sizes, data and trailers.

use super::{
    MODE_CHUNK, MODE_CHUNK_DATA, MODE_CHUNK_END, MODE_FIELD, Rules, SEEN_TRAILERS, Scan,
    segment::malformed, value::MAX_BODY,
};

/// The maximum number of digits in the size of a chunk. A number with more digits may not fit in 64
/// bits.
const MAX_DIGITS: u32 = 16;

/// Reads a digit of the size, or the byte after the digits.
#[inline(always)]
pub(super) fn digit(scan: &mut Scan, rules: &Rules) -> bool {
    let at = scan.value;
    let byte = scan.byte(at);
    if at < scan.value_end {
        let decimal = byte.wrapping_sub(b'0');
        let letter = (byte | 0x20).wrapping_sub(b'a');
        let digit = if decimal < 10 {
            decimal
        } else {
            letter.wrapping_add(10)
        };
        if decimal < 10 || letter < 6 {
            if scan.progress >= MAX_DIGITS {
                return malformed(scan);
            }
            scan.number = (scan.number << 4) | u64::from(digit);
            scan.progress += 1;
            scan.value = at + 1;
            return false;
        }
        // Only a chunk extension may follow the digits. Blanks before the extension make a request
        // malformed, because some servers do not accept them, but they are harmless in a response.
        let blank = byte == b' ' || byte == b'\t';
        if byte != b';' && (rules.response == 0 || !blank) {
            return malformed(scan);
        }
    }
    if scan.progress == 0 || scan.number > MAX_BODY {
        return malformed(scan);
    }
    scan.state.body_left = scan.number;
    if scan.number > 0 {
        scan.state.mode = MODE_CHUNK_DATA;
        return data(scan, rules);
    }
    scan.state.seen |= SEEN_TRAILERS;
    scan.state.lines = 0;
    scan.message_at = scan.offset(scan.pos) as i32;
    scan.state.mode = MODE_FIELD;
    false
}

/// Skips the part of the data that is in the window. `unit` skips the rest.
#[inline(always)]
pub(super) fn data(scan: &mut Scan, rules: &Rules) -> bool {
    let loaded = scan.end.wrapping_sub(scan.pos);
    let left = scan.state.body_left;
    if left > u64::from(loaded) {
        return true;
    }
    scan.pos += left as u32;
    scan.line = scan.pos;
    scan.hold = scan.pos;
    scan.state.body_left = 0;
    scan.state.mode = MODE_CHUNK_END;
    data_end(scan, rules)
}

/// Reads the line end that follows the data.
#[inline(always)]
pub(super) fn data_end(scan: &mut Scan, rules: &Rules) -> bool {
    let at = scan.pos;
    let found = scan.word(at);
    let mut next = at + 2;
    if rules.response != 0 && found as u8 == b'\n' && at < scan.end {
        next = at + 1;
    } else {
        if next > scan.end {
            scan.hold = at;
            scan.pos = scan.end;
            return true;
        }
        if found as u16 != u16::from_le_bytes(*b"\r\n") {
            return malformed(scan);
        }
    }
    scan.pos = next;
    scan.line = next;
    scan.hold = next;
    scan.state.mode = MODE_CHUNK;
    false
}
