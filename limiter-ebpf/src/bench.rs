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
    abi::{FLOW_DROP_COUNTED, Flow, FlowKey, ScopeState},
    seq::Seq,
};

use crate::{
    decide, egress, ingress, maps,
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
    /// How many keys or flows there are to draw from; 0: as [`DRAWS`] has them.
    of: u32,
    /// Where to set responses back to.
    response_next: Seq,
}

#[map]
static REWIND: Array<Rewind> = Array::with_max_entries(1, 0);

/// Numbers drawn before, in a distribution that is not uniform; their count is a power of two.
#[map]
static DRAWS: Array<u32> = Array::with_max_entries(1 << 16, 0);

/// The number of a key or a flow, drawn at random.
#[inline(always)]
fn drawn() -> u32 {
    let random = random();
    let of = REWIND.get(0).map_or(0, |to| to.of);
    if of == 0 {
        return DRAWS.get(random & 0xffff).copied().unwrap_or(0);
    }
    (u64::from(random) * u64::from(of) >> 32) as u32
}

/// What to set back: where to, and of which flow and scope.
#[inline(always)]
fn target() -> Option<(*const Rewind, *mut Flow, *mut ScopeState)> {
    let to = REWIND.get_ptr(0)?;
    // SAFETY: a live map value, which nothing else changes.
    unsafe {
        let flow = maps::flow(&raw const (*to).key)?;
        Some((to, flow, maps::state((*to).scope)?))
    }
}

#[inline(always)]
fn rewind() {
    let Some((to, flow, state)) = target() else {
        return;
    };
    // SAFETY: live map values; nothing else runs.
    unsafe {
        (*flow).next = (*to).next;
        (*flow).answered = (*flow).asked;
        // A request that is dropped comes again uncounted; here each is a new one.
        (*flow).flags &= !FLOW_DROP_COUNTED;
        (*state).in_flight = 0;
        (*state).tat_ns = 0;
    }
}

/// The flow's request has just been admitted, and no byte of its response has come.
#[inline(always)]
fn rewind_response() {
    let Some((to, flow, state)) = target() else {
        return;
    };
    // SAFETY: live map values; nothing else runs.
    unsafe {
        (*flow).response_next = (*to).response_next;
        (*flow).answered = (*flow).asked.wrapping_sub(1);
        (*decide::slot(flow, (*flow).answered)).scope = (*to).scope;
        (*state).in_flight = 1;
    }
}

/// Writes one of at most 2^20 keys into the packet: its last eight bytes are letters from `a` on, one
/// for four bits each of its number, the lowest first.
#[inline(always)]
fn draw(skb: Skb) {
    let Some(to) = REWIND.get_ptr(0) else { return };
    let number = u64::from(drawn());
    let mut letters = u64::from_le_bytes(*b"aaaaaaaa");
    for letter in 0..5 {
        letters += (number >> (4 * letter) & 15) << (8 * letter);
    }
    // SAFETY: a live map value; eight bytes.
    unsafe { skb.store((*to).letters_at, (&raw const letters).cast(), 8) };
}

/// The address of an IPv4 packet's client, and of its port, behind the Ethernet header.
const CLIENT_AT: u32 = 14 + 12;
const CLIENT_PORT_AT: u32 = 14 + 20;

/// Makes the packet one of another flow: `flow_of` of tests/benches/scale has the same. Both halves of
/// the address change, so that the sum of the header stays what it was.
#[inline(always)]
fn draw_flow(skb: Skb) {
    let Some(to) = REWIND.get_ptr_mut(0) else {
        return;
    };
    let number = drawn();
    let (group, port) = (number >> 15, 1024 + (number & 0x7fff));
    let address = ((0x0a00 + group) << 16 | (0xf000 - group)).to_be();
    let port = (port as u16).to_be();
    // SAFETY: a live map value, which nobody else uses; four bytes, and two.
    unsafe {
        (*to).key.client[3] = address;
        (*to).key.client_port = port;
        skb.store(CLIENT_AT, (&raw const address).cast(), 4);
        skb.store(CLIENT_PORT_AT, (&raw const port).cast(), 2);
    }
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

/// What `bench_response` does besides.
#[classifier]
pub fn bench_rewind_response(_ctx: TcContext) -> i32 {
    rewind_response();
    0
}

/// A packet from the server, on a flow whose request it answers.
#[classifier]
#[inline(always)]
pub fn bench_response(ctx: TcContext) -> i32 {
    rewind_response();
    egress::run::<true>(Skb(ctx.skb.skb))
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

/// What `bench_drawn_flow` does besides.
#[classifier]
pub fn bench_rewind_drawn_flow(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    draw_flow(skb);
    rewind();
    skb.set_checked();
    0
}

/// As `bench_checked`, on another flow each time.
#[classifier]
#[inline(always)]
pub fn bench_drawn_flow(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    draw_flow(skb);
    rewind();
    skb.set_checked();
    ingress::run::<true>(skb)
}

/// A packet from the client, on a flow that is set back before it; nobody has looked at its checksum.
#[classifier]
#[inline(always)]
pub fn bench_request(ctx: TcContext) -> i32 {
    rewind();
    ingress::run::<true>(Skb(ctx.skb.skb))
}
