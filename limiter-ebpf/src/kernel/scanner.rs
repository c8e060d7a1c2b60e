// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A wrapper around the scanner of `limiter_common::http` that takes references instead of
//! pointers.
//!
//! The functions of that crate require that their pointers are valid and that nothing else uses the
//! memory. The references that callers pass to the wrapper guarantee both.

use limiter_common::http::{self, Payload, Progress, Rules, Scan, Unfinished};

use crate::kernel::{skb::Skb, work::Work};

/// The payload of a packet, which begins at the offset `payload`.
struct Source {
    skb: Skb,
    payload: u32,
}

impl Payload for Source {
    #[inline(always)]
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the scanner's buffer has room for a window, and `len` is never more than that.
        unsafe { self.skb.load_to(self.payload + at, to, len) }
    }
}

const _: () = assert!(http::WINDOW == 4096, "the bound in `Skb::load_to`");

/// Begins the scan of a segment with `len` bytes of payload. The bytes before `from` were scanned
/// earlier. If `progress` is unfinished, [`resume`] or [`resume_without`] has to be called next.
#[inline(always)]
pub fn begin(scan: &mut Scan, progress: &Progress, from: u32, len: u32) {
    // SAFETY: the caller's references are valid and exclusive.
    unsafe { http::begin(scan, progress, from, len) };
}

/// Continues with the head or the line that the last segment has left unfinished.
#[inline(always)]
pub fn resume(scan: &mut Scan, unfinished: &Unfinished) {
    // SAFETY: the caller's references are valid and exclusive.
    unsafe { http::resume(scan, unfinished) };
}

/// Makes the direction malformed, because the unfinished head or line is missing.
#[inline(always)]
pub fn resume_without(scan: &mut Scan) {
    // SAFETY: the caller's reference is valid and exclusive.
    unsafe { http::resume_without(scan) };
}

/// Makes the scan end after at most `len` more bytes.
#[inline(always)]
pub fn end_early(scan: &mut Scan, len: u32) {
    // SAFETY: the caller's reference is valid and exclusive.
    unsafe { http::end_early(scan, len) };
}

/// Ends the scan of a segment, and stores in `progress` the position at which the next segment
/// begins. If it is unfinished, [`suspend`] has to be called next.
#[inline(always)]
pub fn end(scan: &mut Scan, progress: &mut Progress) {
    // SAFETY: the caller's references are valid and exclusive.
    unsafe { http::end(scan, progress) };
}

/// Stores the head or the line that the segment has left unfinished.
#[inline(always)]
pub fn suspend(scan: &mut Scan, unfinished: &mut Unfinished) {
    // SAFETY: the caller's references are valid and exclusive.
    unsafe { http::suspend(scan, unfinished) };
}

/// Scans one unit of a packet's payload, which begins at the offset `payload` of the packet, and
/// returns whether `Scan::event` of `Work::scan` reports an event. `lines` has to call [`line`] for
/// the window until [`line`] returns true.
#[inline(always)]
pub fn unit(
    work: &mut Work,
    rules: &Rules,
    skb: Skb,
    payload: u32,
    lines: impl FnOnce(&mut Work),
) -> bool {
    let source = Source { skb, payload };
    let work = &raw mut *work;
    // SAFETY: `work` comes from a reference. While `lines` runs, the scanner does not access the
    // scan, so `lines` has the only reference to it.
    unsafe { http::unit(&raw mut (*work).scan, rules, &source, || lines(&mut *work)) }
}

/// Scans a line or a part of a line. Returns whether the window has been used up or `Scan::event`
/// reports an event.
#[inline(always)]
pub fn line(scan: &mut Scan, rules: &Rules) -> bool {
    // SAFETY: the caller's references are valid and exclusive.
    unsafe { http::line(scan, rules) }
}

/// Continues after the head of a message whose body is of the kind `body` (`http::BODY_*`).
#[inline(always)]
pub fn go_on(scan: &mut Scan, body: u32) {
    // SAFETY: the caller's reference is valid and exclusive.
    unsafe { http::go_on(scan, body) };
}

/// Continues as [`go_on`] does after the head of a request that is withheld from the server, for
/// which the connection may therefore still begin with another protocol.
#[inline(always)]
pub fn go_on_withheld(scan: &mut Scan, body: u32) {
    let begun = scan.state.has_begun();
    go_on(scan, body);
    scan.state.set_begun(begun);
}

/// Returns whether the segment ends with the request for which [`go_on`] has just been called. If
/// so, also changes the scan as another call to [`unit`] would.
#[inline(always)]
pub fn was_last(scan: &mut Scan) -> bool {
    // SAFETY: the caller's reference is valid and exclusive.
    unsafe { http::was_last(scan) }
}

/// Returns whether the segment ends with the response for which [`go_on`] has just been called. If
/// so, also changes the scan as further calls to [`unit`] would.
#[inline(always)]
pub fn ends_segment(scan: &mut Scan) -> bool {
    // SAFETY: the caller's reference is valid and exclusive.
    unsafe { http::ends_segment(scan) }
}

/// Goes back to the first byte of the message, which must be in this segment.
#[inline(always)]
pub fn rewind(scan: &mut Scan) {
    // SAFETY: the caller's reference is valid and exclusive.
    unsafe { http::rewind(scan) };
}

/// Goes back to byte `at` of the segment, which is in a body. `left` is the number of bytes that
/// follow in the body or, if `chunked` is set, in the data of the current chunk.
#[inline(always)]
pub fn rewind_into_body(scan: &mut Scan, at: u32, chunked: bool, left: u64) {
    // SAFETY: the caller's reference is valid and exclusive.
    unsafe { http::rewind_into_body(scan, at, chunked, left) };
}
