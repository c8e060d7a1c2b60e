// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Runs the scanner of `limiter_common::http` on a packet.

use limiter_common::{
    abi::KEY_ADOPTED,
    http::{self, Rules, Scan},
};

use crate::kernel::{
    global::global,
    maps,
    repeat::repeat,
    scanner,
    skb::Skb,
    verifier::{reread, write_through},
    work::Work,
};

global! {
    /// Runs the scanner over the window in `Work::scan` by the rules for requests, and chooses the
    /// key of a request that has several. (The key is chosen here because that costs the verifier
    /// the least work.)
    fn limiter_lines(work;) -> () = request_lines, or ();

    /// Returns whether the request in `Work` has a registered key from the source whose rank is
    /// `rank`.
    fn limiter_is_registered(work; rank: u32) -> bool = is_registered, or false;
}

/// Scans one unit of the payload by the rules for requests, and returns whether `Scan::event`
/// reports an event.
#[inline(always)]
pub fn request_unit(skb: Skb, work: &mut Work, rules: &Rules) -> bool {
    let payload = work.packet.payload;
    scanner::unit(work, rules, skb, payload, limiter_lines)
}

/// Scans one unit of the payload by the rules for responses, and returns whether `Scan::event`
/// reports an event.
#[inline(always)]
pub fn response_unit(skb: Skb, work: &mut Work, rules: &Rules) -> bool {
    let payload = work.packet.payload;
    scanner::unit(work, rules, skb, payload, |work| {
        lines(&mut work.scan, rules);
    })
}

/// Returns the demands of the request whose head is complete (see [`http::demands`]).
#[inline(always)]
pub fn demands(scan: &mut Scan) -> u32 {
    let demands = http::demands(&scan.state);
    // The value is passed through memory, where the verifier loses track of how it was computed.
    write_through(&mut scan.demands, demands);
    reread(&scan.demands)
}

/// The state of the loop over lines.
struct Lines<'a> {
    scan: &'a mut Scan,
    rules: &'a Rules,
}

/// Runs the scanner over the window until the scanner reports an event or needs the next window.
#[inline(always)]
fn lines(scan: &mut Scan, rules: &Rules) {
    repeat(http::LINES, &mut Lines { scan, rules }, line);
}

#[inline(always)]
fn line(lines: &mut Lines<'_>, _: u32) -> bool {
    scanner::line(lines.scan, lines.rules)
}

/// The body of [`limiter_lines`].
#[inline(always)]
fn request_lines(work: &mut Work) {
    let Some(config) = maps::config() else { return };
    lines(&mut work.scan, &config.request_rules);
    if http::has_several_keys(&work.scan.state) && work.scan.event == http::EVENT_HEAD {
        choose_key(work);
    }
}

/// Chooses the key by which a request with a complete head is judged. That is the first registered
/// key, or the first of all keys if none is registered.
#[inline(always)]
fn choose_key(work: &mut Work) {
    for rank in 0..http::KEY_SOURCES as u32 {
        if limiter_is_registered(work, rank) {
            http::choose_key(&mut work.scan.state, rank);
            return;
        }
    }
}

/// The body of [`limiter_is_registered`].
#[inline(always)]
fn is_registered(work: &mut Work, rank: u32) -> bool {
    let Some(digest) = http::key_at(&work.scan.state, rank) else {
        return false;
    };
    match maps::key(digest) {
        Some(key) => key.flags() & KEY_ADOPTED == 0,
        None => false,
    }
}
