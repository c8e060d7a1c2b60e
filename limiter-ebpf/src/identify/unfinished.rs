// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Begins and ends the scan of a segment, and keeps the head or the line that a segment leaves
//! unfinished. Most segments leave none, so it is kept in a map of its own instead of in the flow.

use limiter_common::{
    abi::{UnfinishedKey, counter},
    fingerprint,
    http::{CARRY, Progress},
};

use crate::kernel::{global::global, maps, scanner, work::Work};

global! {
    /// Continues with the unfinished head or line of the packet's flow in `direction`.
    fn limiter_resume(work; direction: u32) -> () = resume, or ();

    /// Keeps the head or the line in `Work::scan`, which the segment has left unfinished, or, if
    /// `unfinished` is 0, removes the one that was kept. Without memory for it, the
    /// direction is malformed from the next segment on.
    fn limiter_suspend(work; direction: u32, unfinished: u32) -> () = suspend, or ();
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
pub fn end(work: &mut Work, progress: &mut Progress, direction: u32) {
    let before = progress.unfinished();
    scanner::end(&mut work.scan, progress);
    let now = progress.unfinished();
    if before | now != 0 {
        limiter_suspend(work, direction, now);
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
fn suspend(work: &mut Work, direction: u32, unfinished: u32) {
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
    if !maps::insert_unfinished(&key, &work.unfinished) {
        // What was kept for an earlier segment is of no use now.
        maps::remove_unfinished(&key);
        maps::count(counter::TABLE_FULL);
    }
}

/// Masks or unmasks the line in `Work::unfinished`. The line may contain a key, and no map may
/// contain a key in plain text.
#[inline(always)]
fn mask(work: &mut Work) {
    const { assert!(CARRY / 8 <= fingerprint::KEY_WORDS) };
    if let Some(config) = maps::config()
        && let Some(pad) = config.fingerprint_key.first_chunk()
    {
        work.unfinished.mask(pad);
    }
}
