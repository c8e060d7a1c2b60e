// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The response on a refused connection. It is the daemon's text, completed with the numbers that
//! are known only when a request is refused.

use limiter_common::abi::{MAX_TEXT, TOMB_HEAD, TOMB_KEPT, TextKey};

use crate::kernel::{
    bytes::{close, copy, fill},
    maps,
    work::Work,
};

/// Returns the length of the response in bytes, or `None` if the daemon has not prepared it.
#[inline(always)]
pub fn len(key: &TextKey, head: bool) -> Option<u32> {
    let text = maps::text(key)?;
    let len = if head { text.head_len } else { text.len };
    (len > 0 && len <= MAX_TEXT as u32).then_some(len)
}

/// Writes the response to `Work::reply`, and returns its length in bytes. Returns `None` if there
/// is no response, or if its length is not the one in `Work::tomb`.
#[inline(never)]
pub fn compose(work: &mut Work) -> Option<u32> {
    let Work { tomb, reply, .. } = work;
    let len = len(&tomb.text, tomb.flags & TOMB_HEAD != 0)?;
    if tomb.response_end != tomb.response_start.plus(len + 1) {
        return None;
    }
    let text = maps::text(&tomb.text)?;
    copy(&mut reply.text, text, len);
    fill(&mut reply.text, text.retry_after_at, tomb.retry_after, len);
    fill(&mut reply.text, text.reset_after_at, tomb.reset_after, len);
    if tomb.flags & TOMB_KEPT == 0 {
        close(&mut reply.text, text.connection_at);
    }
    Some(len)
}
