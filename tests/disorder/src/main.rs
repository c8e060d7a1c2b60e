//! TC programs for tests, at the interface of a client (or a server, or loopback): they lose,
//! double and hold up packets, by chance.
//!
//! A packet that is held goes through a veth pair whose queue lets one packet through every few
//! milliseconds, and comes back where it was, marked as done with. So that also the first one has
//! to wait, each is preceded by a copy that uses up what the queue would let pass at once, and that
//! is dropped behind it.
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

/// Let later programs and the stack have the packet (`TCX_NEXT`, and `TC_ACT_UNSPEC` of clsact).
const NEXT: i32 = -1;
/// Drop the packet (`TC_ACT_SHOT`).
const DROP: i32 = 2;
/// Deliver into the ingress of the interface (`BPF_F_INGRESS`).
const INGRESS: u64 = 1;

/// linux/if_packet.h.
const PACKET_HOST: u32 = 0;

/// Marks of packets that these programs have been at: to be let by.
const DONE: u32 = 0x6469_7300;
/// To be dropped behind the queue.
const FILLER: u32 = 0x6469_7301;
/// To be sent on, out of the interface.
const LATE_OUT: u32 = 0x6469_7302;
/// To be sent on, into the interface.
const LATE_IN: u32 = 0x6469_7303;

const ETH_LEN: usize = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const IPV6_LEN: usize = 40;
const IPPROTO_TCP: u8 = 6;

/// What leaves the interface.
#[classifier]
pub fn disorder_egress(ctx: TcContext) -> i32 {
    disorder(&ctx, false)
}

/// What comes in by it.
#[classifier]
pub fn disorder_ingress(ctx: TcContext) -> i32 {
    disorder(&ctx, true)
}

/// Behind the queue: what comes in by the other end of the pair.
#[classifier]
pub fn disorder_late(ctx: TcContext) -> i32 {
    let Some(config) = config() else { return DROP };
    let (incoming, flags) = match mark(&ctx) {
        LATE_OUT => (false, 0),
        LATE_IN => (true, INGRESS),
        _ => return DROP,
    };
    ctx.skb.set_mark(DONE);
    // By its address it is for none of the pair; loopback would find no fault with that, and drop it.
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
        // A verdict would tell the sender, who would not count it as sent.
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

/// Which way packets go that come in by the interface, or leave by it.
#[inline(always)]
fn direction(config: &Config, incoming: bool) -> usize {
    if incoming == (config.server_side != 0) {
        TO_SERVER
    } else {
        TO_CLIENT
    }
}

/// The flags of a TCP segment of `port`; `None`: it is something else.
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

/// Sends a copy with this mark.
#[inline(always)]
fn copy(ctx: &TcContext, mark: u32, interface: u32, flags: u64) -> bool {
    ctx.skb.set_mark(mark);
    // SAFETY: the kernel passes a valid context.
    unsafe { bpf_clone_redirect(ctx.skb.skb, interface, flags) == 0 }
}

#[inline(always)]
fn redirect(interface: u32, flags: u64) -> i32 {
    // SAFETY: takes numbers only.
    unsafe { bpf_redirect(interface, flags) as i32 }
}

#[inline(always)]
fn drawn(probability: u32) -> bool {
    // SAFETY: takes nothing.
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
        // SAFETY: this CPU's entry, which only this program writes.
        unsafe { *count += 1 };
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in the programs panics: a path that could would not pass the verifier.
    loop {}
}
