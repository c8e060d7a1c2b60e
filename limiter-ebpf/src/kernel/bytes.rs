// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Functions that copy the text of a response and fill numbers into it, in a form in which the
//! verifier sees that all accesses are within the buffer.

use limiter_common::{
    abi::{MAX_TEXT, Text},
    digits,
};

use crate::kernel::verifier::{ones_below, reread, write_through};

/// The number of 64-bit words in the buffer for a text, including the spare room after the text.
pub const WORDS: usize = MAX_TEXT / 8 + 1;

/// Copies the first `len` bytes of `text` to `to` (`len` is at most MAX_TEXT), and fills the
/// remaining bytes of `to` up to MAX_TEXT with zeros.
#[inline(always)]
pub fn copy(to: &mut [u64; WORDS], text: &Text, len: u32) {
    let from = (&raw const text.bytes).cast::<u64>();
    let len = u64::from(len);
    for (word, to) in to.iter_mut().take(MAX_TEXT / 8).enumerate() {
        // SAFETY: the text has at least MAX_TEXT bytes and is aligned, as is asserted below. A
        // plain copy would become a call to memcpy, which works byte by byte here.
        let bytes = reread(unsafe { &*from.add(word) });
        write_through(to, bytes & ones_below(word as u64 * 8, len));
    }
    // This is the word that contains both bytes of the text and zeros.
    let (word, bits) = ((len as usize / 8) & (MAX_TEXT / 8 - 1), (len & 7) * 8);
    if bits > 0 {
        // SAFETY: the mask keeps the index below the length. The first bytes of a word are its low
        // bytes.
        unsafe { *to.get_unchecked_mut(word) &= (1 << bits) - 1 };
    }
}

/// Writes `number` at byte `at` of the text in `to`. Does nothing if `at` is 0, which means that
/// the text does not contain this number, or if the number would end after the first `len` bytes.
#[inline(always)]
pub fn fill(to: &mut [u64; WORDS], at: u32, number: u32, len: u32) {
    if at == 0 || at + digits::SLOT as u32 > len {
        return;
    }
    let at = at as usize & (MAX_TEXT - 1);
    let to = (&raw mut *to).cast::<u8>();
    // SAFETY: `at` is below MAX_TEXT, and the buffer has room for one more number after MAX_TEXT
    // bytes.
    unsafe {
        to.add(at)
            .cast::<[u8; digits::SLOT]>()
            .write(digits::slot(number));
    };
}

/// Replaces the value `keep-alive` at byte `at` of the text in `to` by `close`. Does nothing if
/// `at` is 0, which means that the text does not contain this value.
#[inline(always)]
pub fn close(to: &mut [u64; WORDS], at: u32) {
    const CLOSE: [u8; 10] = *b"     close";
    if at == 0 || at as usize > MAX_TEXT - CLOSE.len() {
        return;
    }
    let at = at as usize & (MAX_TEXT - 1);
    if at > MAX_TEXT - CLOSE.len() {
        return;
    }
    let to = (&raw mut *to).cast::<u8>();
    // SAFETY: `at` has just been checked, and the buffer has MAX_TEXT bytes.
    unsafe { to.add(at).cast::<[u8; CLOSE.len()]>().write(CLOSE) };
}

const _: () = assert!(
    size_of::<Text>() == 24 + MAX_TEXT + digits::SLOT
        && core::mem::offset_of!(Text, bytes).is_multiple_of(8)
        && digits::SLOT == 8
);
