// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The programs that are attached to the hooks during a changeover, in which one set of maps
//! replaces another. Each of these programs continues as the program for the set that is in force.
//! While one set is copied to the other, these programs let no packet change either set.
//!
//! One word states which set is in force, for all hooks at once. During a copy, the word contains a
//! point in time instead. If the daemon dies during the copy, all hooks continue with the old maps
//! after that time.

use aya_ebpf::programs::TcContext;
use limiter_common::abi::{counter, switch};

use crate::{
    kernel::{
        maps,
        skb::{DROP, NEXT, Skb, boot_ns},
    },
    packet::{
        header::{Direction, Kind},
        parse,
    },
};

/// Continues as the program for the set of maps that is in force. If neither set is in force, drops
/// a packet that would change the maps. `program` is the index (`switch::INGRESS` to
/// `switch::EGRESS_L3`) of the program that this one replaces.
#[inline(always)]
pub fn run<const L2: bool>(ctx: &TcContext, direction: Direction, program: u32) -> i32 {
    if let Some(new) = in_force() {
        // `go_on` returns only while the programs are being removed. By then, another program has
        // already replaced this one.
        maps::go_on(
            ctx,
            if new {
                switch::PROGRAMS + program
            } else {
                program
            },
        );
    }
    hold::<L2>(Skb::of(ctx), direction)
}

/// Returns whether the new maps are in force, or `None` if neither set is.
#[inline(always)]
fn in_force() -> Option<bool> {
    let word = maps::switched()?;
    match word.load() {
        switch::OLD => Some(false),
        switch::NEW => Some(true),
        until if boot_ns() < until => None,
        // The time for the copy is over. Changing the word to `OLD` prevents the daemon from
        // completing the copy.
        until if word.swap(until, switch::OLD) => Some(false),
        // The daemon or another CPU has changed the word in the meantime.
        _ => None,
    }
}

/// Drops packets that would change the maps. TCP will retransmit them.
#[inline(always)]
fn hold<const L2: bool>(skb: Skb, direction: Direction) -> i32 {
    let to_server = direction == Direction::ToServer;
    if maps::is_own(skb) {
        if to_server {
            skb.set_mark(0);
        }
        return NEXT;
    }
    let work = match parse::<L2>(skb, direction) {
        (Kind::Other, _) => return NEXT,
        (Kind::Segment, work) => work,
        // As in the other programs, a packet that cannot be parsed is dropped if it goes to a
        // server, and let through otherwise.
        _ if to_server => None,
        _ => return NEXT,
    };
    maps::count(counter::CONTENDED_DROPPED);
    if to_server && let Some(work) = work {
        maps::count_by(counter::DROPPED_BYTES, u64::from(work.packet.len));
    }
    DROP
}
