// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The identity of a segment that contains whole requests. The identity is a number that is
//! computed from the keys, the framing and the end of the requests. Segments with the same identity
//! contain requests that are the same to the programs and to every server.

use limiter_common::http::{self, Progress, State};

use crate::kernel::skb::Skb;
pub use crate::kernel::work::Identity;

/// The lowest bit of `Record::fingerprint`, which is set in an identity and zero in a fingerprint.
pub const IS_IDENTITY: u64 = 1;

impl Identity {
    /// Returns the identity of a segment of which nothing has been scanned yet. `progress` is
    /// the position before the segment.
    #[inline(always)]
    pub fn begin(skb: Skb, progress: &Progress) -> Self {
        Self {
            value: 0,
            whole: u32::from(progress.is_idle() && skb.gso_size() == 0),
            reserved: 0,
        }
    }

    /// Adds a request whose head is complete. `demands` are its demands ([`http::demands`]).
    #[inline(always)]
    pub fn add(&mut self, state: &State, demands: u32, secret: &[u64; 2]) {
        let mut value = self.value ^ secret[0] ^ state.length;
        value ^= u64::from(http::request_body(state)) << 62 | u64::from(demands) << 56;
        // All keys are included, because the key by which a request is judged depends on the keys
        // that are registered at the time.
        value = (value ^ http::keys(state)).wrapping_mul(FACTOR);
        self.value = value.wrapping_mul(FACTOR).rotate_left(32);
    }

    /// Returns the value to record for the segment after its scan has reached `state`. `body` is
    /// the number of body bytes that follow the last byte of framing. Returns `None` if the segment
    /// is not `whole`, or if it ends in a head or in the framing of chunks.
    #[inline(always)]
    pub fn end(&self, state: &State, body: u32) -> Option<u64> {
        if self.whole == 0 || !(state.is_idle() || state.is_length_body()) {
            return None;
        }
        Some(mix(self.value ^ (state.skippable() + u64::from(body))) | IS_IDENTITY)
    }
}

/// Mixes the bits. `value` depends on the secret of the installation and on the hashes of the keys,
/// so a client cannot choose the result.
#[inline(always)]
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 33).wrapping_mul(FACTOR);
    value ^ value >> 29
}

/// The first factor of MurmurHash3's finalizer (Austin Appleby).
const FACTOR: u64 = 0xff51_afd7_ed55_8ccd;
