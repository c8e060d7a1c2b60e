//! Fingerprints of payload (`limiter_common::fingerprint`).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::{
    abi::Config,
    fingerprint::{self, BLOCK, term},
};

use crate::{
    maps,
    skb::{Skb, bounded},
    work::Work,
};

/// Where bytes are put to take their fingerprint. Room for zeros behind the longest message.
#[repr(C)]
pub struct Sample {
    bytes: [u64; (fingerprint::MAX + BLOCK) / 8],
}

struct Printing {
    bytes: *const u8,
    key: *const u64,
    len: u32,
    sum: u64,
}

/// The fingerprint of the `len` bytes (1 to `fingerprint::MAX`) at `bytes`; `BLOCK` bytes behind
/// them are overwritten with zeros.
///
/// # Safety
/// `bytes` points into a map value with `fingerprint::MAX` and `BLOCK` bytes more; `config` is one.
#[inline(always)]
unsafe fn print(bytes: *mut u8, len: u32, config: *const Config) -> u64 {
    // SAFETY: the caller's promise; `len` is bounded where it is used, and the context outlives
    // the loop.
    unsafe {
        let behind = bytes.add(bounded(len) as usize);
        zero::<0>(behind);
        zero::<8>(behind);
        zero::<16>(behind);
        zero::<24>(behind);
        zero::<32>(behind);
        zero::<40>(behind);
        zero::<48>(behind);
        zero::<56>(behind);
        let key = (&raw const (*config).fingerprint_key).cast::<u64>();
        let mut context = Printing {
            bytes,
            key,
            len,
            sum: 0,
        };
        bpf_loop(
            (fingerprint::MAX / BLOCK) as u32,
            print_block as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
        context.sum
    }
}

unsafe extern "C" fn print_block(number: u32, context: *mut Printing) -> i64 {
    // SAFETY: `print` passes its own context; the offset of a block is bounded where it is used.
    unsafe {
        let at = number.wrapping_mul(BLOCK as u32);
        if at >= (*context).len {
            return 1;
        }
        let at = block(at);
        let (bytes, key) = (
            (*context).bytes.add(at),
            (*context).key.cast::<u8>().add(at),
        );
        let low = term(load::<0>(bytes), load::<0>(key))
            .wrapping_add(term(load::<8>(bytes), load::<8>(key)))
            .wrapping_add(term(load::<16>(bytes), load::<16>(key)))
            .wrapping_add(term(load::<24>(bytes), load::<24>(key)));
        let high = term(load::<32>(bytes), load::<32>(key))
            .wrapping_add(term(load::<40>(bytes), load::<40>(key)))
            .wrapping_add(term(load::<48>(bytes), load::<48>(key)))
            .wrapping_add(term(load::<56>(bytes), load::<56>(key)));
        (*context).sum = (*context).sum.wrapping_add(low).wrapping_add(high);
    }
    0
}

/// The offset of a block, below `fingerprint::MAX` where the verifier sees it.
#[inline(always)]
fn block(at: u32) -> usize {
    let mut at = u64::from(at);
    #[cfg(target_arch = "bpf")]
    // SAFETY: arithmetic on a register.
    unsafe {
        core::arch::asm!("{0} &= 4032", inout(reg) at, options(nomem, nostack, preserves_flags));
    }
    at as usize
}

const _: () = assert!(
    BLOCK == 64 && fingerprint::MAX == 4096,
    "the mask in `block`"
);

/// A word, in one load whatever its alignment.
///
/// # Safety
/// Eight bytes can be read at `from + AT`.
#[inline(always)]
unsafe fn load<const AT: usize>(from: *const u8) -> u64 {
    let word: u64;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "{word} = *(u64 *)({from} + {at})",
            word = lateout(reg) word, from = in(reg) from, at = const AT,
            options(readonly, nostack, preserves_flags)
        );
    }
    word
}

/// Eight zeros, in one store whatever the alignment.
///
/// # Safety
/// Eight bytes can be written at `to + AT`.
#[inline(always)]
unsafe fn zero<const AT: usize>(to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "*(u64 *)({to} + {at}) = {zero}",
            to = in(reg) to, zero = in(reg) 0u64, at = const AT,
            options(nostack, preserves_flags)
        );
    }
}

/// The fingerprint of `len` payload bytes (1 to `fingerprint::MAX`) from `from` on, into `to`; false
/// if they cannot be read. Nothing of them stays in memory.
///
/// # Safety
/// `work` is this CPU's, and `to` valid.
#[inline(never)]
pub unsafe fn sample(skb: Skb, work: *mut Work, from: u32, len: u32, to: *mut u64) -> bool {
    let Some(config) = maps::config() else {
        return false;
    };
    // SAFETY: the caller's promise; `len` is bounded where it is used.
    unsafe {
        let bytes = (&raw mut (*work).sample.bytes).cast::<u8>();
        if !skb.load((*work).packet.payload + from, bytes, bounded(len)) {
            return false;
        }
        *to = print(bytes, len, config);
        let mut wiping = Wiping { bytes };
        bpf_loop(
            (fingerprint::MAX / BLOCK) as u32,
            wipe_block as *mut c_void,
            (&raw mut wiping).cast(),
            0,
        );
    }
    true
}

struct Wiping {
    bytes: *mut u8,
}

unsafe extern "C" fn wipe_block(number: u32, wiping: *mut Wiping) -> i64 {
    // SAFETY: `sample` passes its own context; the offset of a block is bounded where it is used.
    unsafe {
        let bytes = (*wiping)
            .bytes
            .add(block(number.wrapping_mul(BLOCK as u32)));
        zero::<0>(bytes);
        zero::<8>(bytes);
        zero::<16>(bytes);
        zero::<24>(bytes);
        zero::<32>(bytes);
        zero::<40>(bytes);
        zero::<48>(bytes);
        zero::<56>(bytes);
    }
    0
}
