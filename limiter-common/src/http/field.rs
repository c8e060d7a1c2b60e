// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the name of a field, and finds out whether the name is valid and whether the field
//! matters.

use super::{
    CARRY, MAX_NAME, MAX_NAMES, MODE_NAME, MODE_SKIP, MODE_TRIM, MODE_VALUE, Rules,
    SEEN_CONNECTION, SEEN_CONNECTIONS, SEEN_ORIGIN, SEEN_RESPELLED, SEEN_TRAILERS, SEEN_UNCLEAR,
    Scan,
    line::{CRLF, Outcome, blank},
    rules::{
        INDEX, KIND_CONNECTION, KIND_ENCODING, KIND_EXPECT, KIND_NONE, KIND_ORIGIN, KIND_UPGRADE,
        Name,
    },
    segment::malformed,
    word::{Cursor, alphanumeric, ends_name, first, masked},
};

/// The number of bytes that are searched at once. This is enough for the longest name that can
/// matter and its colon.
const STEP: u32 = 40;
const _: () = assert!(MAX_NAME < STEP as usize);

/// Looks for the colon of the field line that begins at `begin`.
///
/// Every name is checked, not only the names that matter, because servers disagree on lines that
/// are not fields: Python's http.server treats the first such line as the end of the head, and
/// nginx ignores such lines.
#[inline(always)]
pub(super) fn name(scan: &mut Scan, rules: &Rules, begin: u32) -> Outcome {
    let (words, bits) = end_of_name(scan.cursor(begin));
    if bits == 0 {
        if begin.wrapping_add(STEP) > scan.end {
            return Outcome::Nothing;
        }
        scan.pos = begin.wrapping_add(STEP);
        scan.state.mode = MODE_NAME;
        return Outcome::Stop(false);
    }
    let length = words * 8 + first(bits);
    let stop = begin.wrapping_add(length as u32);
    if stop >= scan.end {
        return Outcome::Nothing;
    }
    if scan.byte(stop) != b':' || length == 0 {
        return no_name(scan, rules, stop, length);
    }
    // The search for the end of the line starts at the word with the colon instead of the colon
    // itself. This allows the processor to search for the end, and to start with the next line,
    // before it knows the position of the colon.
    let from = begin.wrapping_add((words * 8) as u32);
    if length > MAX_NAME as u64 {
        return Outcome::Mode(MODE_SKIP, from);
    }
    let name = number(scan, rules, begin, length);
    if name == 0 {
        return Outcome::Mode(MODE_SKIP, from);
    }
    let kind = kind(scan, rules, begin, u32::from(name));
    let trailer = scan.state.seen & SEEN_TRAILERS != 0;
    // A trailer that can hold a key is malformed, because some servers merge trailers with the
    // fields of the head, where an application could find the key.
    if kind > KIND_CONNECTION || (trailer && kind < KIND_NONE) {
        return Outcome::Stop(malformed(scan));
    }
    if kind == KIND_NONE || trailer {
        return Outcome::Mode(MODE_SKIP, from);
    }
    if kind >= KIND_ORIGIN {
        note_presence(scan, kind, stop + 1);
        return Outcome::Mode(MODE_SKIP, from);
    }
    scan.kind = kind;
    scan.value = stop + 1;
    Outcome::Mode(MODE_VALUE, from)
}

/// Notes that a field was seen for which only that matters. Its value begins at the position
/// `value`.
#[inline(always)]
fn note_presence(scan: &mut Scan, kind: u32, value: u32) {
    if kind == KIND_CONNECTION {
        // A line that does not end in its window is read again with the next one.
        let at = scan.offset(value);
        if scan.state.seen & SEEN_CONNECTION != 0 && scan.connection != at {
            scan.state.seen |= SEEN_CONNECTIONS;
        }
        scan.connection = at;
    }
    scan.state.seen |= SEEN_ORIGIN << (kind - KIND_ORIGIN);
}

/// Returns the position from which to look for the end of the line at `begin`, if the value of this
/// line does not matter and the window contains its name and colon. Otherwise returns `None`.
#[inline(always)]
pub(super) fn irrelevant(scan: &mut Scan, rules: &Rules, begin: u32) -> Option<u32> {
    let (words, bits) = end_of_name(scan.cursor(begin));
    let length = words * 8 + first(bits);
    let stop = begin.wrapping_add(length as u32);
    if bits == 0
        || stop >= scan.end
        || scan.byte(stop) != b':'
        || length == 0
        || length > MAX_NAME as u64
    {
        return None;
    }
    let name = number(scan, rules, begin, length);
    if name != 0 && !is_noted(scan, rules, begin, name, stop + 1) {
        return None;
    }
    Some(begin.wrapping_add((words * 8) as u32))
}

/// Notes the presence of the field whose name begins at `begin`, if it is `Connection` or `Expect`,
/// which many requests have. Returns whether it is. `number` is the number of the first configured
/// name in the entry of the index, and only this name is compared. The value of the field begins at
/// the position `value`.
#[inline(always)]
fn is_noted(scan: &mut Scan, rules: &Rules, begin: u32, number: u8, value: u32) -> bool {
    let cursor = scan.cursor(begin);
    let words = [cursor.word::<0>(), cursor.word::<8>()];
    let slot = masked::<{ MAX_NAMES as i32 - 1 }>(u64::from(number - 1)) as usize;
    // SAFETY: the mask keeps the index in the array.
    let name = unsafe { rules.names.get_unchecked(slot) };
    // Both names have letters only, and at most 16 bytes.
    let differ = |i: usize| ((words[i] | name.fold[i]) ^ name.value[i]) & name.letters[i];
    if name.kind < KIND_EXPECT || differ(0) | differ(1) != 0 {
        return false;
    }
    note_presence(scan, name.kind, value);
    true
}

/// Looks up the index entry for the name of `length` bytes at `begin`. Returns the number (counted
/// from one) of the first configured name in this entry, or 0 if the entry has none.
#[inline(always)]
fn number(scan: &Scan, rules: &Rules, begin: u32, length: u64) -> u8 {
    let index = (length - 1) << 5 | (scan.word(begin) & 31);
    let index = masked::<{ INDEX as i32 - 1 }>(index) as usize;
    // SAFETY: the mask keeps the index in the array.
    unsafe { *rules.index.get_unchecked(index) }
}

/// Handles a line without a valid name. The line is either the empty line after the fields or an
/// invalid line. An invalid line is skipped in a response, and makes a request malformed.
#[inline(always)]
fn no_name(scan: &mut Scan, rules: &Rules, stop: u32, length: u64) -> Outcome {
    let found = scan.word(stop);
    let byte = found as u8;
    if length == 0 && byte == b'\r' {
        if stop + 1 >= scan.end {
            return Outcome::Nothing;
        }
        if found as u16 == CRLF {
            return Outcome::Stop(blank(scan, rules, stop + 2));
        }
    }
    let lone = length == 0 && byte == b'\n';
    if lone && (rules.response != 0 || scan.state.seen & SEEN_TRAILERS == 0) {
        return Outcome::Stop(blank(scan, rules, stop + 1));
    }
    if rules.response != 0 {
        return Outcome::Mode(MODE_SKIP, stop);
    }
    Outcome::Stop(malformed(scan))
}

/// Looks for the colon of a name that is too long to matter.
#[inline(always)]
pub(super) fn rest_of_name(scan: &mut Scan, rules: &Rules, pos: u32) -> Outcome {
    let bits = ends_name(scan.word(pos));
    if bits == 0 {
        if pos.wrapping_add(8) > scan.end {
            return Outcome::Nothing;
        }
        scan.pos = pos.wrapping_add(8);
        return Outcome::Stop(false);
    }
    let stop = pos.wrapping_add(first(bits) as u32);
    if stop >= scan.end {
        return Outcome::Nothing;
    }
    if scan.byte(stop) == b':' || rules.response != 0 {
        return Outcome::Mode(MODE_SKIP, stop);
    }
    Outcome::Stop(malformed(scan))
}

/// Searches the next five words for a byte that ends a name. Returns the index of the first word
/// with such a byte, and the result of [`ends_name`] for this word. Both numbers are 0 if there is
/// no such byte.
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

/// The maximum number of names in one entry of the index: four header fields for keys and one other
/// name, rounded up.
const MAX_CHAIN: u32 = 8;

/// Returns the kind (`KIND_*`) of the field whose name begins at `begin`. The name is compared with
/// the configured name number `name` (counted from one), and with all names that follow in the same
/// entry of the index. A result above `KIND_REQUEST_METHOD`, the last of the kinds, means that the
/// field is malformed.
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
    while number != 0 && tries < MAX_CHAIN {
        let slot = masked::<{ MAX_NAMES as i32 - 1 }>(u64::from(number - 1)) as usize;
        // SAFETY: the mask keeps the index in the array.
        let Name {
            fold,
            letters,
            others,
            value,
            kind,
            next,
        } = unsafe { rules.names.get_unchecked(slot) };
        let differ = |i: usize| ((words[i] | fold[i]) ^ value[i]) & letters[i];
        if differ(0) | differ(1) | differ(2) | differ(3) == 0 {
            let other = |i: usize| (words[i] ^ value[i]) & others[i];
            if other(0) | other(1) | other(2) | other(3) == 0 {
                return *kind;
            }
            // CGI and similar interfaces turn two names into the same name if they differ only in
            // bytes other than letters and digits.
            let another = |i: usize| alphanumeric(words[i]) & others[i];
            if another(0) | another(1) | another(2) | another(3) == 0 {
                return respelled(scan, rules, *kind);
            }
        }
        number = *next;
        tries += 1;
    }
    KIND_NONE
}

/// Returns the kind of a field whose name is another spelling of a configured name with the kind
/// `kind`. Only some servers recognise the other spelling. A key in such a field still counts. If
/// the field affects framing, a request is malformed, because servers would disagree on where it
/// ends, and a response is read as if it did not have the field.
#[inline(always)]
fn respelled(scan: &mut Scan, rules: &Rules, kind: u32) -> u32 {
    if kind < KIND_NONE {
        scan.state.seen |= SEEN_RESPELLED;
        kind
    } else if rules.response != 0 || kind > KIND_ENCODING {
        KIND_NONE
    } else {
        u32::MAX
    }
}

/// Handles a field that matters and whose line is longer than the carry. Returns true if an event
/// has occurred.
///
/// In a response, the line is skipped. A request is malformed if the field cannot hold a key.
/// Otherwise the value of the field is trimmed as if the value ended after the first [`CARRY`]
/// bytes of the line, because these bytes are available regardless of how the line is split into
/// segments. After that, the value is read word by word.
#[inline(always)]
pub(super) fn too_long(scan: &mut Scan, rules: &Rules, begin: u32) -> bool {
    scan.pos = scan.value;
    if rules.response != 0 {
        if scan.kind != KIND_UPGRADE {
            scan.state.seen |= SEEN_UNCLEAR;
        }
        scan.state.mode = MODE_SKIP;
        return false;
    }
    if scan.kind > KIND_NONE {
        return malformed(scan);
    }
    scan.value_end = begin.wrapping_add(CARRY as u32);
    scan.state.mode = MODE_TRIM;
    false
}
