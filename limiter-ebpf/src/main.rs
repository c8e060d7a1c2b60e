//! The kernel half of limiter: TC programs that follow the connections of guarded ports, read the
//! API keys out of their HTTP/1.x requests and decide, before a server sees them.
//!
//! The way of a packet: parse (`packet`), follow the stream (`ingress`, `egress`, `flow`), identify
//! (`limiter_common::http`), decide (`decide`), act (`refuse`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "atomic operations of BPF are only there as intrinsics"
)]

mod atomic;
#[cfg(feature = "bench")]
mod bench;
mod charge;
mod checksum;
mod decide;
mod doubt;
mod egress;
mod ending;
mod flow;
mod global;
mod ingress;
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "keys and values that are passed by value are copied to the stack"
)]
mod maps;
mod packet;
mod print;
mod recount;
mod refusals;
mod refuse;
mod replay;
mod requests;
mod scan;
mod skb;
mod stranger;
mod sweep;
mod switch;
mod work;

use aya_ebpf::{macros::classifier, programs::TcContext};
use limiter_common::abi::switch::{EGRESS, EGRESS_L3, INGRESS, INGRESS_L3};
use packet::Direction;
use skb::Skb;

/// Packets from clients, on devices with Ethernet headers.
#[classifier]
#[inline(always)]
pub fn limiter_ingress(ctx: TcContext) -> i32 {
    ingress::run::<true>(Skb(ctx.skb.skb))
}

/// Packets to clients, on devices with Ethernet headers.
#[classifier]
#[inline(always)]
pub fn limiter_egress(ctx: TcContext) -> i32 {
    egress::run::<true>(Skb(ctx.skb.skb))
}

/// Packets from clients, on devices whose packets begin with the IP header.
#[classifier]
#[inline(always)]
pub fn limiter_ingress_l3(ctx: TcContext) -> i32 {
    ingress::run::<false>(Skb(ctx.skb.skb))
}

/// Packets to clients, on devices whose packets begin with the IP header.
#[classifier]
#[inline(always)]
pub fn limiter_egress_l3(ctx: TcContext) -> i32 {
    egress::run::<false>(Skb(ctx.skb.skb))
}

/// In place of `limiter_ingress` while other maps take the place of its own.
#[classifier]
pub fn limiter_hold_ingress(ctx: TcContext) -> i32 {
    switch::run::<true>(&ctx, Direction::ToServer, INGRESS)
}

/// In place of `limiter_egress`, likewise.
#[classifier]
pub fn limiter_hold_egress(ctx: TcContext) -> i32 {
    switch::run::<true>(&ctx, Direction::ToClient, EGRESS)
}

/// In place of `limiter_ingress_l3`, likewise.
#[classifier]
pub fn limiter_hold_ingress_l3(ctx: TcContext) -> i32 {
    switch::run::<false>(&ctx, Direction::ToServer, INGRESS_L3)
}

/// In place of `limiter_egress_l3`, likewise.
#[classifier]
pub fn limiter_hold_egress_l3(ctx: TcContext) -> i32 {
    switch::run::<false>(&ctx, Direction::ToClient, EGRESS_L3)
}

/// Removes dead flows; run by the daemon (`BPF_PROG_TEST_RUN`), attached nowhere.
#[classifier]
pub fn limiter_sweep(_ctx: TcContext) -> i32 {
    sweep::run()
}

/// Removes one flow whose socket is gone; run by the daemon, attached nowhere.
#[classifier]
pub fn limiter_forget(_ctx: TcContext) -> i32 {
    sweep::forget()
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the programs panics: a path that could would not pass the verifier.
    loop {}
}
