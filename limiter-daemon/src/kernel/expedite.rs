// SPDX-License-Identifier: MIT OR Apache-2.0

//! Shortens RCU grace periods while many programs are attached or detached.
//!
//! The kernel waits for a grace period whenever a TCX link is attached or detached
//! (tcx_entry_sync(), include/net/tcx.h). The wait takes about 10 ms. During this time the kernel
//! holds the lock for all interfaces (rtnl), so attaching programs in parallel would be no faster.
//! With `rcu_expedited` the wait takes about 10 µs, at the cost of an interrupt on each busy CPU
//! (Documentation/RCU/checklist.rst of the kernel).

use std::{fs, path::Path};

const FILE: &str = "/sys/kernel/rcu_expedited";

/// The smallest number of links for which the time saved is worth the interrupts.
const WORTHWHILE_LINKS: usize = 16;

/// Shortens RCU grace periods until this value is dropped, if this process is permitted to do so.
pub(super) struct ShortGracePeriods {
    /// Whether `rcu_expedited` was set here, and has to be reset when this value is dropped.
    set: bool,
}

impl ShortGracePeriods {
    /// Shortens grace periods while `links` links are attached or detached, if there are at least
    /// [`WORTHWHILE_LINKS`] of them.
    pub(super) fn during(links: usize) -> Self {
        let path = Path::new(FILE);
        let set = links >= WORTHWHILE_LINKS
            && fs::read_to_string(path).is_ok_and(|text| text.trim() == "0")
            && fs::write(path, "1").is_ok();
        Self { set }
    }
}

impl Drop for ShortGracePeriods {
    fn drop(&mut self) {
        if self.set
            && let Err(error) = fs::write(FILE, "0")
        {
            log::warn!("cannot reset {FILE}, which this daemon set to 1: {error}; write 0 to it");
        }
    }
}
