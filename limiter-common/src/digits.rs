//! Numbers for the slots of prepared responses.

/// Bytes of a slot.
pub const SLOT: usize = 8;

/// The largest number that a slot holds: more than three years of seconds.
pub const MAX: u32 = 99_999_999;

const SPACES: u64 = u64::from_le_bytes([b' '; SLOT]);

/// A number in decimal, left-aligned, padded with spaces; [`MAX`] stands for anything larger.
#[inline(always)]
#[must_use]
pub const fn slot(number: u32) -> [u8; SLOT] {
    let mut rest = if number > MAX { MAX } else { number };
    // The last digit first: each that follows pushes those before it one byte on.
    let mut text = SPACES;
    let mut place = 0;
    while place < SLOT {
        text = text << 8 | (b'0' as u64 + (rest % 10) as u64);
        rest /= 10;
        if rest == 0 {
            break;
        }
        place += 1;
    }
    text.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slot_is_left_aligned_and_padded() {
        assert_eq!(&slot(0), b"0       ");
        assert_eq!(&slot(7), b"7       ");
        assert_eq!(&slot(86_399), b"86399   ");
        assert_eq!(&slot(10_000_000), b"10000000");
        assert_eq!(&slot(MAX), b"99999999");
    }

    #[test]
    fn what_does_not_fit_is_the_largest_that_does() {
        assert_eq!(slot(MAX + 1), slot(MAX));
        assert_eq!(slot(u32::MAX), slot(MAX));
    }

    proptest! {
        #[test]
        fn a_slot_says_its_number(number in 0..=MAX) {
            prop_assert_eq!(slot(number).to_vec(), format!("{number:<8}").into_bytes());
        }
    }
}
