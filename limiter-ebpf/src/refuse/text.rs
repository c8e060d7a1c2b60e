//! The response of a refused connection: the daemon's text, with what was only known then.

use limiter_common::{
    abi::{MAX_TEXT, TOMB_HEAD, Text, TextKey, Tomb},
    digits,
};

use crate::{maps, work::Work};

/// Bytes of the response; `None` if the daemon has not prepared it.
#[inline(always)]
pub fn len(key: &TextKey, head: bool) -> Option<u32> {
    let text = maps::text(key)?;
    // SAFETY: a live map value.
    let len = unsafe { if head { (*text).head_len } else { (*text).len } };
    (len > 0 && len <= MAX_TEXT as u32).then_some(len)
}

/// Puts the response into `Work::reply`: how many bytes it has. `None` if there is none, or none
/// of the length that the tomb says.
#[inline(never)]
pub fn compose(work: *mut Work, tomb: &Tomb) -> Option<u32> {
    let len = len(&tomb.text, tomb.flags & TOMB_HEAD != 0)?;
    if tomb.response_end != tomb.response_start.plus(len + 1) {
        return None;
    }
    let text = maps::text(&tomb.text)?;
    // SAFETY: live map values, of which `work` is of this CPU alone. Both texts have MAX_TEXT + 8
    // bytes; `copy` and `fill` stay within.
    unsafe {
        let to = (&raw mut (*work).reply.text).cast::<u64>();
        copy(to, (&raw const (*text).bytes).cast(), len);
        fill(to, (*text).retry_after_at, tomb.retry_after, len);
        fill(to, (*text).reset_after_at, tomb.reset_after, len);
    }
    Some(len)
}

/// Copies `len` bytes (at most MAX_TEXT), and zeros up to MAX_TEXT.
///
/// # Safety
/// Both have MAX_TEXT + 8 bytes, aligned.
#[inline(always)]
unsafe fn copy(to: *mut u64, from: *const u64, len: u32) {
    let len = u64::from(len);
    for word in 0..MAX_TEXT / 8 {
        // SAFETY: the caller's promise. Volatile, or it becomes a call of memcpy, which goes by
        // bytes here.
        unsafe {
            let bytes = core::ptr::read_volatile(from.add(word));
            core::ptr::write_volatile(to.add(word), bytes & ones_below(word as u64 * 8, len));
        }
    }
    // The word that holds both.
    let (word, bits) = ((len as usize / 8) & (MAX_TEXT / 8 - 1), (len & 7) * 8);
    if bits > 0 {
        // SAFETY: the caller's promise; the first bytes of a word are its low ones.
        unsafe { *to.add(word) &= (1 << bits) - 1 };
    }
}

/// All ones if `at` is below `end` (both below 2^63), else zero, without a branch: the verifier
/// would follow both ways at each word.
#[inline(always)]
fn ones_below(at: u64, end: u64) -> u64 {
    let mut mask = at;
    // SAFETY: arithmetic on registers.
    unsafe {
        core::arch::asm!(
            "{0} -= {1}", "{0} s>>= 63",
            inout(reg) mask, in(reg) end, options(pure, nomem, nostack, preserves_flags)
        );
    }
    mask
}

/// Fills a number into its slot, if there is one and it is part of the response.
///
/// # Safety
/// `to` has MAX_TEXT + 8 bytes.
#[inline(always)]
unsafe fn fill(to: *mut u64, at: u32, number: u32, len: u32) {
    if at == 0 || at + digits::SLOT as u32 > len {
        return;
    }
    let at = at as usize & (MAX_TEXT - 1);
    // SAFETY: `at` is below MAX_TEXT, so the slot is within the caller's promise.
    unsafe {
        to.cast::<u8>()
            .add(at)
            .cast::<[u8; digits::SLOT]>()
            .write(digits::slot(number));
    };
}

const _: () = assert!(size_of::<Text>() == 16 + MAX_TEXT + digits::SLOT);
