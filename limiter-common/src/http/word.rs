//! Eight bytes at a step, in ways that both LLVM and the verifier of the kernel leave as they are.
//!
//! On BPF the loads and the masks are inline assembly. Written in Rust, an unaligned load becomes
//! eight loads of a byte, and a mask is dropped or applied to another copy of the value, because
//! LLVM proves it needless from facts that the verifier does not know.

use super::Scan;

/// 1 in each byte.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each byte.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// What a position in the buffer is masked with: the smallest 2^n - 1 that holds every position.
pub(super) const POSITIONS: usize = 8191;
/// How far behind a masked position is still buffer: the longest key, and a word.
pub(super) const REACH: usize = 256;

/// `byte` in each byte.
pub(super) const fn each(byte: u8) -> u64 {
    ONES * byte as u64
}

/// A bit for each byte that is a control character (below 0x20) or above 0x9f. Only the lowest is
/// exact: a borrow comes from a byte that has its bit itself.
#[inline(always)]
pub(super) const fn control(word: u64) -> u64 {
    word.wrapping_sub(each(0x20)) & HIGH
}

/// A bit for each byte that ends a field name: a colon, and all that cannot be in a name (below
/// 0x21, above 0x7e). Only the lowest is exact.
#[inline(always)]
pub(super) const fn ends_name(word: u64) -> u64 {
    // Zero becomes 0xff; what else gets the highest bit had it before, but for 0x3a.
    let colon = (word ^ each(b':')).wrapping_sub(ONES);
    (colon | not_visible(word)) & HIGH
}

/// The highest bit of each byte set that is not visible ASCII (0x21 to 0x7e), other bits
/// undefined. Exact in whether there is one, and in which is the lowest.
#[inline(always)]
const fn not_visible(word: u64) -> u64 {
    // Below 0x21 and above 0xa0; 0x7f to 0xfe.
    word.wrapping_sub(each(0x21)) | word.wrapping_add(ONES)
}

/// Whether one of the bytes is not visible ASCII.
#[inline(always)]
pub(super) const fn has_not_visible(word: u64) -> bool {
    not_visible(word) & HIGH != 0
}

/// The number of the lowest byte whose highest bit is set, all other bits being zero; BPF cannot
/// count trailing zeros.
#[inline(always)]
pub(super) const fn first(bits: u64) -> u64 {
    ((bits & bits.wrapping_neg()) >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56
}

/// The lowest `bytes` (0 to 7) bytes.
#[inline(always)]
pub(super) const fn low_bytes(bytes: u64) -> u64 {
    (1 << (bytes * 8)) - 1
}

/// The highest bit of each byte that is `byte`, exact in every one.
#[inline(always)]
const fn equal(word: u64, byte: u8) -> u64 {
    let x = word ^ each(byte);
    // Adding 0x7f to seven bits cannot carry into the next byte.
    !((x & !HIGH).wrapping_add(!HIGH) | x) & HIGH
}

/// The word with each `_` made a `-`.
#[inline(always)]
pub(super) const fn dashed(word: u64) -> u64 {
    word ^ (equal(word, b'_') >> 7).wrapping_mul((b'_' ^ b'-') as u64)
}

/// Whether all bytes are spaces or tabs.
#[inline(always)]
pub(super) const fn is_blank(word: u64) -> bool {
    equal(word, b' ') | equal(word, b'\t') == HIGH
}

/// Whether one of the bytes is a control character other than a tab.
#[inline(always)]
pub(super) const fn has_control(word: u64) -> bool {
    // The highest bit of each byte that is 0x20 or above.
    let above = (word & !HIGH).wrapping_add(each(0x60)) | word;
    !above & HIGH & !equal(word, b'\t') != 0
}

/// Whether all bytes are of the base64 alphabet (RFC 4648, section 4).
#[inline(always)]
pub(super) const fn is_base64(word: u64) -> bool {
    const fn range(word: u64, low: u8, high: u8) -> u64 {
        // Bytes below 0x80, so no addition carries into the next byte.
        word.wrapping_add(each(0x80 - low)) & !word.wrapping_add(each(0x7f - high))
    }
    let letters = range((word & !HIGH) | each(0x20), b'a', b'z');
    let ascii = word & !HIGH;
    let others = range(ascii, b'0', b'9') | range(ascii, b'+', b'+') | range(ascii, b'/', b'/');
    (letters | others) & !word & HIGH == HIGH
}

/// The first eight bytes of `text` as they come out of a load; shorter text is padded with zero.
pub(super) const fn text(text: &[u8]) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < text.len() && i < 8 {
        word |= (text[i] as u64) << (8 * i);
        i += 1;
    }
    word
}

/// A bit for each byte that is a space. Only the lowest is exact.
#[inline(always)]
pub(super) const fn spaces(word: u64) -> u64 {
    let x = word ^ each(b' ');
    x.wrapping_sub(ONES) & !x & HIGH
}

/// A value about which LLVM knows nothing, so that a comparison that follows stays in the program.
#[inline(always)]
pub(super) fn hide(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: copies a register onto itself. (A barrier without an instruction would leave a
        // line_info that points to nothing, which the kernel refuses.)
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        value
    }
}

/// A number of bytes to load, 1 to [`super::WINDOW`].
///
/// In one block, because the verifier of 6.1 learns nothing from a comparison with zero; the
/// argument must lie in the range already.
#[inline(always)]
pub(super) fn window(bytes: u64) -> u64 {
    const { assert!(super::WINDOW == 4096) };
    #[cfg(target_arch = "bpf")]
    {
        let mut bytes = bytes;
        // SAFETY: arithmetic on a register.
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

/// `value & MASK`, at the moment of use.
#[inline(always)]
pub(super) fn masked<const MASK: i32>(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: arithmetic on a register.
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
/// Volatile, because LLVM makes calls of memcpy and memset from runs of plain loads and stores, and
/// on BPF those go byte by byte.
///
/// # Safety
/// `COUNT` words can be read at `from` and written at `to`, which may not overlap.
#[inline(always)]
pub(super) unsafe fn copy<const COUNT: usize>(from: *const u64, to: *mut u64) {
    let mut i = 0;
    while i < COUNT {
        // SAFETY: by contract.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

/// Zeroes `COUNT` words; volatile as [`copy`].
///
/// # Safety
/// `COUNT` words can be written at `to`.
#[inline(always)]
pub(super) unsafe fn zero<const COUNT: usize>(to: *mut u64) {
    let mut i = 0;
    while i < COUNT {
        // SAFETY: by contract.
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
    /// The eight bytes that lie `OFFSET` bytes on, the first one lowest.
    #[inline(always)]
    pub(super) fn word<const OFFSET: usize>(self) -> u64 {
        const { assert!(OFFSET + 8 <= REACH) };
        // SAFETY: `at` points to one of the first POSITIONS + 1 bytes of the buffer, and REACH
        // more follow them.
        unsafe { load::<OFFSET>(self.at) }
    }
}

/// # Safety
/// Eight bytes can be read `OFFSET` bytes behind `from`.
#[inline(always)]
unsafe fn load<const OFFSET: usize>(from: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: by contract.
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
        // SAFETY: by contract.
        u64::from_le(unsafe { from.add(OFFSET).cast::<u64>().read_unaligned() })
    }
}

impl Scan {
    /// The place at `position`.
    #[inline(always)]
    pub(super) fn cursor(&self, position: u32) -> Cursor<'_> {
        const { assert!(size_of_val(&Scan::BUFFER) == POSITIONS + 1 + REACH) };
        let offset = masked::<{ POSITIONS as i32 }>(u64::from(position)) as usize;
        // SAFETY: the mask keeps it in the buffer.
        let at = unsafe { self.buf.as_ptr().cast::<u8>().add(offset) };
        Cursor {
            at,
            scan: core::marker::PhantomData,
        }
    }

    /// The eight bytes at `position`.
    #[inline(always)]
    pub(super) fn word(&self, position: u32) -> u64 {
        self.cursor(position).word::<0>()
    }

    /// Stores eight bytes at `position`.
    #[inline(always)]
    pub(super) fn put(&mut self, position: u32, word: u64) {
        let offset = masked::<{ POSITIONS as i32 }>(u64::from(position)) as usize;
        // SAFETY: the mask keeps it in the buffer, and REACH bytes of it lie behind.
        let to = unsafe { self.buf.as_mut_ptr().cast::<u8>().add(offset) };
        #[cfg(target_arch = "bpf")]
        // SAFETY: as above. An unaligned store would become eight stores of a byte.
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

    /// The byte at `position`.
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

    /// Bytes with those at the borders of every test more often than others.
    fn bytes() -> impl Strategy<Value = [u8; 8]> {
        let borders =
            b"\0\x08\t\n\x0b\r\x1f\x20\x21*+,-./09:;@AZ[_`az{\x7e\x7f\x80\x9f\xa0\xa1\xff";
        proptest::array::uniform8(prop_oneof![
            2 => proptest::sample::select(borders.to_vec()),
            1 => any::<u8>(),
        ])
    }

    /// The number of the lowest byte that has its bit, if one has.
    fn lowest(bits: u64) -> Option<usize> {
        (bits != 0).then(|| first(bits) as usize)
    }

    proptest! {
        #[test]
        fn searches_find_the_first_byte_of_their_kind(bytes in bytes()) {
            let word = u64::from_le_bytes(bytes);
            let position = |test: &dyn Fn(u8) -> bool| bytes.iter().position(|&byte| test(byte));
            prop_assert_eq!(lowest(control(word)), position(&|byte| !(0x20..=0x9f).contains(&byte)));
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
            let dashes = bytes.map(|byte| if byte == b'_' { b'-' } else { byte });
            prop_assert_eq!(dashed(word).to_le_bytes(), dashes);
        }
    }

    #[test]
    fn one_byte_of_each_value_is_told_as_it_is() {
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
    fn a_window_is_1_to_4096_bytes_whatever_is_asked_for() {
        for bytes in [1, 2, 4095, 4096] {
            assert_eq!(window(bytes), bytes);
        }
        assert!((1..=4096).contains(&window(0)) && (1..=4096).contains(&window(4097)));
    }
}
