// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! TC programs that lose, duplicate and delay packets at random, for tests. They are attached to
//! the interface of a client, to the interface of a server, or to loopback.
//!
//! A delayed packet goes through a veth pair, whose queue lets one packet through every few
//! milliseconds. The packet then continues on its original path, with a mark that exempts it from
//! the rules. The queue would let the first packets through immediately, as a burst. A copy of each
//! delayed packet is therefore sent through the queue first. The copy uses up the burst, and is
//! dropped after the queue. Even the first delayed packet thus has to wait.
#![no_std]
#![no_main]

mod abi;

use abi::{CERTAIN, Config, Rule, TO_CLIENT, TO_SERVER, count, place};
use aya_ebpf::{
    helpers::generated::{
        bpf_clone_redirect, bpf_get_prandom_u32, bpf_redirect, bpf_skb_change_type,
    },
    macros::{classifier, map},
    maps::{Array, PerCpuArray},
    programs::TcContext,
};

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(place(2, 0), 0);

/// The verdict that passes the packet on to later programs and to the stack (`TCX_NEXT`, and
/// `TC_ACT_UNSPEC` for clsact).
const NEXT: i32 = -1;
/// The verdict that drops the packet (`TC_ACT_SHOT`).
const DROP: i32 = 2;
/// The flag that redirects a packet to the ingress of an interface (`BPF_F_INGRESS`).
const INGRESS: u64 = 1;

/// The type of packets that are addressed to this host (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// The mark of packets that these programs have already handled, and now let through.
const DONE: u32 = 0x6469_7300;
/// The mark of packets that are dropped after the queue, at the other end of the veth pair.
const FILLER: u32 = 0x6469_7301;
/// The mark of delayed packets that were leaving the interface.
const LATE_OUT: u32 = 0x6469_7302;
/// The mark of delayed packets that were arriving on the interface.
const LATE_IN: u32 = 0x6469_7303;

const ETH_LEN: usize = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const IPV6_LEN: usize = 40;
const IPPROTO_TCP: u8 = 6;

/// Handles packets that leave the interface.
#[classifier]
pub fn disorder_egress(ctx: TcContext) -> i32 {
    disorder(&ctx, false)
}

/// Handles packets that arrive on the interface.
#[classifier]
pub fn disorder_ingress(ctx: TcContext) -> i32 {
    disorder(&ctx, true)
}

/// Handles packets that come out of the queue, at the other end of the veth pair.
#[classifier]
pub fn disorder_late(ctx: TcContext) -> i32 {
    let Some(config) = config() else { return DROP };
    let (incoming, flags) = match mark(&ctx) {
        LATE_OUT => (false, 0),
        LATE_IN => (true, INGRESS),
        _ => return DROP,
    };
    ctx.skb.set_mark(DONE);
    // The destination MAC address of the packet belongs to neither end of the veth pair. The kernel
    // has therefore marked the packet as one for another host, and loopback would drop it.
    // SAFETY: the kernel passes a valid context.
    unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) };
    note(direction(config, incoming), count::LATE);
    redirect(config.interface, flags)
}

#[inline(always)]
fn disorder(ctx: &TcContext, incoming: bool) -> i32 {
    let old_mark = mark(ctx);
    if old_mark == DONE {
        ctx.skb.set_mark(0);
        return NEXT;
    }
    let Some(config) = config() else { return NEXT };
    let direction = direction(config, incoming);
    let Some(flags) = segment(ctx, config.port, direction) else {
        return NEXT;
    };
    note(direction, count::SEEN);
    let rule = &config.rules[direction & 1];
    if rule.flags != 0 && rule.flags & flags == 0 {
        return NEXT;
    }
    act(ctx, config, rule, direction, incoming, old_mark)
}

#[inline(always)]
fn act(
    ctx: &TcContext,
    config: &Config,
    rule: &Rule,
    direction: usize,
    incoming: bool,
    old_mark: u32,
) -> i32 {
    let (late, way) = if incoming {
        (LATE_IN, INGRESS)
    } else {
        (LATE_OUT, 0)
    };
    if drawn(rule.lose) {
        note(direction, count::LOST);
        // The packet is dropped at the other end of the veth pair. If this program returned a drop
        // verdict instead, the kernel would report the drop to the sender, and the sender would not
        // count the packet as sent.
        ctx.skb.set_mark(FILLER);
        return redirect(config.back, INGRESS);
    }
    if drawn(rule.double) && copy(ctx, DONE, config.interface, way) {
        note(direction, count::DOUBLED);
    }
    if drawn(rule.echo) && copy(ctx, FILLER, config.slow, 0) && copy(ctx, late, config.slow, 0) {
        note(direction, count::ECHOED);
    }
    if drawn(rule.hold) && copy(ctx, FILLER, config.slow, 0) {
        note(direction, count::HELD);
        ctx.skb.set_mark(late);
        return redirect(config.slow, 0);
    }
    ctx.skb.set_mark(old_mark);
    NEXT
}

/// Returns the direction of packets that arrive on the interface (`incoming`) or leave it.
#[inline(always)]
fn direction(config: &Config, incoming: bool) -> usize {
    if incoming == (config.server_side != 0) {
        TO_SERVER
    } else {
        TO_CLIENT
    }
}

/// Returns the flags of a TCP segment to the server's `port` or, in the direction to the client,
/// from that port. Returns `None` for all other packets.
#[inline(always)]
fn segment(ctx: &TcContext, port: u32, direction: usize) -> Option<u32> {
    let (protocol, tcp) = match u16::from_be(ctx.load::<u16>(ETH_LEN - 2).ok()?) {
        ETH_P_IP => {
            let header = usize::from(ctx.load::<u8>(ETH_LEN).ok()? & 15) * 4;
            (ctx.load::<u8>(ETH_LEN + 9).ok()?, ETH_LEN + header)
        }
        ETH_P_IPV6 => (ctx.load::<u8>(ETH_LEN + 6).ok()?, ETH_LEN + IPV6_LEN),
        _ => return None,
    };
    if protocol != IPPROTO_TCP {
        return None;
    }
    let at = if direction == TO_SERVER { 2 } else { 0 };
    let servers = u16::from_be(ctx.load::<u16>(tcp + at).ok()?);
    let flags = ctx.load::<u8>(tcp + 13).ok()?;
    (u32::from(servers) == port).then_some(u32::from(flags))
}

/// Sends a copy of the packet with the mark `mark`, and returns whether the copy was sent.
#[inline(always)]
fn copy(ctx: &TcContext, mark: u32, interface: u32, flags: u64) -> bool {
    ctx.skb.set_mark(mark);
    // SAFETY: the kernel passes a valid context.
    unsafe { bpf_clone_redirect(ctx.skb.skb, interface, flags) == 0 }
}

#[inline(always)]
fn redirect(interface: u32, flags: u64) -> i32 {
    // SAFETY: the helper takes only numbers.
    unsafe { bpf_redirect(interface, flags) as i32 }
}

#[inline(always)]
fn drawn(probability: u32) -> bool {
    // SAFETY: the helper takes no arguments.
    let drawn = unsafe { bpf_get_prandom_u32() };
    drawn % CERTAIN < probability
}

#[inline(always)]
fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

#[inline(always)]
fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel passes a valid context.
    unsafe { (*ctx.skb.skb).mark }
}

#[inline(always)]
fn note(direction: usize, kind: usize) {
    if let Some(count) = COUNTS.get_ptr_mut(place(direction, kind)) {
        // SAFETY: the pointer refers to this CPU's entry, and TC programs of one CPU do not
        // interrupt each other.
        unsafe { *count += 1 };
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The programs never panic, because the verifier would reject a program that could.
    loop {}
}
