// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Programs for `cargo xtask bench`. They are built only with the feature `bench`, and are not
//! attached to any hook.
//!
//! `BPF_PROG_TEST_RUN` passes the same packet again and again. To make it a new request each time,
//! the flow is rewound to an earlier state before each run. The cost of the rewinding is measured
//! separately, and subtracted.

use aya_ebpf::{
    macros::{classifier, map},
    maps::Array,
    programs::TcContext,
};
use limiter_common::{
    abi::{FLOW_DROP_COUNTED, Flow, FlowKey},
    seq::Seq,
};

use crate::{
    egress,
    follow::ring::scope_of,
    ingress,
    kernel::{
        maps,
        shared::ScopeCounts,
        skb::{Skb, random},
    },
};

/// The flow to rewind, and the values to which its fields are set.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rewind {
    key: FlowKey,
    next: Seq,
    scope: u32,
    /// The offset in the packet of the letters that [`draw`] writes.
    letters_at: u32,
    /// The number of keys or flows to draw from. If it is 0, the drawn numbers come from [`DRAWS`].
    of: u32,
    /// The value to which `Flow::response_next` is set.
    response_next: Seq,
}

#[map]
static REWIND: Array<Rewind> = Array::with_max_entries(1, 0);

/// Numbers that were drawn in advance, in a distribution that is not uniform. The length of the map
/// is a power of two, so that a mask can limit the index.
#[map]
static DRAWS: Array<u32> = Array::with_max_entries(1 << 16, 0);

/// Returns the number of a key or a flow, drawn at random.
#[inline(always)]
fn drawn() -> u32 {
    let random = random();
    let of = REWIND.get(0).map_or(0, |to| to.of);
    if of == 0 {
        return DRAWS.get(random & 0xffff).copied().unwrap_or(0);
    }
    ((u64::from(random) * u64::from(of)) >> 32) as u32
}

/// Returns the values to rewind to, the flow to rewind, and the counts of the scope to rewind.
/// Nothing else runs, so the flow needs no lock.
#[inline(always)]
fn target() -> Option<(&'static Rewind, &'static mut Flow, ScopeCounts)> {
    let to = REWIND.get(0)?;
    Some((to, maps::lent_flow(&to.key)?, maps::counts(to.scope)?))
}

#[inline(always)]
fn rewind() {
    let Some((to, flow, counts)) = target() else {
        return;
    };
    flow.next = to.next;
    flow.answered = flow.asked;
    // The records are discarded as if the server had acknowledged their bytes.
    flow.records_kept = 0;
    // A dropped request is not counted again when it is retransmitted, but here each request is a
    // new one.
    flow.flags &= !FLOW_DROP_COUNTED;
    counts.in_flight().store(0);
    counts.tat_ns().store(0);
}

/// Rewinds the flow to the state after its request was admitted and before any byte of the response
/// arrived.
#[inline(always)]
fn rewind_response() {
    let Some((to, flow, counts)) = target() else {
        return;
    };
    flow.response_next = to.response_next;
    let number = flow.asked.wrapping_sub(1);
    flow.answered = number;
    *scope_of(flow, number) = to.scope;
    counts.in_flight().store(1);
}

/// Writes one of at most 2^20 keys into the packet. The last eight bytes of a key are letters. Each
/// of the first five letters, from `a` to `p`, encodes four bits of the number of the key,
/// beginning with the lowest bits.
#[inline(always)]
fn draw(skb: Skb) {
    let Some(to) = REWIND.get(0) else { return };
    let number = u64::from(drawn());
    let mut letters = u64::from_le_bytes(*b"aaaaaaaa");
    for letter in 0..5 {
        letters += (number >> (4 * letter) & 15) << (8 * letter);
    }
    skb.store(to.letters_at, &letters);
}

/// The offsets, in bytes, of the client's address and port in an IPv4 packet. The offsets count
/// from the start of the Ethernet header.
const CLIENT_AT: u32 = 14 + 12;
const CLIENT_PORT_AT: u32 = 14 + 20;

/// Turns the packet into one of a flow drawn at random. `client_of` and `port_of` in
/// tests/benches/scale number the flows in the same way. The two halves of the address change by
/// opposite amounts, so that the sum of the header stays the same.
#[inline(always)]
fn draw_flow(skb: Skb) {
    let Some(to) = REWIND.get(0) else { return };
    let number = drawn();
    let (group, port) = (number >> 15, 1024 + (number & 0x7fff));
    let address = ((0x0a00 + group) << 16 | (0xf000 - group)).to_be();
    let port = (port as u16).to_be();
    let mut to = *to;
    let [.., last] = &mut to.key.client;
    *last = address;
    to.key.client_port = port;
    // This cannot fail, because the only entry of the map always exists.
    let _there = REWIND.set(0, to, 0);
    skb.store(CLIENT_AT, &address);
    skb.store(CLIENT_PORT_AT, &port);
}

/// Does nothing, to measure the cost of a run.
#[classifier]
pub fn bench_empty(_ctx: TcContext) -> i32 {
    0
}

/// Does the preparation of `bench_request`, but handles no packet.
#[classifier]
pub fn bench_rewind(_ctx: TcContext) -> i32 {
    rewind();
    0
}

/// Does the preparation of `bench_checked`, but handles no packet.
#[classifier]
pub fn bench_rewind_checked(ctx: TcContext) -> i32 {
    rewind();
    Skb::of(&ctx).set_checked();
    0
}

/// Handles a packet from the client on a rewound flow. The checksum is marked as verified by the
/// device.
#[classifier]
#[inline(always)]
pub fn bench_checked(ctx: TcContext) -> i32 {
    rewind();
    Skb::of(&ctx).set_checked();
    ingress::run::<true>(Skb::of(&ctx))
}

/// Does the preparation of `bench_response`, but handles no packet.
#[classifier]
pub fn bench_rewind_response(_ctx: TcContext) -> i32 {
    rewind_response();
    0
}

/// Handles a packet from the server, which answers the request of a rewound flow.
#[classifier]
#[inline(always)]
pub fn bench_response(ctx: TcContext) -> i32 {
    rewind_response();
    egress::run::<true>(Skb::of(&ctx))
}

/// Does the preparation of `bench_drawn`, but handles no packet.
#[classifier]
pub fn bench_rewind_drawn(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    rewind();
    skb.set_checked();
    draw(skb);
    0
}

/// Does the same as `bench_checked`, with a different key each time.
#[classifier]
#[inline(always)]
pub fn bench_drawn(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    rewind();
    skb.set_checked();
    draw(skb);
    ingress::run::<true>(skb)
}

/// Does the preparation of `bench_drawn_flow`, but handles no packet.
#[classifier]
pub fn bench_rewind_drawn_flow(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    draw_flow(skb);
    rewind();
    skb.set_checked();
    0
}

/// Does the same as `bench_checked`, on a different flow each time.
#[classifier]
#[inline(always)]
pub fn bench_drawn_flow(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    draw_flow(skb);
    rewind();
    skb.set_checked();
    ingress::run::<true>(skb)
}

/// Handles a packet from the client on a rewound flow. The checksum has not been verified.
#[classifier]
#[inline(always)]
pub fn bench_request(ctx: TcContext) -> i32 {
    rewind();
    ingress::run::<true>(Skb::of(&ctx))
}
