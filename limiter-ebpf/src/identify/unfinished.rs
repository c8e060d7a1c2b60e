// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Begins and ends the scan of a segment, and keeps the head or the line that a segment leaves
//! unfinished. Most segments leave none, so it is kept in a map of its own instead of in the flow.

use limiter_common::{
    abi::{Flow, REQUESTS, UnfinishedKey, counter, phase, policy},
    fingerprint,
    http::{CARRY, Progress},
};

use crate::kernel::{global::global, maps, scanner, work::Work};

global! {
    /// Continues with the unfinished head or line of the packet's flow in `direction`.
    fn limiter_resume(work; direction: u32) -> () = resume, or ();

    /// Keeps the head or the line in `Work::scan`, which the segment has left unfinished, or, if
    /// `unfinished` is 0, removes the one that was kept. Without memory for it, the direction is
    /// malformed from the next segment on. If the policy `table_full` is `"pass"`, the client's
    /// stream is no longer parsed.
    fn limiter_suspend(work, flow; direction: u32, unfinished: u32) -> () = suspend, or ();
}

/// Begins the scan of the packet's payload, of which the bytes before `from` were scanned earlier.
/// `direction` is `REQUESTS` or `RESPONSES`, and `progress` is that of the flow.
#[inline(always)]
pub fn begin(work: &mut Work, progress: &Progress, direction: u32, from: u32) {
    let len = work.packet.len;
    scanner::begin(&mut work.scan, progress, from, len);
    if progress.is_unfinished() {
        limiter_resume(work, direction);
    }
}

/// Ends the scan of the packet's payload, and keeps what it has left unfinished.
#[inline(always)]
pub fn end(work: &mut Work, flow: &mut Flow, direction: u32) {
    let progress = if direction == REQUESTS {
        &mut flow.request
    } else {
        &mut flow.response
    };
    let before = progress.unfinished();
    scanner::end(&mut work.scan, progress);
    let now = progress.unfinished();
    if before | now != 0 {
        limiter_suspend(work, flow, direction, now);
    }
}

/// The body of [`limiter_resume`]. The line is unmasked only while the scanner copies it.
#[inline(always)]
fn resume(work: &mut Work, direction: u32) {
    let key = UnfinishedKey {
        flow: work.packet.key,
        direction,
    };
    let Some(kept) = maps::unfinished(&key) else {
        scanner::resume_without(&mut work.scan);
        return;
    };
    work.unfinished.copy(kept);
    mask(work);
    scanner::resume(&mut work.scan, &work.unfinished);
    work.unfinished.clear();
}

/// The body of [`limiter_suspend`].
#[inline(always)]
fn suspend(work: &mut Work, flow: &mut Flow, direction: u32, unfinished: u32) {
    let key = UnfinishedKey {
        flow: work.packet.key,
        direction,
    };
    if unfinished == 0 {
        maps::remove_unfinished(&key);
        return;
    }
    scanner::suspend(&mut work.scan, &mut work.unfinished);
    mask(work);
    if let Some(kept) = maps::unfinished(&key) {
        kept.copy(&work.unfinished);
        return;
    }
    if !maps::insert_unfinished(&key, &work.unfinished) {
        maps::count(counter::TABLE_FULL);
        if let Some(config) = maps::config()
            && (config.table_full != policy::REJECT || config.observe != 0)
            && direction == REQUESTS
        {
            flow.phase = phase::OPAQUE;
        }
    }
}

/// Masks or unmasks the line in `Work::unfinished`, if there is one. The line may contain a key,
/// and no map may contain a key in plain text.
#[inline(always)]
fn mask(work: &mut Work) {
    const { assert!(CARRY / 8 <= fingerprint::KEY_WORDS) };
    if work.scan.state.has_line()
        && let Some(config) = maps::config()
        && let Some(pad) = config.fingerprint_key.first_chunk()
    {
        work.unfinished.mask(pad);
    }
}
