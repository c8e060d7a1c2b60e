// SPDX-License-Identifier: MIT OR Apache-2.0

//! Values that are hashed word by word: those in a line that may end in a later window or segment,
//! and the credentials of `Basic`, whose user name may be a key of its own.
//!
//! A value that is too long for a key is hashed as well. Therefore two different long values are
//! two unknown keys, and the same value is always the same key.

use super::{
    CARRY, MODE_AFTER, MODE_END, MODE_FIELD, MODE_STREAM, Rules, Scan,
    rules::{KIND_BASIC, NO_RANK},
    segment::malformed,
    value::{is_blank, note},
    word::{
        copy, each, ends_value, equal, first, from_base64, has_not_visible, is_base64,
        is_blank as are_blank, low_bytes, zero,
    },
};
use crate::siphash;

/// The state of a value that is being read.
#[repr(C)]
pub(super) struct Stream {
    /// The hash of the bytes of the value that have been read.
    hash: siphash::State,
    /// The hash of the bytes of the user name that have been read, for `Basic`.
    user: siphash::State,
    /// The last bytes of the user name that have been read, if they do not fill a word yet.
    user_rest: u64,
    /// The number of bytes of the user name that have been read.
    user_length: u32,
    /// The number of bytes of the value that have been read.
    length: u32,
    /// The rank of the key, or `KIND_BASIC`.
    kind: u32,
    /// The number of base64 padding characters that have been read. If it is not 0, nothing may
    /// follow.
    padded: u32,
    /// 1 if the colon after the user name has been read.
    named: u32,
    /// Padding, zero.
    reserved: u32,
}

/// The number of words in a [`Stream`].
const WORDS: usize = size_of::<Stream>() / 8;

impl Stream {
    /// Loads the stream from the place where [`Stream::store`] put it, and clears that place.
    ///
    /// # Safety
    /// `carry` points to the carry of a parser in `MODE_STREAM`, or to a copy of that carry, and
    /// nothing else accesses it.
    #[inline(always)]
    pub(super) unsafe fn load(&mut self, carry: *mut u64) {
        // SAFETY: the carry is longer than a stream, and a stream consists of words.
        unsafe {
            copy::<WORDS>(carry, (&raw mut *self).cast());
            zero::<WORDS>(carry);
        }
    }

    /// Stores the stream at the beginning of the carry, of which only the last word may be in use.
    /// Clears this stream afterwards, because a hash of only a few bytes could reveal these bytes.
    #[inline(always)]
    pub(super) fn store(&mut self, carry: &mut [u64; CARRY / 8]) {
        // SAFETY: the carry is longer than a stream, and a stream consists of words.
        unsafe { copy::<WORDS>((&raw const *self).cast(), carry.as_mut_ptr()) };
        self.clear();
    }

    #[inline(always)]
    fn clear(&mut self) {
        // SAFETY: a stream consists of words.
        unsafe { zero::<WORDS>((&raw mut *self).cast()) };
    }
}

/// Begins to read the value at `Scan::value`, which must not be empty. `kind` is the rank of the
/// key, or [`KIND_BASIC`].
#[inline(always)]
pub(super) fn begin(scan: &mut Scan, rules: &Rules, kind: u32) {
    let stream = &mut scan.stream;
    stream.hash = siphash::State::new(rules.hash_key);
    stream.user = siphash::State::new(rules.hash_key);
    stream.user_rest = 0;
    stream.user_length = 0;
    stream.length = 0;
    stream.kind = kind;
    stream.padded = 0;
    stream.named = 0;
    scan.pos = scan.value;
    scan.state.mode = MODE_STREAM;
}

/// The number of bytes of a value that are read in one step if that many are available.
const STRIDE: u32 = 32;

/// Reads the next four words of the value if the window contains them and all of their bytes are
/// visible ASCII. Returns whether it has read them.
#[inline(always)]
fn stride(scan: &mut Scan) -> bool {
    let pos = scan.pos;
    let cursor = scan.cursor(pos);
    let words = [
        cursor.word::<0>(),
        cursor.word::<8>(),
        cursor.word::<16>(),
        cursor.word::<24>(),
    ];
    let odd =
        ends_value(words[0]) | ends_value(words[1]) | ends_value(words[2]) | ends_value(words[3]);
    let next = pos.wrapping_add(STRIDE);
    if odd != 0 || next >= scan.end {
        return false;
    }
    // Keys are secret, so the bytes that have been hashed are cleared in the buffer.
    scan.put(pos, 0);
    scan.put(pos.wrapping_add(8), 0);
    scan.put(pos.wrapping_add(16), 0);
    scan.put(pos.wrapping_add(24), 0);
    for word in words {
        scan.stream.hash.take(word);
    }
    scan.stream.length = scan.stream.length.wrapping_add(STRIDE);
    scan.pos = next;
    true
}

/// Reads the next word or the next four words of the value, or its end. Returns true if the window
/// has ended or an event has occurred.
#[inline(always)]
pub(super) fn step(scan: &mut Scan, rules: &Rules) -> bool {
    if scan.stream.kind != KIND_BASIC && stride(scan) {
        return false;
    }
    let pos = scan.pos;
    let left = u64::from(scan.end.wrapping_sub(pos));
    let mut word = scan.word(pos);
    let bits = ends_value(word);
    let length = if bits == 0 { 8 } else { first(bits) };
    // The window must contain one more byte. Only the byte after the value shows that the value has
    // ended, and `segment::end` stores the stream only if at least one byte is carried.
    if length >= left {
        return wait(scan, rules, pos);
    }
    if bits == 0 {
        scan.put(pos, 0);
        scan.stream.hash.take(word);
    } else {
        let last = word & low_bytes(length);
        scan.put(pos, word ^ last);
        scan.number = last;
        scan.state.mode = MODE_END;
        word = last;
    }
    scan.pos = pos.wrapping_add(length as u32);
    scan.stream.length = scan.stream.length.wrapping_add(length as u32);
    scan.progress = length as u32;
    scan.stream.kind == KIND_BASIC && basic(scan, rules, word)
}

/// Handles the end of the value, and notes its key. The last bytes of the value, which do not fill
/// a word, are in `Scan::number`. For `Basic`, the first call notes the user name as a key, and the
/// second call notes the credentials as a key.
#[inline(always)]
pub(super) fn end(scan: &mut Scan, rules: &Rules) -> bool {
    let stream = &mut scan.stream;
    let (hash, length, rest, rank);
    if stream.kind == KIND_BASIC {
        (hash, length, rest) = (stream.user, stream.user_length, stream.user_rest);
        rank = rules.user_rank;
        stream.kind = rules.basic_rank;
    } else {
        (hash, length, rest) = (stream.hash, stream.length, scan.number);
        rank = stream.kind;
        stream.clear();
        scan.number = 0;
        scan.state.mode = MODE_AFTER;
    }
    if length == 0 || rank >= NO_RANK {
        return false;
    }
    let digest = hash.finish(u64::from(length), rest);
    note(scan, rank, digest)
}

/// Decodes the next group of base64 digits. Each group has eight digits, except that the last group
/// of the value may have four or none. The last one or two digits of the value may be padding.
/// Returns true if the digits are malformed.
#[inline(always)]
fn basic(scan: &mut Scan, rules: &Rules, word: u64) -> bool {
    // SAFETY: the pointer is made from a reference. The length is read from memory so that the
    // verifier checks the following code only once, instead of once for each value that the length
    // can have.
    let length = u64::from(unsafe { (&raw const scan.progress).read_volatile() });
    if length == 0 {
        return false;
    }
    if length & 3 != 0 || length > 8 {
        return malformed(scan);
    }
    let padding = padding(word, length);
    let word = without_padding(word, length - padding);
    let decoded = from_base64(word);
    let bytes = (length >> 2) * 3 - padding;
    let stream = &mut scan.stream;
    if stream.padded != 0 || !is_base64(word) || !is_canonical(decoded, bytes) {
        return malformed(scan);
    }
    stream.padded = padding as u32;
    if rules.user_rank >= NO_RANK || stream.named != 0 {
        return false;
    }
    user_name(scan, decoded, bytes)
}

/// Returns the number of padding characters (0 to 2) at the end of the first `length` (8 or 4)
/// digits of `word`.
#[inline(always)]
pub(super) const fn padding(word: u64, length: u64) -> u64 {
    let group = equal(word, b'=') >> ((length - 4) * 8);
    (group >> 31 & 1) * (1 + (group >> 23 & 1))
}

/// Returns the first `digits` (2 to 8) base64 digits of `word`, followed by the digit for zero
/// (`A`).
#[inline(always)]
pub(super) const fn without_padding(word: u64, digits: u64) -> u64 {
    let keep = u64::MAX >> (64 - digits * 8);
    (word & keep) | (each(b'A') & !keep)
}

/// Returns whether all bits that the padding cuts off are zero, as they must be (RFC 4648, section
/// 3.5). Many servers accept other spellings of the same credentials, and each spelling would be
/// another key.
#[inline(always)]
pub(super) const fn is_canonical(decoded: u64, bytes: u64) -> bool {
    decoded >> (bytes * 8) == 0
}

/// Adds `bytes` decoded bytes (at most six) of `user:password` to the user name, up to the colon.
/// Returns true if one of the added bytes is malformed.
#[inline(always)]
fn user_name(scan: &mut Scan, decoded: u64, bytes: u64) -> bool {
    let stream = &mut scan.stream;
    // The bytes after the decoded ones are zero, so they contain no colon.
    let colons = equal(decoded, b':');
    let length = first(colons | 0x80 << (bytes * 8));
    let keep = low_bytes(length);
    let name = decoded & keep;
    if has_not_visible(name | (each(b'!') & !keep)) {
        // A key with such bytes is malformed in any source, because applications trim and split
        // values in many ways.
        return malformed(scan);
    }
    stream.named = ((colons | colons.wrapping_neg()) >> 63) as u32;
    let at = u64::from(stream.user_length & 7);
    let joined = stream.user_rest | name << (at * 8);
    stream.user_length = stream.user_length.wrapping_add(length as u32);
    if at + length < 8 {
        stream.user_rest = joined;
    } else {
        stream.user.take(joined);
        // At most six bytes are added. As they fill the word, `at` is at least 2, and the shift is
        // less than 64.
        stream.user_rest = name >> (64 - at * 8);
    }
    false
}

/// Reads the bytes after the value, which are blanks and the end of the line. Any other byte makes
/// the request malformed, because the value would then have a byte that a key cannot have.
#[inline(always)]
pub(super) fn after(scan: &mut Scan, rules: &Rules) -> bool {
    let pos = scan.pos;
    if pos >= scan.end {
        return wait(scan, rules, pos);
    }
    let found = scan.word(pos);
    let byte = found as u8;
    if is_blank(byte) {
        let many = pos.wrapping_add(8) <= scan.end && are_blank(found);
        scan.pos = pos.wrapping_add(if many { 8 } else { 1 });
        return false;
    }
    let mut next = pos.wrapping_add(1);
    if byte == b'\r' {
        if next >= scan.end {
            return wait(scan, rules, pos);
        }
        if found as u16 != super::line::CRLF {
            return malformed(scan);
        }
        next = next.wrapping_add(1);
    } else if byte != b'\n' {
        return malformed(scan);
    }
    scan.pos = next;
    scan.line = next;
    scan.state.mode = MODE_FIELD;
    scan.state.lines = scan.state.lines.wrapping_add(1);
    scan.state.lines > rules.max_lines && malformed(scan)
}

/// Handles a window that ends before the line does. The bytes from `hold` on must be read again.
#[inline(always)]
fn wait(scan: &mut Scan, rules: &Rules, hold: u32) -> bool {
    scan.hold = hold;
    scan.pos = scan.end;
    if scan.offset(scan.end).wrapping_sub(scan.message_at as u32) > rules.max_head {
        return malformed(scan);
    }
    true
}
