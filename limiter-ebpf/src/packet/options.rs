//! TCP options (RFC 9293, section 3.2).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

use super::{Linear, Packet, TCP_LEN};
use crate::{
    checksum::{CHECKSUM_AT, fold},
    skb::{Skb, bounded_to, sum},
};

/// Reads the options from `at` to `end`: those that matter of a segment, and of a SYN.
///
/// # Safety
/// `packet` is a live map value, of this CPU alone.
#[inline(always)]
pub unsafe fn read(skb: Skb, linear: Linear, packet: *mut Packet, at: u32, end: u32) {
    /// NOP, NOP, timestamp, 10 bytes: as everybody lays it out (RFC 7323, appendix A).
    const USUAL: u32 = u32::from_be(0x0101_080a);
    // SAFETY: the caller's promise; the options have twelve bytes.
    unsafe {
        if let Some(options) = linear.header(at, 12)
            && options.word::<0>() == USUAL
            && at + 12 == end
        {
            (*packet).has_timestamp = 1;
            (*packet).tsval = u32::from_be(options.word::<4>());
            (*packet).tsecr = u32::from_be(options.word::<8>());
            return;
        }
        search(skb, packet, at, end);
    }
}

/// The options of a TCP header: at most 40 bytes, so at most 40 of them.
const MAX_OPTIONS: u32 = 40;

struct Options {
    skb: Skb,
    packet: *mut Packet,
    at: u32,
    end: u32,
}

#[inline(never)]
fn search(skb: Skb, packet: *mut Packet, at: u32, end: u32) {
    let mut options = Options {
        skb,
        packet,
        at,
        end,
    };
    // SAFETY: `options` outlives the call.
    unsafe {
        bpf_loop(
            MAX_OPTIONS,
            one_option as *mut c_void,
            (&raw mut options).cast(),
            0,
        );
    }
}

/// Multipath TCP (RFC 8684).
const MULTIPATH: u8 = 30;
const NOP: u8 = 1;

unsafe extern "C" fn one_option(_: u32, options: *mut Options) -> i64 {
    const END: u8 = 0;
    const WINDOW_SCALE: u8 = 3;
    const TIMESTAMP: u8 = 8;
    const MD5_SIGNATURE: u8 = 19;
    const AUTHENTICATION: u8 = 29;
    /// More is the same as this (RFC 7323, section 2.3).
    const MAX_SHIFT: u8 = 14;
    // SAFETY: `search` passes its own options, whose packet is a live map value of this
    // CPU; the arrays have as many bytes as are loaded.
    unsafe {
        let Options {
            skb,
            packet,
            at,
            end,
        } = *options;
        let mut option = [0u8; 2];
        if at + 2 > end || !skb.load(at, option.as_mut_ptr(), 2) {
            return 1;
        }
        let [kind, size] = option;
        if kind == NOP {
            (*options).at = at + 1;
            return 0;
        }
        if kind == END || size < 2 || at + u32::from(size) > end {
            return 1;
        }
        (*options).at = at + u32::from(size);
        match option {
            [TIMESTAMP, 10] => {
                let mut values = [0u32; 2];
                if skb.load(at + 2, values.as_mut_ptr().cast(), 8) {
                    (*packet).has_timestamp = 1;
                    (*packet).tsval = u32::from_be(values[0]);
                    (*packet).tsecr = u32::from_be(values[1]);
                }
            }
            [WINDOW_SCALE, 3] => {
                let mut shift = 0u8;
                if skb.load(at + 2, &raw mut shift, 1) {
                    let shift = if shift < MAX_SHIFT { shift } else { MAX_SHIFT };
                    (*packet).window_shift = u32::from(shift);
                }
            }
            [MD5_SIGNATURE | AUTHENTICATION, _] => (*packet).signed = 1,
            [MULTIPATH, _] => (*packet).multipath = 1,
            _ => {}
        }
    }
    0
}

/// Makes a SYN that offers Multipath TCP one that does not: its options become padding (RFC 8684,
/// section 3.7). With it the server would read the stream in an order that is not that of its bytes.
/// False: it could not be done.
#[inline(always)]
pub fn single_path(skb: Skb, packet: &Packet) -> bool {
    let at = packet.l4 + TCP_LEN;
    let len = packet.payload - at;
    let Some(before) = sum_of(skb, at, len) else {
        return false;
    };
    let mut padding = Padding {
        skb,
        at,
        end: packet.payload,
        done: true,
    };
    // SAFETY: `padding` outlives the call.
    unsafe {
        bpf_loop(
            MAX_OPTIONS,
            pad as *mut c_void,
            (&raw mut padding).cast(),
            0,
        );
    }
    let Some(after) = sum_of(skb, at, len) else {
        return false;
    };
    // A sum that the device took of the whole packet is still right: what the options lose, the
    // checksum gains.
    padding.done
        && skb.replace_checksum(
            packet.l4 + CHECKSUM_AT,
            u64::from(before),
            u64::from(after),
            2,
        )
}

/// The folded sum of `len` bytes of options (0 to 40) at `at`.
#[inline(always)]
fn sum_of(skb: Skb, at: u32, len: u32) -> Option<u16> {
    const ROOM: usize = 64;
    let mut options = [0u64; ROOM / 8];
    let bytes = options.as_mut_ptr().cast::<u8>();
    // SAFETY: the array has as many bytes as `bounded_to` allows, zero beyond the options.
    unsafe {
        skb.load(at, bytes, bounded_to::<{ ROOM as u64 }>(len))
            .then(|| fold(u64::from(sum(bytes, ROOM as u32, 0))))
    }
}

/// Before 6.7 the verifier follows a callback of `bpf_loop` once, from what is known of its context
/// before the loop ("bpf: verify callbacks as if they are called unknown number of times"): a branch
/// that only a later turn takes is dead code to it, and is removed. So no turn may depend on a value
/// that was constant then and that another turn has changed.
struct Padding {
    skb: Skb,
    at: u32,
    end: u32,
    done: bool,
}

/// An option, or its padding, and on to the next one.
unsafe extern "C" fn pad(_: u32, padding: *mut Padding) -> i64 {
    /// Room for the longest option that fits, as a power of two.
    const ROOM: usize = 64;
    // SAFETY: `single_path` passes its own context; the arrays have as many bytes as are loaded, and
    // as `bounded_to` allows.
    unsafe {
        let Padding { skb, at, end, .. } = *padding;
        let mut option = [0u8; 2];
        if at + 2 > end || !skb.load(at, option.as_mut_ptr(), 2) {
            return 1;
        }
        let size = match option {
            [NOP, _] => 1,
            [0, _] | [_, 0 | 1] => return 1,
            [_, size] => u32::from(size),
        };
        if at + size > end {
            return 1;
        }
        if option[0] == MULTIPATH {
            let nops = [u64::from_ne_bytes([NOP; 8]); ROOM / 8];
            let len = bounded_to::<{ ROOM as u64 }>(size);
            if !skb.store(at, nops.as_ptr().cast(), len) {
                (*padding).done = false;
                return 1;
            }
        }
        (*padding).at = at + size;
    }
    0
}
