// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Types that consist of plain bytes, and can therefore be loaded from a packet and written to a
//! packet.

/// A type without padding for which every bit pattern is valid.
///
/// # Safety
/// The type has no padding, and every bit pattern is a valid value of it.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer has no padding, and every bit pattern is valid.
unsafe impl Plain for u8 {}
// SAFETY: an integer has no padding, and every bit pattern is valid.
unsafe impl Plain for u16 {}
// SAFETY: an integer has no padding, and every bit pattern is valid.
unsafe impl Plain for u32 {}
// SAFETY: an integer has no padding, and every bit pattern is valid.
unsafe impl Plain for u64 {}
// SAFETY: an array adds no padding.
unsafe impl<T: Plain, const LEN: usize> Plain for [T; LEN] {}
