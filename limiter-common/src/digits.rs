// SPDX-License-Identifier: MIT OR Apache-2.0

//! Formats the decimal numbers that are written into prepared responses. A response has a slot of a
//! fixed size for each of these numbers.

/// The size of a slot in bytes.
pub const SLOT: usize = 8;

/// The largest number that fits in a slot. As a number of seconds, it is more than three years.
pub const MAX: u32 = 99_999_999;

const SPACES: u64 = u64::from_le_bytes([b' '; SLOT]);

/// Returns `number` in decimal digits, left-aligned and padded with spaces. A number larger than
/// [`MAX`] is written as [`MAX`].
#[inline(always)]
#[must_use]
pub const fn slot(number: u32) -> [u8; SLOT] {
    let mut rest = if number > MAX { MAX } else { number };
    // The digits are added from the last to the first. Each step moves the digits that are already
    // in `text` by one byte.
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
    fn a_number_that_does_not_fit_becomes_the_largest_one() {
        assert_eq!(slot(MAX + 1), slot(MAX));
        assert_eq!(slot(u32::MAX), slot(MAX));
    }

    proptest! {
        #[test]
        fn a_slot_has_its_number(number in 0..=MAX) {
            prop_assert_eq!(slot(number).to_vec(), format!("{number:<8}").into_bytes());
        }
    }
}
