//! The name of a field: whether it is one, and whether it matters.

use super::{
    MAX_NAME, MAX_NAMES, MODE_FIELD, MODE_NAME, MODE_SKIP, MODE_VALUE, Rules, SEEN_RESPELLED,
    SEEN_TRAILERS, SEEN_UNCLEAR, Scan,
    line::{CRLF, Found, blank},
    rules::{INDEX, KIND_AUTHORIZATION, KIND_ENCODING, KIND_LENGTH, KIND_NONE, NO_RANK, Name},
    segment::malformed,
    value,
    word::{Cursor, dashed, each, ends_name, first, masked},
};

/// Bytes looked at in one go; the longest name that can matter, and its colon, lie within.
const STEP: u32 = 40;
const _: () = assert!(MAX_NAME < STEP as usize);

/// Looks for the colon from a line's beginning on.
///
/// Every name is looked at, not just those that matter, because servers disagree on lines that are
/// no fields: Python's http.server takes the first for the end of the head, nginx ignores it.
#[inline(always)]
pub(super) fn name(scan: &mut Scan, rules: &Rules, begin: u32) -> Found {
    let (words, bits) = end_of_name(scan.cursor(begin));
    if bits == 0 {
        if begin.wrapping_add(STEP) > scan.end {
            return Found::Nothing;
        }
        scan.pos = begin.wrapping_add(STEP);
        scan.state.mode = MODE_NAME;
        return Found::Stop(false);
    }
    let length = words * 8 + first(bits);
    let stop = begin.wrapping_add(length as u32);
    if stop >= scan.end {
        return Found::Nothing;
    }
    if scan.byte(stop) != b':' || length == 0 {
        return no_name(scan, rules, stop, length);
    }
    // From the word with the colon on, not from the colon: so the search for the line's end, and
    // with it the next line, need not wait until the processor knows where the colon is.
    let from = begin.wrapping_add((words * 8) as u32);
    if length > MAX_NAME as u64 {
        return Found::Mode(MODE_SKIP, from);
    }
    let name = number(scan, rules, begin, length);
    if name == 0 {
        return Found::Mode(MODE_SKIP, from);
    }
    let kind = kind(scan, rules, begin, u32::from(name));
    if kind > KIND_ENCODING {
        return Found::Stop(malformed(scan));
    }
    if kind == KIND_NONE || scan.state.seen & SEEN_TRAILERS != 0 {
        return Found::Mode(MODE_SKIP, from);
    }
    scan.kind = kind;
    scan.value = stop + 1;
    Found::Mode(MODE_VALUE, from)
}

/// If the line that begins at `begin` is a field that does not matter, as far as its name and the
/// colon tell, which lie in the window: the position from which to look for the line's end.
#[inline(always)]
pub(super) fn irrelevant(scan: &Scan, rules: &Rules, begin: u32) -> Option<u32> {
    let (words, bits) = end_of_name(scan.cursor(begin));
    let length = words * 8 + first(bits);
    let stop = begin.wrapping_add(length as u32);
    if bits == 0
        || stop >= scan.end
        || scan.byte(stop) != b':'
        || length == 0
        || length > MAX_NAME as u64
        || number(scan, rules, begin, length) != 0
    {
        return None;
    }
    Some(begin.wrapping_add((words * 8) as u32))
}

/// The number (from one) of the name to look for whose length and first byte are those of the name
/// at `begin`; 0: there is none.
#[inline(always)]
fn number(scan: &Scan, rules: &Rules, begin: u32, length: u64) -> u8 {
    let index = (length - 1) << 5 | (scan.word(begin) & 31);
    let index = masked::<{ INDEX as i32 - 1 }>(index) as usize;
    // SAFETY: the mask keeps it in the array.
    unsafe { *rules.index.get_unchecked(index) }
}

/// What is no name: the empty line behind the fields, or nothing that is allowed.
#[inline(always)]
fn no_name(scan: &mut Scan, rules: &Rules, stop: u32, length: u64) -> Found {
    let found = scan.word(stop);
    let byte = found as u8;
    if length == 0 && byte == b'\r' {
        if stop + 1 >= scan.end {
            return Found::Nothing;
        }
        if found as u16 == CRLF {
            return Found::Stop(blank(scan, rules, stop + 2));
        }
    }
    let lone = length == 0 && byte == b'\n';
    if lone && (rules.response != 0 || scan.state.seen & SEEN_TRAILERS == 0) {
        return Found::Stop(blank(scan, rules, stop + 1));
    }
    if rules.response != 0 {
        return Found::Mode(MODE_SKIP, stop);
    }
    Found::Stop(malformed(scan))
}

/// Looks for the colon in a name that is too long to matter.
#[inline(always)]
pub(super) fn rest_of_name(scan: &mut Scan, rules: &Rules, pos: u32) -> Found {
    let bits = ends_name(scan.word(pos));
    if bits == 0 {
        if pos.wrapping_add(8) > scan.end {
            return Found::Nothing;
        }
        scan.pos = pos.wrapping_add(8);
        return Found::Stop(false);
    }
    let stop = pos.wrapping_add(first(bits) as u32);
    if stop >= scan.end {
        return Found::Nothing;
    }
    if scan.byte(stop) == b':' || rules.response != 0 {
        return Found::Mode(MODE_SKIP, stop);
    }
    Found::Stop(malformed(scan))
}

/// The first of five words with a byte that ends a name, and a bit for each of those in it.
#[inline(always)]
fn end_of_name(cursor: Cursor<'_>) -> (u64, u64) {
    macro_rules! words {
        ($($index:literal)*) => {$(
            let bits = ends_name(cursor.word::<{ $index * 8 }>());
            if bits != 0 {
                return ($index, bits);
            }
        )*};
    }
    words!(0 1 2 3 4);
    (0, 0)
}

/// The kind of the field whose name begins at `begin`, if it is that of number `name` (from one)
/// or of one that is chained to it: `KIND_*`, above all of them if malformed.
#[inline(always)]
fn kind(scan: &mut Scan, rules: &Rules, begin: u32, name: u32) -> u32 {
    let cursor = scan.cursor(begin);
    let words = [
        cursor.word::<0>(),
        cursor.word::<8>(),
        cursor.word::<16>(),
        cursor.word::<24>(),
    ];
    let mut number = name;
    let mut tries = 0;
    while number != 0 && tries < MAX_NAMES {
        let slot = masked::<{ MAX_NAMES as i32 - 1 }>(u64::from(number - 1)) as usize;
        // SAFETY: the mask keeps it in the array.
        let Name {
            fold,
            mask,
            value,
            kind,
            next,
            ..
        } = unsafe { rules.names.get_unchecked(slot) };
        let differ = |i: usize| (dashed(words[i]) | fold[i]) & mask[i] ^ value[i];
        if differ(0) | differ(1) | differ(2) | differ(3) == 0 {
            // CGI makes one name of both spellings, other servers do not: of a key that is found
            // either way, but framing must be certain.
            let underscore = |i: usize| (dashed(words[i]) ^ words[i]) & mask[i];
            if (*kind == KIND_LENGTH || *kind == KIND_ENCODING)
                && underscore(0) | underscore(1) | underscore(2) != 0
            {
                return if rules.response != 0 {
                    KIND_NONE
                } else {
                    u32::MAX
                };
            }
            // Where the name has a `_`, and where it should: there `fold` has its bit and `value`
            // no letter's.
            let respelled = |i: usize| underscore(i) ^ (fold[i] & !(value[i] >> 1));
            if (respelled(0) | respelled(1) | respelled(2) | respelled(3)) & each(0x20) != 0 {
                scan.state.seen |= SEEN_RESPELLED;
            }
            return *kind;
        }
        number = *next;
        tries += 1;
    }
    KIND_NONE
}

/// A field that matters, in a line longer than the carry. True: an event. What is decided here
/// must follow from the line's first bytes, which are there however the line is split.
#[inline(always)]
pub(super) fn too_long(scan: &mut Scan, rules: &Rules, begin: u32) -> bool {
    if rules.response != 0 {
        scan.state.seen |= SEEN_UNCLEAR;
    } else if scan.kind == KIND_AUTHORIZATION {
        // Signatures, tickets and digests are long, and no key.
        let mut scheme = begin.wrapping_add(b"authorization:".len() as u32);
        if scan.byte(scheme) == b' ' {
            scheme += 1;
        }
        let word = scan.word(scheme);
        if (value::is_bearer(word) && rules.bearer_rank != NO_RANK)
            || (value::is_basic(word) && rules.basic_rank != NO_RANK)
            || word as u8 <= b' '
            || value::is_odd_scheme(word)
        {
            return malformed(scan);
        }
        if value::other_scheme(scan) {
            return true;
        }
    } else {
        return malformed(scan);
    }
    scan.state.mode = MODE_FIELD;
    false
}
