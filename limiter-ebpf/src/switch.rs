//! What stands on the hooks while a set of maps takes the place of another: goes on as the program of the
//! set that is in force, and lets no packet change either while one is copied to the other.
//!
//! One word says which it is, for all hooks at once. A daemon that dies while it copies leaves a moment
//! in it, after which everything goes on with the old maps.

use aya_ebpf::programs::TcContext;
use limiter_common::abi::{OWN_MARK, counter, switch};

use crate::{
    atomic, maps,
    packet::{Direction, Parsed, parse},
    skb::{DROP, NEXT, Skb, boot_ns},
};

/// `program` is the number of the one in whose place this is.
#[inline(always)]
pub fn run<const L2: bool>(ctx: &TcContext, direction: Direction, program: u32) -> i32 {
    if let Some(new) = in_force() {
        // Returns when the programs are being taken away, since this one was replaced just now.
        maps::go_on(
            ctx,
            if new {
                switch::PROGRAMS + program
            } else {
                program
            },
        );
    }
    hold::<L2>(Skb(ctx.skb.skb), direction)
}

/// Whether the new maps are in force; `None` if neither are.
#[inline(always)]
fn in_force() -> Option<bool> {
    let word = maps::switched()?;
    // SAFETY: a live map value.
    unsafe {
        match atomic::load(word) {
            switch::OLD => Some(false),
            switch::NEW => Some(true),
            until if boot_ns() < until => None,
            // The daemon must not take a copy for whole that is older than this packet.
            until if atomic::swap(word, until, switch::OLD) => Some(false),
            // It was faster.
            _ => None,
        }
    }
}

/// Drops what would change the maps: TCP sends it again.
#[inline(always)]
fn hold<const L2: bool>(skb: Skb, direction: Direction) -> i32 {
    let to_server = direction == Direction::ToServer;
    if skb.mark() == OWN_MARK {
        if to_server {
            skb.set_mark(0);
        }
        return NEXT;
    }
    let work = match parse::<L2>(skb, direction) {
        (Parsed::Other, _) => return NEXT,
        (Parsed::Segment, work) => work,
        // As the programs themselves have it.
        _ if to_server => None,
        _ => return NEXT,
    };
    maps::count(counter::CONTENDED_DROPPED);
    if to_server && let Some(work) = work {
        // SAFETY: a live map value, of this CPU alone.
        let len = unsafe { (*work).packet.len };
        maps::count_by(counter::DROPPED_BYTES, u64::from(len));
    }
    DROP
}
