// SPDX-License-Identifier: MIT OR Apache-2.0

//! Operations on eight bytes at once, in forms that LLVM does not change and the kernel's verifier
//! understands.
//!
//! On BPF the loads and the masks are inline assembly. An unaligned load that is written in Rust
//! becomes eight one-byte loads. A mask that is written in Rust is dropped, or applied to another
//! copy of the value, if LLVM can prove that it is not needed. LLVM can prove this from facts that
//! the verifier does not know.

use super::Scan;

/// A word with 1 in each byte.
const ONES: u64 = 0x0101_0101_0101_0101;
/// A word with the highest bit of each byte set.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The mask for positions in the buffer: the smallest number of the form 2^n - 1 that is at least
/// as large as every position.
pub(super) const POSITIONS: usize = 8191;
/// The number of bytes of the buffer that follow the highest masked position. They leave room for
/// the longest key and a word after this position.
pub(super) const REACH: usize = 256;

/// Returns a word with `byte` in each byte.
pub(super) const fn each(byte: u8) -> u64 {
    ONES * byte as u64
}

/// Returns a word with a bit for each byte that is a control character (below 0x20) or above 0x9f.
/// Only the lowest set bit is reliable, because the subtraction for such a byte borrows from the
/// next byte.
#[inline(always)]
pub(super) const fn control(word: u64) -> u64 {
    word.wrapping_sub(each(0x20)) & HIGH
}

/// Returns a word with a bit for each byte that ends a field name: a colon, or a byte that a name
/// cannot have (below 0x21 or above 0x7e). Only the lowest set bit is reliable.
#[inline(always)]
pub(super) const fn ends_name(word: u64) -> u64 {
    // A colon becomes 0xff. For any other byte, the highest bit of the result is set only if the
    // highest bit of the byte was set, and such a byte ends a name too.
    let colon = (word ^ each(b':')).wrapping_sub(ONES);
    (colon | not_visible(word)) & HIGH
}

/// Returns a word with the highest bit set in each byte that is not visible ASCII (0x21 to 0x7e).
/// The other bits are undefined. The result shows reliably whether there is such a byte, and which
/// of these bytes is the lowest.
#[inline(always)]
const fn not_visible(word: u64) -> u64 {
    // The first term covers bytes below 0x21 and above 0xa0, and the second term covers 0x7f to
    // 0xfe.
    word.wrapping_sub(each(0x21)) | word.wrapping_add(ONES)
}

/// Returns whether one of the bytes is not visible ASCII.
#[inline(always)]
pub(super) const fn has_not_visible(word: u64) -> bool {
    ends_value(word) != 0
}

/// Returns a word with a bit for each byte that is not visible ASCII. Only the lowest set bit is
/// reliable.
#[inline(always)]
pub(super) const fn ends_value(word: u64) -> u64 {
    not_visible(word) & HIGH
}

/// Returns the index of the lowest byte whose highest bit is set. All other bits must be zero. BPF
/// has no instruction that counts trailing zeros.
#[inline(always)]
pub(super) const fn first(bits: u64) -> u64 {
    ((bits & bits.wrapping_neg()) >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56
}

/// Returns a mask for the lowest `bytes` (0 to 7) bytes.
#[inline(always)]
pub(super) const fn low_bytes(bytes: u64) -> u64 {
    (1 << (bytes * 8)) - 1
}

/// Returns a word with the highest bit set in each byte that equals `byte`. The result is exact in
/// every byte.
#[inline(always)]
pub(super) const fn equal(word: u64, byte: u8) -> u64 {
    let x = word ^ each(byte);
    // Adding 0x7f to seven bits cannot carry into the next byte.
    !((x & !HIGH).wrapping_add(!HIGH) | x) & HIGH
}

/// Returns a word with the highest bit set in each byte whose value is from `low` to `high`. The
/// result is exact in every byte.
#[inline(always)]
const fn range(word: u64, low: u8, high: u8) -> u64 {
    let seven = word & !HIGH;
    // The bytes are below 0x80, so no addition carries into the next byte.
    let within = seven.wrapping_add(each(0x80 - low)) & !seven.wrapping_add(each(0x7f - high));
    within & !word & HIGH
}

/// Returns a word with the highest bit set in each byte that is an ASCII letter or digit. The
/// result is exact in every byte.
#[inline(always)]
pub(super) const fn alphanumeric(word: u64) -> u64 {
    range(word | each(0x20), b'a', b'z') | range(word, b'0', b'9')
}

/// Returns whether all bytes are spaces or tabs.
#[inline(always)]
pub(super) const fn is_blank(word: u64) -> bool {
    equal(word, b' ') | equal(word, b'\t') == HIGH
}

/// Returns whether one of the bytes is a control character other than a tab.
#[inline(always)]
pub(super) const fn has_control(word: u64) -> bool {
    // The highest bit is set in each byte that is 0x20 or above.
    let above = (word & !HIGH).wrapping_add(each(0x60)) | word;
    !above & HIGH & !equal(word, b'\t') != 0
}

/// Returns whether all bytes belong to the base64 alphabet (RFC 4648, section 4).
#[inline(always)]
pub(super) const fn is_base64(word: u64) -> bool {
    alphanumeric(word) | equal(word, b'+') | equal(word, b'/') == HIGH
}

/// Returns the six bytes that eight base64 digits encode, with the first byte lowest.
#[inline(always)]
pub(super) const fn from_base64(word: u64) -> u64 {
    const PAIRS: u64 = 0x00ff_00ff_00ff_00ff;
    const FOURS: u64 = 0x0000_ffff_0000_ffff;
    // For each kind of byte, `add` has the number that must be added, modulo 64, to the lower six
    // bits of the byte to get the value of the digit.
    let add = (range(word, b'A', b'Z') >> 7).wrapping_mul(63)
        | (range(word, b'a', b'z') >> 7).wrapping_mul(57)
        | (range(word, b'0', b'9') >> 7).wrapping_mul(4)
        | (equal(word, b'+') >> 7).wrapping_mul(19)
        | (equal(word, b'/') >> 7).wrapping_mul(16);
    let six = (word & each(0x3f)).wrapping_add(add) & each(0x3f);
    let twelve = (six & PAIRS) << 6 | six >> 8 & PAIRS;
    let twenty_four = (twelve & FOURS) << 12 | twelve >> 16 & FOURS;
    // The first byte is in the highest bits of each number.
    ((twenty_four & 0xff_ffff) << 40 | twenty_four >> 32 << 16).swap_bytes()
}

/// Returns the first eight bytes of `text` as the word that a load of these bytes returns. A
/// shorter text is padded with zeros.
pub(super) const fn text(text: &[u8]) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < text.len() && i < 8 {
        word |= (text[i] as u64) << (8 * i);
        i += 1;
    }
    word
}

/// Returns a word with a bit for each byte that is a space. Only the lowest set bit is reliable.
#[inline(always)]
pub(super) const fn spaces(word: u64) -> u64 {
    let x = word ^ each(b' ');
    x.wrapping_sub(ONES) & !x & HIGH
}

/// Returns `value` unchanged, but hides from LLVM how it was computed. Otherwise LLVM could remove
/// a later comparison that the verifier needs.
#[inline(always)]
pub(super) fn hide(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: the instruction copies a register onto itself. (A barrier without an instruction
        // would leave a line_info entry that refers to no instruction, which the kernel does not
        // accept.)
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        value
    }
}

/// Returns `bytes`, which must be in the range from 1 to [`super::WINDOW`], in a form in which the
/// verifier knows this range.
///
/// The instructions are in one block and no comparison is used, because the verifier of Linux 6.1
/// learns nothing from a comparison with zero. If the argument is outside the range, the result is
/// some other number within the range.
#[inline(always)]
pub(super) fn window(bytes: u64) -> u64 {
    const { assert!(super::WINDOW == 4096) };
    #[cfg(target_arch = "bpf")]
    {
        let mut bytes = bytes;
        // SAFETY: the instructions change only a register.
        unsafe {
            core::arch::asm!(
                "{0} += -1",
                "{0} &= 4095",
                "{0} += 1",
                inout(reg) bytes,
                options(pure, nomem, nostack)
            );
        }
        bytes
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (bytes.wrapping_sub(1) & 4095) + 1
    }
}

/// Returns `value & MASK`, in a form in which LLVM cannot drop the mask or apply it to another copy
/// of the value.
#[inline(always)]
pub(super) fn masked<const MASK: i32>(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: the instructions change only a register.
        unsafe {
            core::arch::asm!(
                "{0} &= {mask}",
                inout(reg) value,
                mask = const MASK,
                options(pure, nomem, nostack)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        value & MASK as u64
    }
}

/// Copies `COUNT` words.
///
/// The accesses are volatile, because LLVM turns a run of plain loads and stores into calls to
/// memcpy and memset, which work byte by byte on BPF.
///
/// # Safety
/// `COUNT` words can be read at `from` and written at `to`, and the two do not overlap.
#[inline(always)]
pub(super) unsafe fn copy<const COUNT: usize>(from: *const u64, to: *mut u64) {
    let mut i = 0;
    while i < COUNT {
        // SAFETY: the caller guarantees this.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

/// Zeroes `COUNT` words. The accesses are volatile for the same reason as in [`copy`].
///
/// # Safety
/// `COUNT` words can be written at `to`.
#[inline(always)]
pub(super) unsafe fn zero<const COUNT: usize>(to: *mut u64) {
    let mut i = 0;
    while i < COUNT {
        // SAFETY: the caller guarantees this.
        unsafe { to.add(i).write_volatile(0) };
        i += 1;
    }
}

/// A place in the buffer of a [`Scan`].
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    at: *const u8,
    scan: core::marker::PhantomData<&'a Scan>,
}

impl Cursor<'_> {
    /// Returns the eight bytes that begin `OFFSET` bytes after the cursor, with the first byte in
    /// the lowest bits.
    #[inline(always)]
    pub(super) fn word<const OFFSET: usize>(self) -> u64 {
        const { assert!(OFFSET + 8 <= REACH) };
        // SAFETY: `at` points to one of the first POSITIONS + 1 bytes of the buffer, and REACH more
        // bytes follow these.
        unsafe { load::<OFFSET>(self.at) }
    }
}

/// Loads the eight bytes that begin `OFFSET` bytes after `from`.
///
/// # Safety
/// These bytes can be read.
#[inline(always)]
unsafe fn load<const OFFSET: usize>(from: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: the caller guarantees this.
        unsafe {
            core::arch::asm!(
                "{word} = *(u64 *)({from} + {offset})",
                word = lateout(reg) word,
                from = in(reg) from,
                offset = const OFFSET,
                options(pure, readonly, nostack)
            );
        }
        word
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: the caller guarantees this.
        u64::from_le(unsafe { from.add(OFFSET).cast::<u64>().read_unaligned() })
    }
}

impl Scan {
    /// Returns a cursor at `position`.
    #[inline(always)]
    pub(super) fn cursor(&self, position: u32) -> Cursor<'_> {
        const { assert!(size_of_val(&Scan::BUFFER) == POSITIONS + 1 + REACH) };
        let offset = masked::<{ POSITIONS as i32 }>(u64::from(position)) as usize;
        // SAFETY: the mask keeps the offset in the buffer.
        let at = unsafe { self.buf.as_ptr().cast::<u8>().add(offset) };
        Cursor {
            at,
            scan: core::marker::PhantomData,
        }
    }

    /// Returns the eight bytes at `position`.
    #[inline(always)]
    pub(super) fn word(&self, position: u32) -> u64 {
        self.cursor(position).word::<0>()
    }

    /// Stores eight bytes at `position`.
    #[inline(always)]
    pub(super) fn put(&mut self, position: u32, word: u64) {
        let offset = masked::<{ POSITIONS as i32 }>(u64::from(position)) as usize;
        // SAFETY: the mask keeps the offset in the buffer, and REACH bytes of the buffer follow.
        let to = unsafe { self.buf.as_mut_ptr().cast::<u8>().add(offset) };
        #[cfg(target_arch = "bpf")]
        // SAFETY: as above. An unaligned store in Rust would become eight one-byte stores.
        unsafe {
            core::arch::asm!(
                "*(u64 *)({to} + 0) = {word}",
                to = in(reg) to,
                word = in(reg) word,
                options(nostack)
            );
        }
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: as above.
        unsafe {
            to.cast::<u64>().write_unaligned(word.to_le());
        }
    }

    /// Returns the byte at `position`.
    #[inline(always)]
    pub(super) fn byte(&self, position: u32) -> u8 {
        // SAFETY: a cursor points into the buffer.
        unsafe { self.cursor(position).at.read() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Generates eight bytes. Byte values at the limits of the tested ranges are more frequent than
    /// others.
    fn bytes() -> impl Strategy<Value = [u8; 8]> {
        let borders =
            b"\0\x08\t\n\x0b\r\x1f\x20\x21*+,-./09:;@AZ[_`az{\x7e\x7f\x80\x9f\xa0\xa1\xff";
        proptest::array::uniform8(prop_oneof![
            2 => proptest::sample::select(borders.to_vec()),
            1 => any::<u8>(),
        ])
    }

    /// Returns the index of the lowest byte whose highest bit is set, if there is one.
    fn lowest(bits: u64) -> Option<usize> {
        (bits != 0).then(|| first(bits) as usize)
    }

    proptest! {
        #[test]
        fn searches_find_the_first_byte_of_their_kind(bytes in bytes()) {
            let word = u64::from_le_bytes(bytes);
            let position = |test: &dyn Fn(u8) -> bool| bytes.iter().position(|&byte| test(byte));
            let controls = |byte: u8| !(0x20..=0x9f).contains(&byte);
            prop_assert_eq!(lowest(control(word)), position(&controls));
            let ends = |byte: u8| byte == b':' || !byte.is_ascii_graphic();
            prop_assert_eq!(lowest(ends_name(word)), position(&ends));
            prop_assert_eq!(lowest(spaces(word)), position(&|byte| byte == b' '));
        }

        #[test]
        fn tests_of_a_word_are_those_of_its_bytes(bytes in bytes()) {
            let word = u64::from_le_bytes(bytes);
            let any = |test: &dyn Fn(u8) -> bool| bytes.iter().any(|&byte| test(byte));
            prop_assert_eq!(has_not_visible(word), any(&|byte| !byte.is_ascii_graphic()));
            prop_assert_eq!(has_control(word), any(&|byte| byte < 0x20 && byte != b'\t'));
            prop_assert_eq!(is_blank(word), !any(&|byte| byte != b' ' && byte != b'\t'));
            let base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
            prop_assert_eq!(is_base64(word), !any(&|byte| !base64(byte)));
            let alphanumerics = bytes.map(|byte| u8::from(byte.is_ascii_alphanumeric()) << 7);
            prop_assert_eq!(alphanumeric(word).to_le_bytes(), alphanumerics);
            let visible = bytes.iter().position(|byte| !byte.is_ascii_graphic());
            prop_assert_eq!(lowest(ends_value(word)), visible);
        }
    }

    #[test]
    fn every_pair_of_digits_of_base64_is_decoded() {
        let digits: Vec<u8> = (0..=127u8)
            .filter(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
            .collect();
        let value = |digit: u8| match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        assert_eq!(digits.len(), 64);
        for (one, other) in digits
            .iter()
            .flat_map(|&a| digits.iter().map(move |&b| (a, b)))
        {
            let word = [one, other, b'Q', other, other, one, one, b'7'];
            let bits = word
                .iter()
                .fold(0, |bits, &digit| bits << 6 | u64::from(value(digit)));
            let decoded = from_base64(u64::from_le_bytes(word)).to_le_bytes();
            assert_eq!(decoded[..6], bits.to_be_bytes()[2..], "{word:?}");
            assert_eq!(decoded[6..], [0, 0]);
        }
    }

    #[test]
    fn each_byte_value_is_classified_correctly() {
        for byte in 0..=255u8 {
            let word = each(byte);
            assert_eq!(has_not_visible(word), !byte.is_ascii_graphic());
            assert_eq!(has_control(word), byte < 0x20 && byte != b'\t');
            assert_eq!(is_blank(word), byte == b' ' || byte == b'\t');
            let base64 = byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
            assert_eq!(is_base64(word), base64, "{byte}");
            assert_eq!(
                lowest(ends_name(word)).is_some(),
                byte == b':' || !byte.is_ascii_graphic()
            );
        }
    }

    #[test]
    fn a_window_is_1_to_4096_bytes_for_any_argument() {
        for bytes in [1, 2, 4095, 4096] {
            assert_eq!(window(bytes), bytes);
        }
        assert!((1..=4096).contains(&window(0)) && (1..=4096).contains(&window(4097)));
    }
}
