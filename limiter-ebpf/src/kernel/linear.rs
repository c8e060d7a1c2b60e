// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Access to the headers in the linear part of a packet, without copies of the headers.
//!
//! An operation that changes the packet makes pointers to its headers stale. The compiler does not
//! know that, but the verifier does, and rejects a program that reads through a stale pointer.

use crate::kernel::skb::Skb;

/// The linear part of a packet.
#[derive(Clone, Copy)]
pub struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    #[inline(always)]
    pub fn of(skb: Skb) -> Self {
        Self {
            start: skb.start(),
            end: skb.end(),
        }
    }

    /// Returns the `LEN` bytes at `offset`, or `None` if they are not all in the linear part.
    #[inline(always)]
    pub fn header<const LEN: u32>(self, offset: u32) -> Option<Header<LEN>> {
        let at = self.start + offset as usize;
        if at + LEN as usize > self.end {
            None
        } else {
            Some(Header(at as *const u8))
        }
    }
}

/// A header in the packet, of which at least the first `LEN` bytes are in the linear part.
///
/// Fields are loaded in assembly, because headers are not aligned. The kernel allows unaligned
/// loads if the CPU does, but rustc compiles an unaligned read to one load for each byte.
#[derive(Clone, Copy)]
pub struct Header<const LEN: u32>(*const u8);

impl<const LEN: u32> Header<LEN> {
    #[inline(always)]
    pub fn byte<const AT: usize>(self) -> u32 {
        const { assert!(AT < LEN as usize) };
        // SAFETY: `Linear::header` has checked that the header ends within the linear part.
        unsafe { u32::from(*self.0.add(AT)) }
    }

    /// Returns the two bytes at `AT`, in network byte order.
    #[inline(always)]
    pub fn half<const AT: usize>(self) -> u16 {
        const { assert!(AT + 2 <= LEN as usize) };
        let mut value: u64;
        // SAFETY: `Linear::header` has checked that the header ends within the linear part.
        unsafe {
            core::arch::asm!(
                "{value} = *(u16 *)({header} + {at})",
                value = lateout(reg) value, header = in(reg) self.0, at = const AT,
                options(readonly, nostack, preserves_flags)
            );
        }
        value as u16
    }

    /// Returns the four bytes at `AT`, in network byte order.
    #[inline(always)]
    pub fn word<const AT: usize>(self) -> u32 {
        const { assert!(AT + 4 <= LEN as usize) };
        let mut value: u64;
        // SAFETY: `Linear::header` has checked that the header ends within the linear part.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({header} + {at})",
                value = lateout(reg) value, header = in(reg) self.0, at = const AT,
                options(readonly, nostack, preserves_flags)
            );
        }
        value as u32
    }
}
