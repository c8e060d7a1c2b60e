//! TCP sequence arithmetic (RFC 9293, section 3.4): 32-bit numbers that wrap.

/// A TCP sequence number.
///
/// Comparisons are by signed distance, so they hold for numbers less than 2^31 apart. The type is
/// deliberately not `Ord`: sequence numbers have no total order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `bytes` further on.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// The number `bytes` before.
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// How many bytes this number lies after `other`; negative if it lies before.
    #[inline(always)]
    #[must_use]
    pub const fn since(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// Whether this number lies strictly before `other`.
    #[inline(always)]
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// The later of the two.
    #[inline(always)]
    #[must_use]
    pub const fn latest(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of the two.
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
