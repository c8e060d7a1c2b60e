// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The kernel half of limiter, which consists of TC programs. These programs follow the connections
//! of guarded ports, read the API keys in HTTP/1.x requests, and decide whether each request may
//! reach the server.
//!
//! A packet goes through these steps: it is parsed (`packet`) and assigned to its connection
//! (`follow`), its requests and their keys are identified (`identify`), each request is admitted or
//! refused (`decide`), and the packet is let through or answered (`refuse`). `ingress` and `egress`
//! show the steps for each direction. All these modules use `kernel`, which is the only module with
//! unsafe code.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "the atomic operations of BPF are available only as intrinsics"
)]

mod decide;
mod egress;
mod follow;
mod identify;
mod ingress;
mod jobs;
mod kernel;
mod open;
mod packet;
mod refuse;
mod requests;

use aya_ebpf::{macros::classifier, programs::TcContext};
use jobs::{sweep, switch};
use kernel::skb::Skb;
use limiter_common::abi::switch::{EGRESS, EGRESS_L3, INGRESS, INGRESS_L3};
use packet::header::Direction;

/// Handles packets from clients on devices with Ethernet headers.
#[classifier]
#[inline(always)]
pub fn limiter_ingress(ctx: TcContext) -> i32 {
    ingress::run::<true>(Skb::of(&ctx))
}

/// Handles packets to clients on devices with Ethernet headers.
#[classifier]
#[inline(always)]
pub fn limiter_egress(ctx: TcContext) -> i32 {
    egress::run::<true>(Skb::of(&ctx))
}

/// Handles packets from clients on devices whose packets begin with the IP header.
#[classifier]
#[inline(always)]
pub fn limiter_ingress_l3(ctx: TcContext) -> i32 {
    ingress::run::<false>(Skb::of(&ctx))
}

/// Handles packets to clients on devices whose packets begin with the IP header.
#[classifier]
#[inline(always)]
pub fn limiter_egress_l3(ctx: TcContext) -> i32 {
    egress::run::<false>(Skb::of(&ctx))
}

/// Runs in place of `limiter_ingress` while a new set of maps replaces the old one.
#[classifier]
pub fn limiter_hold_ingress(ctx: TcContext) -> i32 {
    switch::run::<true>(&ctx, Direction::ToServer, INGRESS)
}

/// Runs in place of `limiter_egress` while a new set of maps replaces the old one.
#[classifier]
pub fn limiter_hold_egress(ctx: TcContext) -> i32 {
    switch::run::<true>(&ctx, Direction::ToClient, EGRESS)
}

/// Runs in place of `limiter_ingress_l3` while a new set of maps replaces the old one.
#[classifier]
pub fn limiter_hold_ingress_l3(ctx: TcContext) -> i32 {
    switch::run::<false>(&ctx, Direction::ToServer, INGRESS_L3)
}

/// Runs in place of `limiter_egress_l3` while a new set of maps replaces the old one.
#[classifier]
pub fn limiter_hold_egress_l3(ctx: TcContext) -> i32 {
    switch::run::<false>(&ctx, Direction::ToClient, EGRESS_L3)
}

/// Sweeps the tables of connections (see `jobs::sweep`). This program is not attached to any hook.
/// The daemon runs it with `BPF_PROG_TEST_RUN`.
#[classifier]
pub fn limiter_sweep(_ctx: TcContext) -> i32 {
    sweep::run()
}

/// Removes one flow whose socket is gone. This program is not attached to any hook. The daemon runs
/// it with `BPF_PROG_TEST_RUN`.
#[classifier]
pub fn limiter_forget(_ctx: TcContext) -> i32 {
    sweep::forget()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // This is never called, because the verifier would reject a program that could panic.
    loop {}
}
