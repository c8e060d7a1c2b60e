// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Fingerprints of payload (`limiter_common::fingerprint`), computed in the buffer of [`Work`].
//!
//! This file belongs to the interface to the kernel, because the verifier has to see that all words
//! that are read are within the buffer and the key. Rust's bounds checks would not show that.

use limiter_common::{
    abi::Config,
    fingerprint::{self, BLOCK, term},
};

use crate::kernel::{
    maps,
    repeat::repeat,
    skb::Skb,
    verifier::{bounded, masked},
    work::Work,
};

/// Computes the fingerprint of the `len` payload bytes (1 to `fingerprint::MAX`) that begin at
/// `from`, and stores it in `to`. Returns false if the bytes cannot be read. No copy of the bytes
/// stays in memory.
#[inline(never)]
pub fn sample(skb: Skb, work: &mut Work, from: u32, len: u32, to: &mut u64) -> bool {
    let Some(config) = maps::config() else {
        return false;
    };
    let seq = work.packet.seq.plus(from);
    let lead = fingerprint::lead(seq);
    let bytes = (&raw mut work.sample.bytes).cast::<u8>();
    // SAFETY: the buffer has 8 + `fingerprint::PERIOD` + `BLOCK` bytes. At most
    // `fingerprint::PERIOD` bytes are loaded, and `lead` is below 8.
    unsafe {
        zero::<0>(bytes);
        let at = work.packet.payload + from;
        if !skb.load_to(at, bytes.add(lead as usize), len) {
            return false;
        }
        *to = fingerprint(bytes, lead + len, fingerprint::key_at(seq), config);
    }
    true
}

/// Returns the fingerprint of the `len` bytes at `bytes`, which begin at the start of a word of the
/// stream. The secret for this word is `key_at` bytes into the fingerprint key. Overwrites the
/// `len` bytes, and the `BLOCK` bytes after them, with zeros.
///
/// # Safety
/// `bytes` points to `fingerprint::PERIOD` bytes that are followed by `BLOCK` bytes.
#[inline(always)]
unsafe fn fingerprint(bytes: *mut u8, len: u32, key_at: u32, config: &Config) -> u64 {
    // SAFETY: `len` is bounded where it is used, and `BLOCK` bytes follow, as the caller
    // guarantees.
    unsafe { zero_block(bytes.add(bounded(len) as usize)) };
    let mut blocks = Blocks {
        bytes,
        key: (&raw const config.fingerprint_key).cast(),
        key_at,
        len,
        sum: 0,
    };
    repeat(BLOCKS, &mut blocks, Blocks::turn);
    fingerprint::finish(blocks.sum)
}

/// The number of blocks in the longest piece.
const BLOCKS: u32 = (fingerprint::PERIOD / BLOCK) as u32;

/// The state of the loop over the blocks of a piece.
struct Blocks {
    /// Points to at least `fingerprint::PERIOD` bytes.
    bytes: *mut u8,
    /// Points to `fingerprint::KEY_WORDS` words.
    key: *const u8,
    /// The offset in the key, in bytes, of the secret for the first word of the piece.
    key_at: u32,
    len: u32,
    sum: u64,
}

impl Blocks {
    #[inline(always)]
    fn turn(&mut self, number: u32) -> bool {
        let at = number.wrapping_mul(BLOCK as u32);
        if at >= self.len {
            return true;
        }
        let key_at = self.key_at.wrapping_add(2 * at);
        // SAFETY: the masks bound both offsets, so that a whole block follows the first one in the
        // buffer, and the words for a whole block follow the second one in the key.
        unsafe {
            let bytes = self.bytes.add(masked::<BLOCK_MASK>(at));
            let key = self.key.add(masked::<KEY_MASK>(key_at));
            let first = word::<0>(bytes, key)
                .wrapping_add(word::<1>(bytes, key))
                .wrapping_add(word::<2>(bytes, key))
                .wrapping_add(word::<3>(bytes, key));
            let second = word::<4>(bytes, key)
                .wrapping_add(word::<5>(bytes, key))
                .wrapping_add(word::<6>(bytes, key))
                .wrapping_add(word::<7>(bytes, key));
            let third = word::<8>(bytes, key)
                .wrapping_add(word::<9>(bytes, key))
                .wrapping_add(word::<10>(bytes, key))
                .wrapping_add(word::<11>(bytes, key));
            let fourth = word::<12>(bytes, key)
                .wrapping_add(word::<13>(bytes, key))
                .wrapping_add(word::<14>(bytes, key))
                .wrapping_add(word::<15>(bytes, key));
            let sum = first
                .wrapping_add(second)
                .wrapping_add(third.wrapping_add(fourth));
            self.sum = self.sum.wrapping_add(sum);
            // The bytes may contain keys, so no copy of them stays in memory.
            zero_block(bytes);
        }
        false
    }
}

/// The mask that keeps the offset of a block below `fingerprint::PERIOD`.
const BLOCK_MASK: u64 = (fingerprint::PERIOD - BLOCK) as u64;
/// The mask that keeps the offset of a word of the key below twice `fingerprint::PERIOD`, because
/// the key has eight bytes for every four bytes of the stream.
const KEY_MASK: u64 = (2 * fingerprint::PERIOD - 8) as u64;

const _: () = assert!(
    BLOCK == 64 && fingerprint::PERIOD == 4096 && fingerprint::MAX + 3 <= fingerprint::PERIOD,
    "the masks, and the bound in `Skb::load_to`"
);

/// Returns the summand for word `AT` of a block.
///
/// # Safety
/// The block and its part of the key are readable and aligned.
#[inline(always)]
unsafe fn word<const AT: usize>(bytes: *const u8, key: *const u8) -> u64 {
    // SAFETY: `turn` has bounded both offsets with masks.
    unsafe {
        let word = *bytes.cast::<u32>().add(AT);
        let key = *key.cast::<u64>().add(AT);
        term(u32::from_le(word), key)
    }
}

/// Writes eight zero bytes in one store, which does not have to be aligned.
///
/// # Safety
/// Eight bytes can be written at `to + AT`.
#[inline(always)]
unsafe fn zero<const AT: usize>(to: *mut u8) {
    // SAFETY: the caller guarantees that eight bytes can be written at `to + AT`.
    unsafe {
        core::arch::asm!(
            "*(u64 *)({to} + {at}) = {zero}",
            to = in(reg) to, zero = in(reg) 0u64, at = const AT,
            options(nostack, preserves_flags)
        );
    }
}

/// Overwrites a block with zeros.
///
/// # Safety
/// `BLOCK` bytes can be written at `to`.
#[inline(always)]
unsafe fn zero_block(to: *mut u8) {
    // SAFETY: the caller guarantees that `BLOCK` bytes can be written at `to`.
    unsafe {
        zero::<0>(to);
        zero::<8>(to);
        zero::<16>(to);
        zero::<24>(to);
        zero::<32>(to);
        zero::<40>(to);
        zero::<48>(to);
        zero::<56>(to);
    }
}
