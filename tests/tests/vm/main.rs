//! What is only tried in a machine of its own (`cargo xtask test --vm`): the clock is set, memory runs
//! out, cards are pulled, the power fails; and what other kernels than the host's do.

mod cards;
mod clock;
mod hooks;
mod memory;
mod reboot;

use limiter_tests::{GUARDED, Lab, Limiter};

/// A scope whose requests are refused whatever the clock says: where the limits are in force.
fn probe(limiter: &Limiter) -> String {
    limiter.key_of_tier("acme/probe", "never")
}

fn status(lab: &Lab, key: &str) -> u16 {
    lab.connect(GUARDED).get("/", key).status
}

/// Noon of a day that no certificate and no other test knows, so many days later.
fn noon(days: u64) -> u64 {
    /// 2031-03-01T12:00:00Z.
    const FIRST: u64 = 1_930_132_800;
    FIRST + days * 86_400
}
