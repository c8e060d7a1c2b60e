// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Functions that give values a form that suits the verifier. Some make the bounds of a value
//! visible to the verifier. Others pass a value through memory, where the verifier loses track of
//! how the value was computed.

use core::mem::MaybeUninit;

/// Returns `len`, bounded to 1..=4096 (see [`bounded_to`]).
#[inline(always)]
pub fn bounded(len: u32) -> u32 {
    bounded_to::<4096>(len)
}

/// Returns `len` if it is in 1..=`MAX` (a power of two), and otherwise another number in this
/// range. In both cases the verifier knows the bounds of the result.
///
/// This is one block of assembly, because the verifier of Linux 6.1 learns nothing from a
/// comparison with zero, and because rustc might apply a mask that is written in Rust to another
/// copy of the value.
#[inline(always)]
pub fn bounded_to<const MAX: u64>(len: u32) -> u32 {
    const { assert!(MAX.is_power_of_two()) };
    let mut len = u64::from(len);
    // SAFETY: the code only computes in a register.
    unsafe {
        core::arch::asm!(
            "{0} += -1", "{0} &= {mask}", "{0} += 1",
            inout(reg) len, mask = const MAX - 1, options(nomem, nostack, preserves_flags)
        );
    }
    len as u32
}

/// Returns the bits of a number that are in `MASK`, in a form from which the verifier knows the
/// bound. If the mask were written in Rust, rustc might apply it to another copy of the value.
#[inline(always)]
pub fn masked<const MASK: u64>(number: u32) -> usize {
    let mut bits = u64::from(number);
    // SAFETY: the code only computes in a register.
    unsafe {
        core::arch::asm!(
            "{0} &= {mask}",
            inout(reg) bits, mask = const MASK, options(nomem, nostack, preserves_flags)
        );
    }
    bits as usize
}

/// Returns the entry of `ring` for `number`. `MASK` is the length of the ring minus one.
#[inline(always)]
pub fn place<const MASK: u64, T, const LEN: usize>(ring: &mut [T; LEN], number: u32) -> &mut T {
    const { assert!(LEN.is_power_of_two() && MASK == LEN as u64 - 1) };
    // SAFETY: the mask keeps the index below the length.
    unsafe { ring.get_unchecked_mut(masked::<MASK>(number)) }
}

/// Reads a value from memory, after which the verifier does not know the value. If the value came
/// from a register, the verifier would know it for each path to this point, and would check the
/// rest of the program once for each path on which it differs.
#[inline(always)]
pub fn reread<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(value) }
}

/// Writes a value to memory. The compiler must not delay or omit this write.
#[inline(always)]
pub fn write_through<T: Copy>(place: &mut T, value: T) {
    // SAFETY: a mutable reference is valid for writes.
    unsafe { core::ptr::write_volatile(place, value) };
}

/// Fills `buffer` with zeros, and returns it. LLVM would turn an ordinary array of zeros into a
/// call that works byte by byte.
#[inline(always)]
pub fn zeros<const WORDS: usize>(buffer: &mut MaybeUninit<[u64; WORDS]>) -> &mut [u64; WORDS] {
    let first = buffer.as_mut_ptr().cast::<u64>();
    // SAFETY: the buffer has room for the words, and all of them are written.
    unsafe {
        for word in 0..WORDS {
            first.add(word).write_volatile(0);
        }
        buffer.assume_init_mut()
    }
}

/// Returns a word with all bits set if `at` is below `end` (both below 2^63), or else zero. The
/// code has no branch, because the verifier would check both sides of a branch for each word.
#[inline(always)]
pub fn ones_below(at: u64, end: u64) -> u64 {
    let mut mask = at;
    // SAFETY: the code only computes in registers.
    unsafe {
        core::arch::asm!(
            "{0} -= {1}", "{0} s>>= 63",
            inout(reg) mask, in(reg) end, options(pure, nomem, nostack, preserves_flags)
        );
    }
    mask
}

/// Copies a value word by word. An assignment may become a call that works byte by byte.
///
/// # Safety
/// `from` is valid for reads, and its type consists of words without padding.
#[inline(always)]
pub(super) unsafe fn copy_words<T>(to: &mut T, from: *const T) {
    const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4) };
    let (to, from) = ((&raw mut *to).cast::<u32>(), from.cast::<u32>());
    for word in 0..size_of::<T>() / 4 {
        // SAFETY: `word` is less than the number of words in `T`. `from` is valid for reads, as the
        // caller guarantees.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}
