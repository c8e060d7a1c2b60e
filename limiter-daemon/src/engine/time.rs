// SPDX-License-Identifier: MIT OR Apache-2.0

//! The conversion of times to UTC days, and the values that the engine and the publisher of the
//! clock share. These values are the UTC offset and the time until which requests are held to their
//! allowances.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use limiter_common::day::Day;

use crate::kernel::boot_ns;

/// The time after the last write to the store for which requests are held to their allowances.
/// After this time, the daemon or its disk is assumed to be unavailable, and
/// `accounting.unattended` decides whether requests beyond the allowance are admitted.
const ATTENDED: Duration = Duration::from_secs(5);

/// Returns the UTC day of a time.
pub(crate) fn day_of(now: DateTime<Utc>) -> Day {
    let days = now.timestamp().div_euclid(86_400);
    Day(u32::try_from(days).unwrap_or(0))
}

/// The values that the engine and the publisher of the clock share. Clones refer to the same
/// values.
#[derive(Debug, Clone, Default)]
pub struct ClockWords {
    /// The number of nanoseconds to add to the boot clock to get UTC. It is written by the
    /// publisher.
    utc_offset_ns: Arc<AtomicU64>,
    /// The time of `CLOCK_BOOTTIME`, in ns, until which requests are held to their allowances. It
    /// is written by the engine.
    attended_until_ns: Arc<AtomicU64>,
}

impl ClockWords {
    /// Returns values with the UTC offset `utc_offset_ns`, which state that no daemon writes to the
    /// store.
    pub fn with_offset(utc_offset_ns: u64) -> Self {
        let words = Self::default();
        words.set_utc_offset_ns(utc_offset_ns);
        words
    }

    pub(crate) fn set_utc_offset_ns(&self, ns: u64) {
        self.utc_offset_ns.store(ns, SeqCst);
    }

    /// Returns the number of nanoseconds to add to the boot clock, with wrapping, to get UTC.
    pub(crate) fn utc_offset_ns(&self) -> u64 {
        self.utc_offset_ns.load(SeqCst)
    }

    /// Converts `boot_ns`, a time of the boot clock that the kernel programs have recorded, to UTC.
    /// Returns `None` for 0, which means that no time was recorded.
    pub(crate) fn utc(&self, boot_ns: u64) -> Option<DateTime<Utc>> {
        if boot_ns == 0 {
            return None;
        }
        let utc_ns = boot_ns.wrapping_add(self.utc_offset_ns());
        let since_epoch = TimeDelta::nanoseconds(i64::try_from(utc_ns).unwrap_or(i64::MAX));
        DateTime::UNIX_EPOCH.checked_add_signed(since_epoch)
    }

    /// Records that all counts have just been written. From the next publication of the clock on,
    /// requests are held to their allowances.
    pub(crate) fn attend(&self) {
        let ahead = u64::try_from(ATTENDED.as_nanos()).unwrap_or(u64::MAX);
        self.set_attended_until_ns(boot_ns().saturating_add(ahead));
    }

    /// Records that some counts have been written. If requests are already held to their
    /// allowances, extends the time until which they are. Otherwise, changes nothing, because the
    /// kernel may have admitted requests of other scopes that the store has not counted.
    pub(crate) fn stay_attended(&self) {
        if self.is_attended() {
            self.attend();
        }
    }

    /// Records that the store is not attended. From the next publication of the clock on, requests
    /// are not held to their allowances.
    pub(crate) fn leave(&self) {
        self.set_attended_until_ns(0);
    }

    /// Returns whether requests are to be held to their allowances.
    pub(crate) fn is_attended(&self) -> bool {
        boot_ns() < self.attended_until_ns()
    }

    pub(crate) fn attended_until_ns(&self) -> u64 {
        self.attended_until_ns.load(SeqCst)
    }

    pub(crate) fn set_attended_until_ns(&self, ns: u64) {
        self.attended_until_ns.store(ns, SeqCst);
    }
}
