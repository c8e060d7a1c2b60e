// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The TCP options (RFC 9293, section 3.2).

use core::mem::MaybeUninit;

use limiter_common::seq::Seq;

use crate::{
    kernel::{
        linear::Linear,
        repeat::repeat,
        skb::{Skb, sum},
        verifier::zeros,
        work::{Packet, Translation},
    },
    packet::{
        checksum::{CHECKSUM_AT, fold},
        header::TCP_LEN,
    },
};

/// Reads the TCP options that the programs need. The options of the segment are between the offsets
/// `at` and `end`.
#[inline(always)]
pub fn read(skb: Skb, linear: Linear, packet: &mut Packet, at: u32, end: u32) {
    /// NOP, NOP and a timestamp option of 10 bytes, which is the usual layout (RFC 7323, appendix
    /// A).
    const USUAL: u32 = u32::from_be(0x0101_080a);
    if let Some(options) = linear.header::<12>(at)
        && options.word::<0>() == USUAL
        && at + 12 == end
    {
        packet.has_timestamp = 1;
        packet.tsval = u32::from_be(options.word::<4>());
        packet.tsecr = u32::from_be(options.word::<8>());
        return;
    }
    search(skb, packet, at, end);
}

/// The maximum number of options in a TCP header, which has at most 40 bytes of options.
const MAX_OPTIONS: u32 = 40;

/// The state of the loop over the options of a packet.
struct Options<'a> {
    skb: Skb,
    packet: &'a mut Packet,
    at: u32,
    end: u32,
}

#[inline(never)]
fn search(skb: Skb, packet: &mut Packet, at: u32, end: u32) {
    let mut options = Options {
        skb,
        packet,
        at,
        end,
    };
    repeat(MAX_OPTIONS, &mut options, Options::read_one);
}

/// The kind of a Multipath TCP option (RFC 8684).
const MULTIPATH: u8 = 30;
/// The kind of a TCP Fast Open option (RFC 7413, section 4.1.1).
const FAST_OPEN: u8 = 34;
/// The kind of the options for experiments (RFC 6994). TCP Fast Open used this kind before it had a
/// kind of its own.
const EXPERIMENT: u8 = 254;
/// The experiment identifier of TCP Fast Open, with which the contents of the option begin.
const FAST_OPEN_EXPERIMENT: [u8; 2] = [0xf9, 0x89];
/// The kind of a SACK option (RFC 2018, section 3).
const SACK: u8 = 5;
const NOP: u8 = 1;

/// Returns whether an option of this kind, whose contents begin at `at`, is a TCP Fast Open option.
#[inline(always)]
fn is_fast_open(skb: Skb, kind: u8, at: u32) -> bool {
    kind == FAST_OPEN || kind == EXPERIMENT && skb.load::<[u8; 2]>(at) == Some(FAST_OPEN_EXPERIMENT)
}

impl Options<'_> {
    #[inline(always)]
    fn read_one(&mut self, _: u32) -> bool {
        const END: u8 = 0;
        const WINDOW_SCALE: u8 = 3;
        const TIMESTAMP: u8 = 8;
        const MD5_SIGNATURE: u8 = 19;
        const AUTHENTICATION: u8 = 29;
        /// The maximum shift. A larger value has the same meaning (RFC 7323, section 2.3).
        const MAX_SHIFT: u8 = 14;
        let Self { skb, at, end, .. } = *self;
        if at + 2 > end {
            return true;
        }
        let Some(option) = skb.load::<[u8; 2]>(at) else {
            return true;
        };
        let [kind, size] = option;
        if kind == NOP {
            self.at = at + 1;
            return false;
        }
        if kind == END || size < 2 || at + u32::from(size) > end {
            return true;
        }
        self.at = at + u32::from(size);
        let packet = &mut *self.packet;
        match option {
            [TIMESTAMP, 10] => {
                if let Some([tsval, tsecr]) = skb.load::<[u32; 2]>(at + 2) {
                    packet.has_timestamp = 1;
                    packet.tsval = u32::from_be(tsval);
                    packet.tsecr = u32::from_be(tsecr);
                }
            }
            [WINDOW_SCALE, 3] => {
                if let Some(shift) = skb.load::<u8>(at + 2) {
                    let shift = if shift < MAX_SHIFT { shift } else { MAX_SHIFT };
                    packet.window_shift = u32::from(shift);
                }
            }
            [MD5_SIGNATURE | AUTHENTICATION, _] => packet.signed = 1,
            [SACK, _] => packet.has_blocks = 1,
            [MULTIPATH, _] => packet.multipath = 1,
            [FAST_OPEN | EXPERIMENT, _] => {
                packet.fast_open |= u32::from(is_fast_open(skb, kind, at + 2));
            }
            _ => {}
        }
        false
    }
}

/// Removes the options for Multipath TCP and TCP Fast Open from a SYN, by replacing them with
/// padding. With Multipath TCP, the server would read the stream in an order other than that of its
/// bytes (a client continues without it; RFC 8684, section 3.7). With TCP Fast Open, a request
/// would arrive in a SYN, before there is a flow (a client continues without it; RFC 7413, section
/// 4.1.2). Returns false if the options could not be removed.
#[inline(always)]
pub fn plain_syn(skb: Skb, packet: &Packet) -> bool {
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
    repeat(MAX_OPTIONS, &mut padding, Padding::write_one);
    let Some(after) = sum_of(skb, at, len) else {
        return false;
    };
    // If the device has computed a sum over the whole packet, that sum remains right, because the
    // change of the checksum cancels the change of the options.
    padding.done
        && skb.replace_checksum(
            packet.l4 + CHECKSUM_AT,
            u64::from(before),
            u64::from(after),
            2,
        )
}

/// Translates the edges of the blocks in the SACK option of a packet ([`Translation`]). Returns
/// false if the option could not be written.
#[inline(always)]
pub fn translate_blocks(skb: Skb, packet: &Packet, translation: &Translation) -> bool {
    let at = packet.l4 + TCP_LEN;
    let len = packet.payload - at;
    let Some(before) = sum_of(skb, at, len) else {
        return false;
    };
    let mut blocks = Blocks {
        skb,
        at,
        end: packet.payload,
        lowest: translation.lowest_edge,
        shift: translation.edge_shift,
        done: true,
    };
    repeat(MAX_OPTIONS, &mut blocks, Blocks::write_one);
    let Some(after) = sum_of(skb, at, len) else {
        return false;
    };
    blocks.done
        && skb.replace_checksum(
            packet.l4 + CHECKSUM_AT,
            u64::from(before),
            u64::from(after),
            2,
        )
}

/// The state of the loop over the options of a packet with SACK blocks. As with [`Padding`], no
/// turn depends on a constant that an earlier turn has changed.
struct Blocks {
    skb: Skb,
    at: u32,
    end: u32,
    lowest: Seq,
    shift: u32,
    done: bool,
}

/// The maximum number of blocks in a SACK option (RFC 2018, section 3).
const MAX_BLOCKS: u32 = 4;

impl Blocks {
    /// Skips an option, or translates the blocks in it.
    #[inline(always)]
    fn write_one(&mut self, _: u32) -> bool {
        let Self { skb, at, end, .. } = *self;
        if at + 2 > end {
            return true;
        }
        let Some(option) = skb.load::<[u8; 2]>(at) else {
            return true;
        };
        let size = match option {
            [NOP, _] => 1,
            [0, _] | [_, 0 | 1] => return true,
            [_, size] => u32::from(size),
        };
        if at + size > end {
            return true;
        }
        let [kind, _] = option;
        if kind == SACK {
            for block in 0..MAX_BLOCKS {
                let edges = at + 2 + block * 8;
                if edges + 8 <= at + size && !self.translate(edges) {
                    self.done = false;
                    return true;
                }
            }
        }
        self.at = at + size;
        false
    }

    /// Translates the two edges of the block at the offset `at`.
    #[inline(always)]
    fn translate(&self, at: u32) -> bool {
        let Some([left, right]) = self.skb.load::<[u32; 2]>(at) else {
            return false;
        };
        let edge = |edge: u32| {
            let edge = Seq(u32::from_be(edge)).latest(self.lowest);
            edge.plus(self.shift).0.to_be()
        };
        self.skb.store(at, &[edge(left), edge(right)])
    }
}

/// The size in bytes of a buffer for the longest options (40 bytes), rounded up to a power of two.
const ROOM: usize = 64;

/// Returns the folded sum of the `len` bytes of options (0 to 40) at offset `at`.
#[inline(always)]
fn sum_of(skb: Skb, at: u32, len: u32) -> Option<u16> {
    // The buffer is zero after the options.
    let mut options = MaybeUninit::<[u64; ROOM / 8]>::uninit();
    let options = zeros(&mut options);
    skb.load_part::<{ ROOM as u64 }, _>(at, options, len)
        .then(|| fold(u64::from(sum::<{ ROOM as u32 }, _>(options, 0))))
}

/// The state of the loop over the options of a SYN.
///
/// Before Linux 6.7, the verifier checks a callback of `bpf_loop` only once, with the values that
/// its context has before the loop ("bpf: verify callbacks as if they are called unknown number of
/// times"). The verifier treats a branch that only a later turn takes as dead code, and removes the
/// branch. Therefore no turn may depend on a value that was constant before the loop and that an
/// earlier turn has changed.
struct Padding {
    skb: Skb,
    at: u32,
    end: u32,
    done: bool,
}

impl Padding {
    /// Skips an option, or replaces it with padding.
    #[inline(always)]
    fn write_one(&mut self, _: u32) -> bool {
        let Self { skb, at, end, .. } = *self;
        if at + 2 > end {
            return true;
        }
        let Some(option) = skb.load::<[u8; 2]>(at) else {
            return true;
        };
        let size = match option {
            [NOP, _] => 1,
            [0, _] | [_, 0 | 1] => return true,
            [_, size] => u32::from(size),
        };
        if at + size > end {
            return true;
        }
        let [kind, _] = option;
        if kind == MULTIPATH || is_fast_open(skb, kind, at + 2) {
            let nops = [u64::from_ne_bytes([NOP; 8]); ROOM / 8];
            if !skb.store_part::<{ ROOM as u64 }, _>(at, &nops, size) {
                self.done = false;
                return true;
            }
        }
        self.at = at + size;
        false
    }
}
