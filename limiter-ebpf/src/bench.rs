//! Programs for `cargo xtask bench`: built only with the feature `bench`, attached nowhere.
//!
//! `BPF_PROG_TEST_RUN` gives the same packet again and again. To be a new request each time, the
//! flow has to be set back before it; what that costs is measured by itself, and taken off.

use aya_ebpf::{
    macros::{classifier, map},
    maps::Array,
    programs::TcContext,
};
use limiter_common::{
    abi::{FLOW_DROP_COUNTED, FlowKey, ScopeState},
    seq::Seq,
};

use crate::{
    ingress, maps,
    skb::{Skb, random},
};

/// Which flow to set back, and where to.
#[repr(C)]
struct Rewind {
    key: FlowKey,
    next: Seq,
    scope: u32,
    /// Where the letters of [`draw`] stand in the packet.
    letters_at: u32,
}

#[map]
static REWIND: Array<Rewind> = Array::with_max_entries(1, 0);

#[inline(always)]
fn rewind() {
    let Some(to) = REWIND.get_ptr(0) else { return };
    // SAFETY: live map values; nothing else runs.
    unsafe {
        let Some(flow) = maps::flow(&raw const (*to).key) else {
            return;
        };
        (*flow).next = (*to).next;
        (*flow).answered = (*flow).asked;
        // A request that is dropped comes again uncounted; here each is a new one.
        (*flow).flags &= !FLOW_DROP_COUNTED;
        let Some(state) = maps::state((*to).scope) else {
            return;
        };
        let state: *mut ScopeState = state;
        (*state).in_flight = 0;
        (*state).tat_ns = 0;
    }
}

/// Writes one of 2^20 keys into the packet: its last eight bytes are letters from `a` on, one for four
/// bits each of its number, the lowest first.
#[inline(always)]
fn draw(skb: Skb) {
    let Some(to) = REWIND.get_ptr(0) else { return };
    let number = u64::from(random() & 0xf_ffff);
    let mut letters = u64::from_le_bytes(*b"aaaaaaaa");
    for letter in 0..5 {
        letters += (number >> (4 * letter) & 15) << (8 * letter);
    }
    // SAFETY: a live map value; eight bytes.
    unsafe { skb.store((*to).letters_at, (&raw const letters).cast(), 8) };
}

/// Nothing at all.
#[classifier]
pub fn bench_empty(_ctx: TcContext) -> i32 {
    0
}

/// What `bench_request` does besides.
#[classifier]
pub fn bench_rewind(_ctx: TcContext) -> i32 {
    rewind();
    0
}

/// What `bench_checked` does besides.
#[classifier]
pub fn bench_rewind_checked(ctx: TcContext) -> i32 {
    rewind();
    Skb(ctx.skb.skb).set_checked();
    0
}

/// A packet from the client, on a flow that is set back before it; a device has found its checksum
/// right.
#[classifier]
#[inline(always)]
pub fn bench_checked(ctx: TcContext) -> i32 {
    rewind();
    Skb(ctx.skb.skb).set_checked();
    ingress::run::<true>(Skb(ctx.skb.skb))
}

/// What `bench_drawn` does besides.
#[classifier]
pub fn bench_rewind_drawn(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    rewind();
    skb.set_checked();
    draw(skb);
    0
}

/// As `bench_checked`, with another key each time.
#[classifier]
#[inline(always)]
pub fn bench_drawn(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    rewind();
    skb.set_checked();
    draw(skb);
    ingress::run::<true>(skb)
}

/// A packet from the client, on a flow that is set back before it; nobody has looked at its checksum.
#[classifier]
#[inline(always)]
pub fn bench_request(ctx: TcContext) -> i32 {
    rewind();
    ingress::run::<true>(Skb(ctx.skb.skb))
}
