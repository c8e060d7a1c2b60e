//! The value of a field that matters, of which all bytes are in the buffer. Blanks, digits and
//! words are taken one a step, so that the verifier sees no loops.

use super::{
    MODE_BASE64, MODE_CHUNK_DATA, MODE_CHUNK_END, MODE_DIGITS, MODE_FIELD, MODE_HEX, MODE_TRIM,
    Rules, SEEN_AUTHORIZATION, SEEN_CHUNKED, SEEN_ENCODING, SEEN_LENGTH, SEEN_UNCLEAR, Scan, chunk,
    rules::{KIND_AUTHORIZATION, KIND_BASIC, KIND_ENCODING, KIND_LENGTH, NO_RANK},
    segment::malformed,
    word::{self, each, has_not_visible, hide, low_bytes, masked, text},
};
use crate::{abi::MAX_KEY, siphash};

/// The largest body that is believed: beyond, servers overflow (RFC 9112, section 6.3, warns of
/// it).
pub(super) const MAX_BODY: u64 = 1 << 62;

/// One step.
#[inline(always)]
pub(super) fn step(scan: &mut Scan, rules: &Rules) -> bool {
    let mode = scan.state.mode;
    if mode == MODE_TRIM {
        trim(scan, rules)
    } else if mode == MODE_DIGITS {
        digit(scan, rules)
    } else if mode == MODE_BASE64 {
        base64(scan, rules)
    } else if mode == MODE_HEX {
        chunk::digit(scan, rules)
    } else if mode == MODE_CHUNK_DATA {
        chunk::data(scan, rules)
    } else if mode == MODE_CHUNK_END {
        chunk::data_end(scan, rules)
    } else {
        true
    }
}

#[inline(always)]
const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[inline(always)]
fn trim(scan: &mut Scan, rules: &Rules) -> bool {
    let (mut begin, end) = (scan.value, scan.value_end);
    if begin < end && is_blank(scan.byte(begin)) {
        begin += 1;
        scan.value = begin;
        // One space is what there is mostly, and none what there may be.
        if begin < end && is_blank(scan.byte(begin)) {
            if begin + 8 <= end && word::is_blank(scan.word(begin)) {
                scan.value = begin + 8;
            }
            return false;
        }
    }
    if begin < end && is_blank(scan.byte(end - 1)) {
        let many = begin + 8 <= end && word::is_blank(scan.word(end - 8));
        scan.value_end = if many { end - 8 } else { end - 1 };
        return false;
    }
    let kind = scan.kind;
    scan.state.mode = MODE_FIELD;
    if kind == KIND_LENGTH {
        scan.number = 0;
        if begin >= end {
            return unclear(scan, rules);
        }
        scan.state.mode = MODE_DIGITS;
        false
    } else if kind == KIND_ENCODING {
        encoding(scan, rules)
    } else if kind == KIND_AUTHORIZATION {
        scheme(scan, rules)
    } else if kind == KIND_BASIC {
        basic(scan)
    } else {
        capture(scan, rules)
    }
}

/// A message that cannot be framed: a request is malformed, a response goes on until the close.
#[inline(always)]
fn unclear(scan: &mut Scan, rules: &Rules) -> bool {
    if rules.response == 0 {
        return malformed(scan);
    }
    scan.state.seen |= SEEN_LENGTH | SEEN_UNCLEAR;
    scan.state.mode = MODE_FIELD;
    false
}

/// A digit of `Content-Length`, or its end.
#[inline(always)]
fn digit(scan: &mut Scan, rules: &Rules) -> bool {
    let at = scan.value;
    if at < scan.value_end {
        let digit = u64::from(scan.byte(at).wrapping_sub(b'0'));
        if digit > 9 || scan.number > MAX_BODY / 10 {
            return unclear(scan, rules);
        }
        scan.number = scan.number * 10 + digit;
        scan.value = at + 1;
        return false;
    }
    let again = scan.state.seen & SEEN_LENGTH != 0;
    if scan.number > MAX_BODY
        || (again && (rules.response == 0 || scan.number != scan.state.length))
    {
        return unclear(scan, rules);
    }
    scan.state.seen |= SEEN_LENGTH;
    scan.state.length = scan.number;
    scan.state.mode = MODE_FIELD;
    false
}

#[inline(always)]
fn encoding(scan: &mut Scan, rules: &Rules) -> bool {
    let (begin, end) = (scan.value, scan.value_end);
    let length = end.wrapping_sub(begin);
    let chunked = end >= begin
        && length >= 7
        && (scan.word(end.wrapping_sub(7)) | each(0x20)) & low_bytes(7) == text(b"chunked");
    if rules.response == 0 {
        if !chunked || length != 7 || scan.state.seen & SEEN_ENCODING != 0 {
            return malformed(scan);
        }
    } else {
        let before = scan.byte(end.wrapping_sub(8));
        let last = chunked && (length == 7 || is_blank(before) || before == b',');
        if !last {
            scan.state.seen = scan.state.seen & !SEEN_CHUNKED | SEEN_ENCODING;
            return false;
        }
    }
    scan.state.seen |= SEEN_ENCODING | SEEN_CHUNKED;
    false
}

/// Whether the value that begins with this word is of the scheme `Bearer` (RFC 6750).
#[inline(always)]
pub(super) const fn is_bearer(word: u64) -> bool {
    (word | each(0x20)) & low_bytes(6) == text(b"bearer") && is_blank((word >> 48) as u8)
}

/// Whether the value that begins with this word is of the scheme `Basic` (RFC 7617).
#[inline(always)]
pub(super) const fn is_basic(word: u64) -> bool {
    (word | each(0x20)) & low_bytes(5) == text(b"basic") && is_blank((word >> 40) as u8)
}

/// Whether there is a byte beyond ASCII where the scheme is and the blank behind it. Applications
/// take some of them for blanks, alone (0x85, 0xa0) or in UTF-8, and then find a scheme.
#[inline(always)]
pub(super) const fn is_odd_scheme(word: u64) -> bool {
    word & each(0x80) & low_bytes(7) != 0
}

/// Credentials that are no key. True: an event.
#[inline(always)]
pub(super) fn other_scheme(scan: &mut Scan) -> bool {
    if scan.state.seen & SEEN_AUTHORIZATION != 0 {
        return malformed(scan);
    }
    scan.state.seen |= SEEN_AUTHORIZATION;
    false
}

#[inline(always)]
fn scheme(scan: &mut Scan, rules: &Rules) -> bool {
    let begin = scan.value;
    let length = scan.value_end.wrapping_sub(begin);
    let word = scan.word(begin);
    if length > 6 && is_odd_scheme(word) {
        return malformed(scan);
    }
    let (rank, skip) = if length > 7 && is_bearer(word) {
        (rules.bearer_rank, 7)
    } else if length > 6 && is_basic(word) {
        (rules.basic_rank, 6)
    } else {
        (NO_RANK, 0)
    };
    if rank >= NO_RANK {
        return other_scheme(scan);
    }
    // A second one must be of the same source; `capture` sees to it that it is the same.
    let seen = scan.state.seen;
    if seen & SEEN_AUTHORIZATION != 0 && seen >> rank & 1 == 0 {
        return malformed(scan);
    }
    scan.state.seen = seen | SEEN_AUTHORIZATION;
    scan.value = begin + skip;
    scan.kind = if skip == 6 { KIND_BASIC } else { rank };
    scan.state.mode = MODE_TRIM;
    false
}

/// The padding of base64. It must be canonical, because many servers take other spellings for the
/// same credentials, and each would be another key.
#[inline(always)]
fn basic(scan: &mut Scan) -> bool {
    let end = scan.value_end;
    let length = end.wrapping_sub(scan.value);
    if length > MAX_KEY as u32 || length & 3 != 0 {
        return malformed(scan);
    }
    let word = scan.word(end.wrapping_sub(4));
    let padding = padding((word >> 24) as u8, (word >> 16) as u8, (word >> 8) as u8);
    if padding > 2 {
        return malformed(scan);
    }
    scan.number = u64::from(end - padding);
    scan.progress = scan.value;
    scan.state.mode = MODE_BASE64;
    false
}

/// How many of a group's last bytes (the last one first) are padding; more than two if the bits
/// that the padding cuts off are not zero (RFC 4648, section 3.5).
#[inline(always)]
pub(super) const fn padding(last: u8, second: u8, third: u8) -> u32 {
    const fn set(bytes: &[u8], from: u8) -> u64 {
        let mut set = 0;
        let mut i = 0;
        while i < bytes.len() {
            if bytes[i] >= from {
                set |= 1 << (bytes[i] - from);
            }
            i += 1;
        }
        set
    }
    // Bytes whose value's lowest two bits are zero, letters and digits; then those with four.
    const LETTERS: u64 = set(b"AEIMQUYcgkosw", b'@');
    if last != b'=' {
        return 0;
    }
    if second != b'=' {
        let letter = second >= b'@' && second < b'@' + 64 && LETTERS >> (second & 63) & 1 == 1;
        let digit = second == b'0' || second == b'4' || second == b'8';
        return if letter || digit { 1 } else { 3 };
    }
    if third == b'A' || third == b'Q' || third == b'g' || third == b'w' {
        2
    } else {
        3
    }
}

/// A word of base64, or the end.
#[inline(always)]
fn base64(scan: &mut Scan, rules: &Rules) -> bool {
    let at = scan.progress;
    let end = scan.number as u32;
    if at >= end {
        scan.kind = rules.basic_rank;
        scan.state.mode = MODE_TRIM;
        return false;
    }
    let left = u64::from(end - at);
    let mut word = scan.word(at);
    if left < 8 {
        let keep = low_bytes(left);
        word = (word & keep) | (each(b'A') & !keep);
    }
    if !word::is_base64(word) {
        return malformed(scan);
    }
    scan.progress = at + 8;
    false
}

/// Hashes the key, which is not kept, and notes it.
#[inline(always)]
fn capture(scan: &mut Scan, rules: &Rules) -> bool {
    let begin = scan.value;
    let length = hide(u64::from(scan.value_end.wrapping_sub(begin)));
    if length == 0 {
        return false;
    }
    if length > MAX_KEY as u64 {
        return malformed(scan);
    }
    let mut odd = false;
    let rest = masked::<{ MAX_KEY as i32 * 2 - 1 }>(length);
    let tail = begin.wrapping_add((rest & !7) as u32);
    let word = scan.word(tail);
    let last = word & low_bytes(rest & 7);
    // Keys stay secret: what is hashed is not left in the buffer.
    scan.put(tail, word ^ last);
    let hash_key = rules.hash_key;
    let digest = siphash::hash128(
        hash_key,
        length,
        |index| {
            let position = begin.wrapping_add((index * 8) as u32);
            let word = scan.word(position);
            scan.put(position, 0);
            odd |= has_not_visible(word);
            word
        },
        last,
    );
    if odd || has_not_visible(last | (each(b'!') & !low_bytes(rest & 7))) {
        // Applications trim and split in many ways, and would find the key where we see another.
        return malformed(scan);
    }
    let rank = scan.kind;
    let slot = masked::<{ super::KEY_SLOTS as i32 - 1 }>(u64::from(rank)) as usize;
    let bit = 1 << slot;
    let state = &mut scan.state;
    // SAFETY: the mask keeps it below KEY_SLOTS.
    let noted = unsafe { state.digests.get_unchecked_mut(slot) };
    if state.seen & bit != 0 && *noted != digest {
        return malformed(scan);
    }
    *noted = digest;
    state.seen |= bit;
    let rank = slot as u32 + 1;
    if state.rank == 0 || rank <= state.rank {
        state.rank = rank;
        state.key = digest;
    }
    false
}
