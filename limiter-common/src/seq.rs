// SPDX-License-Identifier: MIT OR Apache-2.0

//! TCP sequence arithmetic (RFC 9293, section 3.4): 32-bit numbers that wrap.

/// A TCP sequence number.
///
/// Comparisons use the signed distance. Therefore they are correct for numbers that are less than
/// 2^31 apart. The type is deliberately not `Ord`, because sequence numbers have no total order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Seq {
    /// Returns the sequence number that is `bytes` later.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Returns the sequence number that is `bytes` earlier.
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// Returns the number of bytes from `other` to this number, which is negative if this number is
    /// before `other`.
    #[inline(always)]
    #[must_use]
    pub const fn since(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// Returns whether this number is before `other`.
    #[inline(always)]
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// Returns the later of the two numbers.
    #[inline(always)]
    #[must_use]
    pub const fn latest(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// Returns the earlier of the two numbers.
    #[inline(always)]
    #[must_use]
    pub const fn earliest(self, other: Self) -> Self {
        if self.before(other) { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::Seq;
    use proptest::prelude::*;

    #[test]
    fn order_survives_the_wrap() {
        let last = Seq(u32::MAX);
        assert!(last.before(last.plus(1)));
        assert_eq!(last.plus(1), Seq(0));
        assert_eq!(Seq(5).since(Seq(u32::MAX)), 6);
        assert_eq!(Seq(3).latest(Seq(u32::MAX)), Seq(3));
        assert_eq!(Seq(3).earliest(Seq(u32::MAX)), Seq(u32::MAX));
    }

    proptest! {
        #[test]
        fn distance_undoes_addition(start: u32, bytes in 0u32..0x7fff_ffff) {
            let seq = Seq(start);
            prop_assert_eq!(seq.plus(bytes).since(seq), bytes as i32);
            prop_assert_eq!(seq.plus(bytes).minus(bytes), seq);
            prop_assert_eq!(seq.before(seq.plus(bytes)), bytes > 0);
        }
    }
}
