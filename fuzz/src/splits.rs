// SPDX-License-Identifier: MIT OR Apache-2.0

//! The places at which a stream is cut into segments.

use limiter_common::siphash::siphash128;

/// The number of random ways to cut each stream.
const WAYS: u64 = 2;

/// The maximum length in bytes of a stream that is also cut after each byte.
const MAX_LEN_BY_BYTE: usize = 48;

/// Returns several ways to cut a stream, each as a list of ascending byte offsets. The offsets
/// depend only on the bytes of the stream. A corpus file therefore needs to contain only the
/// stream, and a crash can be reproduced from that file.
pub fn of(bytes: &[u8]) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = (0..WAYS).map(|way| random(bytes, way)).collect();
    if bytes.len() <= MAX_LEN_BY_BYTE {
        all.push((0..bytes.len()).collect());
    }
    all
}

/// Returns up to three byte offsets. Most of them are close together, because a parser is most
/// likely to fail in the state that it keeps from one segment to the next.
fn random(bytes: &[u8], way: u64) -> Vec<usize> {
    let [count, place] = siphash128([way, 0], bytes);
    let len = bytes.len().max(1);
    let mut at = usize::try_from(place).unwrap_or_default() % len;
    let mut cuts = Vec::new();
    for number in 0..count % 4 {
        cuts.push(at);
        let step = 1 + usize::try_from(place.rotate_left(8 * number as u32) % 16).unwrap_or(0);
        at = (at + step) % len;
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}
