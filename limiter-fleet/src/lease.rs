// SPDX-License-Identifier: MIT OR Apache-2.0

//! The lease of one scope on one day.

use std::time::{Duration, Instant};

use limiter_common::day::Day;

use crate::{
    ScopeId,
    call::{Answer, Standing, Wish},
};

/// The time after which an unanswered call is repeated.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// The time after which a host asks again while customers wait for a rest that is leased to others.
const RETRY: Duration = Duration::from_millis(100);
/// The longest wait for the next recall during which requests are held and not refused.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// The time for which requests are held before they are refused.
const MAX_HELD: Duration = Duration::from_millis(1_500);
/// The time for which requests are refused if the engine does not answer, or if its answer names
/// no other time.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(5);

/// The word of the kernel for one scope and day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The scope.
    pub scope: ScopeId,
    /// The day.
    pub day: Day,
    /// The number of requests of this day that may be admitted.
    pub limit: u64,
    /// The number of admitted requests at which the kernel reports to the daemon, so that the lease
    /// is extended before it ends.
    pub report_at: u64,
    /// What happens to requests beyond `limit`.
    pub refusal: Refusal,
}

/// What happens to requests beyond a [`Bound`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// They are held: their packets are dropped, and the clients' TCP sends them again.
    Held,
    /// They are refused until this time.
    Until(Instant),
    /// They are refused until the day ends.
    UsedUp,
}

/// A call that has not been answered.
#[derive(Debug, Clone, Copy)]
struct Outstanding {
    operation: u64,
    wish: Wish,
    sent_at: Instant,
}

/// A host's lease of one scope on one day.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) day: Day,
    /// The number of requests that the host may admit on this day.
    pub(crate) total: u64,
    /// The number of requests that the host has admitted.
    pub(crate) used: u64,
    /// The part of the quota that was free at the last answer.
    pub(crate) free: u64,
    /// The unused lease just after it was last extended. A host asks when half of this is used.
    supply: u64,
    refusal: Refusal,
    outstanding: Option<Outstanding>,
    /// The requests of which the last call has told the engine.
    reported: u64,
    /// Whether the host wants a longer lease.
    hungry: bool,
    /// Whether the kernel does not have the lower bound yet. Until then, the engine must not give
    /// the rest to others.
    lowering: bool,
    /// Whether the engine has to be told of the lease and of the requests in it.
    to_report: bool,
    /// The time from which the host may ask.
    not_before: Option<Instant>,
    /// The time at which the first of the requests that wait now was held.
    held_since: Option<Instant>,
}

/// The next thing to do for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send a call now.
    Call(Wish),
    /// Look again at this time.
    At(Instant),
    /// Nothing.
    Nothing,
}

impl Lease {
    /// Returns a lease of `total` requests, of which `used` are used.
    pub(crate) fn new(day: Day, total: u64, used: u64) -> Self {
        Self {
            day,
            total: total.max(used),
            used,
            free: 0,
            supply: 0,
            refusal: Refusal::Held,
            outstanding: None,
            reported: 0,
            hungry: false,
            lowering: false,
            to_report: false,
            not_before: None,
            held_since: None,
        }
    }

    pub(crate) fn left(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    pub(crate) fn bound(&self, scope: ScopeId) -> Bound {
        Bound {
            scope,
            day: self.day,
            limit: self.total,
            report_at: self.total - self.supply.min(self.total) / 2,
            refusal: self.refusal,
        }
    }

    /// Records that the host has admitted `used` requests, and whether another request is `held`.
    /// Returns whether [`Self::bound`] has changed.
    pub(crate) fn count(&mut self, now: Instant, used: u64, held: bool) -> bool {
        let grew = used > self.used;
        self.used = self.used.max(used);
        // While the engine is lost, a host may use more than its lease.
        self.total = self.total.max(self.used);
        if held {
            self.held_since.get_or_insert(now);
        } else if grew {
            self.held_since = None;
        }
        if (grew || held) && self.left() <= self.supply / 2 && self.may_ask(now) {
            self.hungry = true;
        }
        self.give_up(now)
    }

    /// Makes the host ask for a longer lease.
    pub(crate) fn ask(&mut self) {
        self.hungry = true;
    }

    /// Returns whether asking may help.
    fn may_ask(&self, now: Instant) -> bool {
        match self.refusal {
            Refusal::Held => true,
            Refusal::Until(until) => until <= now,
            Refusal::UsedUp => false,
        }
    }

    /// Refuses the requests that have been held for too long. Returns whether [`Self::bound`] has
    /// changed.
    fn give_up(&mut self, now: Instant) -> bool {
        let too_long = self
            .held_since
            .is_some_and(|since| now.saturating_duration_since(since) >= MAX_HELD);
        if too_long {
            self.refuse_until(now + REFUSED_FOR);
        }
        too_long
    }

    /// Refuses requests beyond the lease until `until`. The host goes on asking.
    pub(crate) fn refuse_until(&mut self, until: Instant) {
        self.refusal = Refusal::Until(until);
        self.held_since = None;
    }

    /// Returns whether requests beyond the lease wait or are refused for a time.
    pub(crate) fn is_short(&self) -> bool {
        self.held_since.is_some() || matches!(self.refusal, Refusal::Until(_))
    }

    /// Returns what is to be done at `now`.
    pub(crate) fn due(&self, now: Instant) -> Due {
        if let Some(outstanding) = self.outstanding {
            let until = outstanding.sent_at + ANSWER_TIMEOUT;
            if now < until {
                return Due::At(until);
            }
        }
        match self.not_before {
            _ if self.lowering => Due::Nothing,
            _ if !self.hungry && !self.to_report => Due::Nothing,
            Some(at) if now < at => Due::At(at),
            _ if self.to_report => Due::Call(Wish::Keep),
            // The caller adds the demand.
            _ => Due::Call(Wish::UpTo(self.used)),
        }
    }

    /// Returns whether a call is unanswered for so long that it has failed.
    pub(crate) fn is_unanswered(&self, now: Instant) -> bool {
        self.outstanding
            .is_some_and(|outstanding| now >= outstanding.sent_at + ANSWER_TIMEOUT)
    }

    /// Records that a call is sent.
    pub(crate) fn sent(&mut self, now: Instant, operation: u64, wish: Wish) -> Instant {
        self.outstanding = Some(Outstanding {
            operation,
            wish,
            sent_at: now,
        });
        self.not_before = None;
        self.reported = self.used;
        now + ANSWER_TIMEOUT
    }

    /// Records that the call with the number `operation` has failed.
    pub(crate) fn failed(&mut self, now: Instant, operation: u64) {
        if self.takes(operation).is_some() {
            self.not_before = Some(now + RETRY);
        }
    }

    /// Ends the wait for the answer to the call `operation`, and returns the wish of that call.
    /// Returns `None` if the host no longer waits for this answer.
    fn takes(&mut self, operation: u64) -> Option<Wish> {
        let outstanding = self
            .outstanding
            .take_if(|outstanding| outstanding.operation == operation)?;
        Some(outstanding.wish)
    }

    /// Records the answer to the call with the number `operation`. Returns whether [`Self::bound`]
    /// has changed. An answer to an earlier call than the last one changes nothing, because the
    /// host may have given back some of that lease since.
    pub(crate) fn answered(&mut self, now: Instant, operation: u64, answer: &Answer) -> bool {
        let Some(wish) = self.takes(operation) else {
            return false;
        };
        if matches!(answer.standing, Standing::Old | Standing::Generation) {
            self.not_before = Some(now + RETRY);
            return false;
        }
        self.free = u64::try_from(answer.free).unwrap_or(0);
        if wish == Wish::Keep {
            self.to_report = false;
            return false;
        }
        let before = (self.total, self.supply, self.refusal);
        let gave_up = self.give_up(now);
        if answer.lease > self.total {
            self.total = answer.lease;
            self.held_since = None;
            self.refusal = Refusal::Held;
        }
        self.supply = self.left();
        self.hungry = false;
        match answer.standing {
            Standing::UsedUp => self.refusal = Refusal::UsedUp,
            Standing::LeasedOut | Standing::Learning => {
                if gave_up || answer.again > SHORT_WAIT {
                    self.refuse_until(now + answer.again.max(SHORT_WAIT));
                } else if self.held_since.is_some() {
                    self.hungry = true;
                    self.not_before = Some(now + RETRY);
                }
            }
            Standing::OtherDay => self.refuse_until(now + REFUSED_FOR),
            Standing::Granted | Standing::Old | Standing::Generation => {}
        }
        before != (self.total, self.supply, self.refusal)
    }

    /// Lowers the lease so that `keep` requests remain. Returns whether that has lowered it.
    pub(crate) fn lower(&mut self, keep: u64) -> bool {
        let total = self.used.saturating_add(keep);
        if total >= self.total {
            return false;
        }
        self.total = total;
        self.supply = keep;
        self.lowering = true;
        // The answer to an earlier call must not extend the lease again.
        self.outstanding = None;
        true
    }

    /// Records that the kernel has lowered the lease, and that the host has admitted `used`
    /// requests up to then.
    pub(crate) fn lowered(&mut self, used: u64) {
        self.used = self.used.max(used);
        self.total = self.total.max(self.used);
        self.lowering = false;
        self.report();
    }

    /// Makes the host tell the engine of this lease.
    pub(crate) fn report(&mut self) {
        self.outstanding = None;
        self.to_report = true;
    }

    /// Makes the host tell the engine how many requests it has admitted, unless it knows already.
    /// Returns whether that is to be done.
    pub(crate) fn report_use(&mut self) -> bool {
        let news = self.used > self.reported && self.outstanding.is_none();
        self.to_report |= news;
        news
    }

    /// Makes the host ask again, because the quota has changed.
    pub(crate) fn reconsider(&mut self) {
        self.refusal = Refusal::Held;
        self.not_before = None;
    }
}
