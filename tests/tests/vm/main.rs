// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that run only in a virtual machine (`cargo xtask test --vm`). They set the clock, use up
//! the memory, remove network cards, and cut the power. They also run on kernels other than that of
//! the host.

mod cards;
mod clock;
mod hooks;
mod memory;
mod reboot;

use limiter_tests::{GUARDED, Lab, Limiter};

/// Makes a scope whose requests are always refused, and returns its key. A refusal with this key
/// shows that limits are enforced.
fn probe(limiter: &Limiter) -> String {
    limiter.key_of_tier("acme/probe", "never")
}

fn status(lab: &Lab, key: &str) -> u16 {
    lab.connect(GUARDED).get("/", key).status
}

/// Returns the time in seconds since the epoch that is `days` days after `FIRST`, which is a noon.
fn noon(days: u64) -> u64 {
    /// 2031-03-01T12:00:00Z as a Unix timestamp. No certificate and no other test depends on this
    /// day or on the days after it.
    const FIRST: u64 = 1_930_132_800;
    FIRST + days * 86_400
}
