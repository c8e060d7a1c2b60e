// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bounds that the kernel enforces for a scope whose daily quota is shared.

use std::time::Instant;

use limiter_common::{
    abi::{self, REFUSED_ALL_DAY},
    day::{Day, DayCount},
};
use limiter_fleet::{Bound, Excess, Step};

use crate::kernel::boot_ns;

/// The bounds of a scope on this host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The bound of the day that the scope's counts belong to.
    pub(crate) today: Bound,
    /// The bound of the next day, from the hour before midnight on.
    pub(crate) tomorrow: Option<Bound>,
    /// Whether the store does not have these bounds yet.
    pub(crate) unsaved: bool,
}

impl Bounds {
    /// Returns the bounds of a scope that has no lease on `day`.
    pub(crate) fn none(scope: u32, day: Day) -> Self {
        Self {
            today: no_lease(scope, day),
            tomorrow: None,
            unsaved: true,
        }
    }

    /// Replaces the bound of the day that the step concerns. A bound that is older than the present
    /// one, or that is of a day that has ended, changes nothing.
    pub(crate) fn take(&mut self, step: Step) {
        let (Step::Publish(bound) | Step::Lower(bound)) = step;
        if bound.day > self.today.day {
            self.tomorrow = Some(bound);
        } else if bound.day == self.today.day && bound.number > self.today.number {
            self.today = bound;
        } else {
            return;
        }
        self.unsaved = true;
    }

    /// Begins `day`, if it is later than the present one.
    pub(crate) fn begin(&mut self, day: Day) {
        if day <= self.today.day {
            return;
        }
        let next = self.tomorrow.take().filter(|bound| bound.day == day);
        self.today = next.unwrap_or_else(|| no_lease(self.today.scope, day));
        self.unsaved = true;
    }

    /// Returns the lease of `day`, as the store has to record it.
    pub(crate) fn leases(&self) -> impl Iterator<Item = (Day, u64)> {
        [Some(self.today), self.tomorrow]
            .into_iter()
            .flatten()
            .map(|bound| (bound.day, bound.lease))
    }

    /// Returns the bounds in the form that the kernel uses.
    pub(crate) fn in_kernel(&self) -> abi::Lease {
        let word = |bound: Bound| DayCount::new(bound.day, bound.limit).0;
        abi::Lease {
            current: word(self.today),
            next: self.tomorrow.map_or(0, word),
            refused_until_ns: match self.today.excess {
                Excess::Held => 0,
                Excess::RefusedUntil(until) => boot_time(until),
                Excess::RefusedAllDay => REFUSED_ALL_DAY,
            },
        }
    }

    /// Returns the number of requests by which the count may come closer to the bound before the
    /// kernel reports it. It is at most `ahead`, and at least 1, since 0 means that there is no
    /// bound.
    pub(crate) fn ahead(&self, ahead: u32) -> u32 {
        let left = 2 * self.today.limit.saturating_sub(self.today.report_at);
        ahead.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1)
    }
}

fn no_lease(scope: u32, day: Day) -> Bound {
    Bound {
        scope,
        day,
        number: 0,
        lease: 0,
        limit: 0,
        report_at: 0,
        excess: Excess::Held,
    }
}

/// Returns the time of `CLOCK_BOOTTIME`, in ns, at `time`.
fn boot_time(time: Instant) -> u64 {
    let left = time.saturating_duration_since(Instant::now());
    let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
    boot_ns().saturating_add(left)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TODAY: Day = Day(20_000);
    const TOMORROW: Day = Day(20_001);

    fn bound(day: Day, number: u64, limit: u64) -> Bound {
        Bound {
            number,
            lease: limit,
            limit,
            report_at: limit,
            ..no_lease(7, day)
        }
    }

    #[test]
    fn a_later_bound_replaces_an_earlier_one() {
        let mut bounds = Bounds::none(7, TODAY);
        bounds.take(Step::Publish(bound(TODAY, 2, 20)));
        bounds.take(Step::Publish(bound(TODAY, 1, 90)));
        assert_eq!(bounds.today.limit, 20);
        bounds.take(Step::Lower(bound(TODAY, 3, 10)));
        bounds.take(Step::Publish(bound(TOMORROW, 4, 1)));
        let lease = bounds.in_kernel();
        assert_eq!(DayCount(lease.current), DayCount::new(TODAY, 10));
        assert_eq!(DayCount(lease.next), DayCount::new(TOMORROW, 1));
        assert_eq!(lease.refused_until_ns, 0);
    }

    #[test]
    fn tomorrows_bound_becomes_todays_at_midnight() {
        let mut bounds = Bounds::none(7, TODAY);
        bounds.take(Step::Publish(bound(TODAY, 1, 20)));
        bounds.take(Step::Publish(bound(TOMORROW, 2, 1)));
        bounds.begin(TOMORROW);
        assert_eq!((bounds.today.day, bounds.today.limit), (TOMORROW, 1));
        // The bound of a day that has ended changes nothing.
        bounds.take(Step::Publish(bound(TODAY, 3, 30)));
        assert_eq!(bounds.today.limit, 1);
        // Nothing was leased for the day after.
        bounds.begin(Day(20_002));
        assert_eq!((bounds.today.limit, bounds.tomorrow), (0, None));
    }

    #[test]
    fn a_time_of_refusal_is_one_of_the_boot_clock() {
        let mut bounds = Bounds::none(7, TODAY);
        let second = Duration::from_secs(1);
        bounds.today.excess = Excess::RefusedUntil(Instant::now() + second);
        let before = boot_ns();
        let until = bounds.in_kernel().refused_until_ns;
        assert!((before..=before + 1_500_000_000).contains(&until));
        bounds.today.excess = Excess::RefusedAllDay;
        assert_eq!(bounds.in_kernel().refused_until_ns, REFUSED_ALL_DAY);
    }

    #[test]
    fn the_kernel_reports_when_half_of_the_grant_is_used() {
        let mut bounds = Bounds::none(7, TODAY);
        assert_eq!(bounds.ahead(100), 1);
        bounds.today = Bound {
            limit: 50,
            report_at: 40,
            ..bound(TODAY, 1, 50)
        };
        assert_eq!((bounds.ahead(100), bounds.ahead(5)), (20, 5));
    }
}
