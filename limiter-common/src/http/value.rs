// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the value of a field that matters. The buffer contains the whole value, or the first bytes
//! of a long line. Each step handles only a few bytes, for example one digit, so that the code has
//! no loops for the verifier to check.

use super::{
    MODE_AFTER, MODE_CHUNK_DATA, MODE_CHUNK_END, MODE_DIGITS, MODE_END, MODE_FIELD, MODE_HEX,
    MODE_SKIP, MODE_STREAM, MODE_TRIM, MODE_UPGRADE, Rules, SEEN_AUTHORIZATION, SEEN_CHUNKED,
    SEEN_ENCODING, SEEN_KEYS, SEEN_LENGTH, SEEN_UNCLEAR, Scan, chunk,
    rules::{KIND_AUTHORIZATION, KIND_BASIC, KIND_ENCODING, KIND_LENGTH, KIND_UPGRADE},
    segment::malformed,
    stream, upgrade,
    word::{self, each, has_not_visible, hide, low_bytes, masked, text},
};
use crate::{abi::MAX_KEY, siphash};

/// The maximum size of a body in bytes. Larger numbers may overflow in servers (RFC 9112, section
/// 6.3, warns of such overflows).
pub(super) const MAX_BODY: u64 = 1 << 62;

/// Does one step of the current mode. Returns true if the window has ended or an event has
/// occurred.
#[inline(always)]
pub(super) fn step(scan: &mut Scan, rules: &Rules) -> bool {
    let mode = scan.state.mode;
    if mode == MODE_TRIM {
        trim(scan, rules)
    } else if mode == MODE_DIGITS {
        digit(scan, rules)
    } else if mode == MODE_STREAM {
        stream::step(scan, rules)
    } else if mode == MODE_END {
        stream::end(scan, rules)
    } else if mode == MODE_AFTER {
        stream::after(scan, rules)
    } else if mode == MODE_HEX {
        chunk::digit(scan, rules)
    } else if mode == MODE_UPGRADE {
        upgrade::byte(scan)
    } else if mode == MODE_CHUNK_DATA {
        chunk::data(scan, rules)
    } else if mode == MODE_CHUNK_END {
        chunk::data_end(scan, rules)
    } else {
        true
    }
}

#[inline(always)]
pub(super) const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[inline(always)]
fn trim(scan: &mut Scan, rules: &Rules) -> bool {
    let (mut begin, end) = (scan.value, scan.value_end);
    if begin < end && is_blank(scan.byte(begin)) {
        begin += 1;
        scan.value = begin;
        // Most values follow one blank or none. Only further blanks take another step.
        if begin < end && is_blank(scan.byte(begin)) {
            if begin + 8 <= end && word::is_blank(scan.word(begin)) {
                scan.value = begin + 8;
            }
            return false;
        }
    }
    if begin < end && is_blank(scan.byte(end - 1)) && !goes_on(scan) {
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
    } else if kind == KIND_UPGRADE {
        scan.state.mode = MODE_UPGRADE;
        false
    } else if begin >= end {
        // The value is empty, or the line is long and its first `CARRY` bytes contain no part of
        // the value. Such a long line is malformed, because later bytes are not always available,
        // and the result must not depend on how the line is split into segments.
        goes_on(scan) && malformed(scan)
    } else if kind == KIND_BASIC || goes_on(scan) {
        if !goes_on(scan) {
            // The line has been counted already, and will be counted again at its end.
            scan.state.lines = scan.state.lines.wrapping_sub(1);
        }
        stream::begin(scan, rules, kind);
        false
    } else {
        capture(scan, rules)
    }
}

/// Returns whether the value continues past `Scan::value_end` (see `field::too_long`).
#[inline(always)]
const fn goes_on(scan: &Scan) -> bool {
    // If the value does not continue, the scan has already passed the end of the line.
    scan.pos < scan.value_end
}

/// Handles a message whose length is unclear: a request is malformed, and a response ends when the
/// connection is closed.
#[inline(always)]
fn unclear(scan: &mut Scan, rules: &Rules) -> bool {
    if rules.response == 0 {
        return malformed(scan);
    }
    scan.state.seen |= SEEN_LENGTH | SEEN_UNCLEAR;
    scan.state.mode = MODE_FIELD;
    false
}

/// Reads a digit of `Content-Length`, or handles the end of the number.
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

/// Returns whether the value that begins with this word has the scheme `Bearer` (RFC 6750).
#[inline(always)]
pub(super) const fn is_bearer(word: u64) -> bool {
    (word | each(0x20)) & low_bytes(6) == text(b"bearer") && is_blank((word >> 48) as u8)
}

/// Returns whether the value that begins with this word has the scheme `Basic` (RFC 7617).
#[inline(always)]
pub(super) const fn is_basic(word: u64) -> bool {
    (word | each(0x20)) & low_bytes(5) == text(b"basic") && is_blank((word >> 40) as u8)
}

/// Returns whether the scheme or the blank after it contains a byte that is not ASCII. Some
/// applications treat such bytes as blanks, either alone (0x85, 0xa0) or as part of a UTF-8
/// sequence. They could recognise a scheme that the scanner does not recognise.
#[inline(always)]
pub(super) const fn is_odd_scheme(word: u64) -> bool {
    word & each(0x80) & low_bytes(7) != 0
}

/// Handles credentials that are not a key, such as signatures, tickets and digests. Returns true if
/// an event has occurred.
#[inline(always)]
fn other_scheme(scan: &mut Scan) -> bool {
    if scan.state.seen & SEEN_AUTHORIZATION != 0 {
        return malformed(scan);
    }
    scan.state.seen |= SEEN_AUTHORIZATION;
    if goes_on(scan) {
        scan.state.mode = MODE_SKIP;
    }
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
    if goes_on(scan) && length < 8 {
        // The scheme or the blank after it could extend past the bytes that are always available.
        return malformed(scan);
    }
    let (kind, ranks, skip) = if length > 7 && is_bearer(word) {
        (rules.bearer_rank, 1 << rules.bearer_rank, 7)
    } else if length > 6 && is_basic(word) {
        let ranks = 1 << rules.basic_rank | 1 << rules.user_rank;
        (KIND_BASIC, ranks, 6)
    } else {
        return other_scheme(scan);
    };
    if ranks & SEEN_KEYS == 0 {
        return other_scheme(scan);
    }
    // A second `Authorization` field must have a key from the same source. `note` checks that the
    // keys are the same.
    let seen = scan.state.seen;
    if seen & SEEN_AUTHORIZATION != 0 && seen & ranks & SEEN_KEYS == 0 {
        return malformed(scan);
    }
    scan.state.seen = seen | SEEN_AUTHORIZATION;
    scan.value = begin + skip;
    scan.kind = kind;
    scan.state.mode = MODE_TRIM;
    false
}

/// Hashes the key, clears it in the buffer, and notes the hash.
#[inline(always)]
fn capture(scan: &mut Scan, rules: &Rules) -> bool {
    let begin = scan.value;
    let length = hide(u64::from(scan.value_end.wrapping_sub(begin)));
    if length > MAX_KEY as u64 {
        scan.state.lines = scan.state.lines.wrapping_sub(1);
        stream::begin(scan, rules, scan.kind);
        return false;
    }
    let mut odd = false;
    let rest = masked::<{ MAX_KEY as i32 * 2 - 1 }>(length);
    let tail = begin.wrapping_add((rest & !7) as u32);
    let word = scan.word(tail);
    let last = word & low_bytes(rest & 7);
    // Keys are secret, so the bytes that have been hashed are cleared in the buffer.
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
        // Applications trim and split values in many ways, and could find another key here.
        return malformed(scan);
    }
    note(scan, scan.kind, digest)
}

/// Notes `digest`, the hash of the key from the source with the rank `rank`. Returns true if the
/// source already has a different key, which makes the request malformed.
#[inline(always)]
pub(super) fn note(scan: &mut Scan, rank: u32, digest: [u64; 2]) -> bool {
    let slot = masked::<{ super::KEY_SLOTS as i32 - 1 }>(u64::from(rank)) as usize;
    let bit = 1 << slot;
    // SAFETY: the mask keeps the index below KEY_SLOTS.
    let noted = unsafe { scan.state.digests.get_unchecked_mut(slot) };
    let known = *noted;
    let state = &mut scan.state.progress;
    if state.seen & bit != 0 {
        return known != digest && malformed(scan);
    }
    *noted = digest;
    state.seen |= bit;
    let rank = slot as u32 + 1;
    state.keys = state
        .keys
        .wrapping_add(digest[0].wrapping_mul(2 * u64::from(rank) - 1));
    if state.rank == 0 || rank < state.rank {
        state.rank = rank;
    }
    false
}
