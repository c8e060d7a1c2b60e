// SPDX-License-Identifier: MIT OR Apache-2.0

//! The lease of one scope on one day.

use std::time::{Duration, Instant};

use limiter_common::{abi::MAX_HELD_NS, day::Day};

use crate::{
    ScopeId,
    call::{Answer, Purpose, Status},
    outage::Outage,
};

/// The time after which an unanswered call is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(250);
/// The time after which a host calls again after a failed call, or while it holds requests.
const RETRY: Duration = Duration::from_millis(100);
/// The same while the engine is lost, or if the host does not know of a reset yet.
const SLOW_RETRY: Duration = Duration::from_secs(1);
/// The longest wait for the next recall during which requests are held and not refused.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// The time for which requests are held before they are refused.
const MAX_HELD: Duration = Duration::from_nanos(MAX_HELD_NS);
/// The time for which requests are refused if the engine does not answer, or if its answer names
/// no other time.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(5);

/// The limit that the kernel enforces for one scope on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The scope.
    pub scope: ScopeId,
    /// The day.
    pub day: Day,
    /// The number of this bound. Of two bounds, the one with the higher number is the later one.
    pub number: u64,
    /// The lease, in requests since the day began. The store records it.
    pub lease: u64,
    /// The number of requests of this day that the kernel may admit. It differs from the lease only
    /// while the engine is lost.
    pub limit: u64,
    /// The number of admitted requests at which the kernel reports to the daemon, so that the lease
    /// is extended before it ends.
    pub report_at: u64,
    /// The treatment of requests beyond `limit`.
    pub excess: Excess,
}

/// The treatment of requests beyond [`Bound::limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// They are held: their packets are dropped, and the clients' TCP sends them again.
    Held,
    /// They are refused until this time.
    RefusedUntil(Instant),
    /// They are refused until the day ends.
    RefusedAllDay,
}

/// A call that has not been answered.
#[derive(Debug, Clone, Copy)]
struct Outstanding {
    number: u64,
    purpose: Purpose,
    sent_at: Instant,
}

/// A host's lease of one scope on one day.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) day: Day,
    /// The quota of the day.
    pub(crate) quota: u64,
    /// The number of requests that the host may admit on this day.
    pub(crate) total: u64,
    /// The number of requests that the host has admitted.
    pub(crate) used: u64,
    /// The part of the quota that was free at the last answer.
    pub(crate) free: u64,
    /// The number of requests that the other hosts had reported at the last answer.
    pub(crate) used_by_others: u64,
    /// The quota at the last answer, and the number of requests that all hosts had reported.
    reported_by_all: Option<(u64, u64)>,
    /// The number of requests that all hosts had reported when it first exceeded the quota.
    overrun: Option<u64>,
    /// The number of requests in the lease that were unused at the last answer. The host asks for
    /// more when half of them have been used.
    left_after_grant: u64,
    excess: Excess,
    outstanding: Option<Outstanding>,
    /// The number of admitted requests that the last call reported.
    reported: u64,
    /// Whether the engine has answered a call for this lease since the daemon started. If not, it
    /// may have granted requests of which this host has not heard.
    has_answer: bool,
    /// Whether the host wants a longer lease.
    wants_more: bool,
    /// The number of a lower bound that the kernel may not have yet. Until it has the bound, the
    /// engine must not give the rest to other hosts.
    lowering: Option<u64>,
    /// Whether the host has to report the lease and the count of its requests.
    must_report: bool,
    /// The time from which the host may call.
    not_before: Option<Instant>,
    /// The time at which the first of the requests that wait now was held.
    held_since: Option<Instant>,
    /// The time until which one request of the lease is reserved for a held request, which the
    /// client has not sent again yet.
    promised_until: Option<Instant>,
    /// The time without answers to the calls for this lease.
    pub(crate) outage: Outage,
}

/// The next thing to do for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send a call now.
    Call(Purpose),
    /// Look again at this time.
    At(Instant),
    /// Nothing.
    Nothing,
}

impl Lease {
    /// Returns a lease of `total` requests, of which `used` are used.
    pub(crate) fn new(day: Day, quota: u64, total: u64, used: u64) -> Self {
        Self {
            day,
            quota,
            total: total.max(used),
            used,
            free: 0,
            used_by_others: 0,
            reported_by_all: None,
            overrun: None,
            left_after_grant: 0,
            excess: Excess::Held,
            outstanding: None,
            reported: 0,
            has_answer: false,
            wants_more: false,
            lowering: None,
            must_report: false,
            not_before: None,
            held_since: None,
            promised_until: None,
            outage: Outage::default(),
        }
    }

    /// Returns the number of requests that the host must not give back, because they are reserved
    /// for held requests that clients will send again.
    pub(crate) fn promised(&self, now: Instant) -> u64 {
        u64::from(self.promised_until.is_some_and(|until| now < until))
    }

    pub(crate) fn left(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    /// Returns the bound with the number `number` for this lease.
    pub(crate) fn bound(&self, scope: ScopeId, number: u64) -> Bound {
        Bound {
            scope,
            day: self.day,
            number,
            lease: self.total,
            limit: self.total,
            report_at: self.total - self.left_after_grant.min(self.total) / 2,
            excess: self.excess,
        }
    }

    pub(crate) fn excess(&self) -> Excess {
        self.excess
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
            self.promised_until = None;
        }
        if (grew || held) && self.left() <= self.left_after_grant / 2 && self.may_ask(now) {
            self.wants_more = true;
        }
        self.refuse_if_held_too_long(now)
    }

    /// Makes the host ask for a longer lease.
    pub(crate) fn ask(&mut self) {
        self.wants_more = true;
    }

    /// Returns whether asking may help.
    fn may_ask(&self, now: Instant) -> bool {
        match self.excess {
            Excess::Held => true,
            Excess::RefusedUntil(until) => until <= now,
            Excess::RefusedAllDay => false,
        }
    }

    /// Returns whether [`Self::bound`] has changed.
    fn refuse_if_held_too_long(&mut self, now: Instant) -> bool {
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
        self.excess = Excess::RefusedUntil(until);
        self.held_since = None;
    }

    /// Returns whether requests beyond the lease wait or are refused for a time.
    pub(crate) fn holds_or_refuses(&self) -> bool {
        self.held_since.is_some() || matches!(self.excess, Excess::RefusedUntil(_))
    }

    /// Returns what is to be done at `now`.
    pub(crate) fn due(&self, now: Instant) -> Due {
        if let Some(outstanding) = self.outstanding {
            let until = outstanding.sent_at + REPEAT_AFTER;
            if now < until {
                return Due::At(until);
            }
        }
        match self.not_before {
            _ if self.lowering.is_some() => Due::Nothing,
            _ if !self.wants_more && !self.must_report => Due::Nothing,
            Some(at) if now < at => Due::At(at),
            _ if self.must_report => Due::Call(Purpose::Report),
            // The caller adds the demand.
            _ => Due::Call(Purpose::Extend(self.used)),
        }
    }

    /// Records that a call has failed if it has been unanswered for too long.
    pub(crate) fn note_unanswered(&mut self, now: Instant) {
        if let Some(outstanding) = self.outstanding
            && now >= outstanding.sent_at + REPEAT_AFTER
        {
            self.outage.failed(outstanding.sent_at);
        }
    }

    /// Records that a call was sent. Returns the time at which it counts as failed.
    pub(crate) fn sent(&mut self, now: Instant, number: u64, purpose: Purpose) -> Instant {
        self.outstanding = Some(Outstanding {
            number,
            purpose,
            sent_at: now,
        });
        self.not_before = None;
        self.reported = self.used;
        now + REPEAT_AFTER
    }

    /// Records that the call with the number `number` has failed.
    pub(crate) fn failed(&mut self, now: Instant, number: u64) {
        if self.take_outstanding(number).is_some() {
            self.outage.failed(now);
            self.retry(now);
        }
    }

    fn retry(&mut self, now: Instant) {
        let slow = self.outage.is_long(now);
        self.not_before = Some(now + if slow { SLOW_RETRY } else { RETRY });
    }

    /// Ends the wait for the answer to the call `number`, and returns the purpose of that call.
    /// Returns `None` if the host no longer waits for this answer.
    fn take_outstanding(&mut self, number: u64) -> Option<Purpose> {
        let outstanding = self
            .outstanding
            .take_if(|outstanding| outstanding.number == number)?;
        Some(outstanding.purpose)
    }

    /// Records the answer to the call with the number `number`, in which the host has named the
    /// quota `quota`. Returns whether [`Self::bound`] has changed. An answer to an earlier call
    /// than the last one changes nothing, because the host may have given back some of that lease
    /// since.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        (number, quota): (u64, u64),
        answer: &Answer,
    ) -> bool {
        let Some(purpose) = self.take_outstanding(number) else {
            return false;
        };
        self.outage.answered();
        match answer.status {
            Status::Superseded => {
                self.retry(now);
                return false;
            }
            Status::OldGeneration => {
                self.not_before = Some(now + SLOW_RETRY);
                return false;
            }
            // The quota has changed since, so the call is repeated.
            _ if quota != self.quota => return false,
            _ => {}
        }
        self.has_answer = true;
        self.free = u64::try_from(answer.free).unwrap_or(0);
        self.used_by_others = answer.used.saturating_sub(self.reported);
        self.note_overrun(answer.used);
        if purpose == Purpose::Report {
            self.must_report = false;
            return false;
        }
        let before = (self.total, self.left_after_grant, self.excess);
        let gave_up = self.refuse_if_held_too_long(now);
        if answer.lease > self.total {
            self.total = answer.lease;
            if self.held_since.take().is_some() {
                self.promised_until = Some(now + MAX_HELD);
            }
            self.excess = Excess::Held;
        }
        self.left_after_grant = self.left();
        self.wants_more = false;
        match answer.status {
            Status::UsedUp => {
                self.excess = Excess::RefusedAllDay;
                self.held_since = None;
            }
            Status::LeasedOut | Status::Learning => {
                if gave_up || answer.retry_after > SHORT_WAIT {
                    self.refuse_until(now + answer.retry_after.max(SHORT_WAIT));
                } else if self.held_since.is_some() {
                    self.wants_more = true;
                    self.not_before = Some(now + RETRY);
                }
            }
            Status::OtherDay => self.refuse_until(now + REFUSED_FOR),
            Status::Granted | Status::Superseded | Status::OldGeneration => {}
        }
        before != (self.total, self.left_after_grant, self.excess)
    }

    /// Records the number of requests that all hosts have reported, and whether it has come to
    /// exceed the quota. A quota that is lowered below this number does not count as exceeded.
    fn note_overrun(&mut self, used: u64) {
        let was_within = self
            .reported_by_all
            .replace((self.quota, used))
            .is_some_and(|(quota, before)| quota == self.quota && before <= quota);
        if was_within && used > self.quota {
            self.overrun = Some(used);
        }
    }

    /// Returns the number of requests that all hosts had reported when it first exceeded the quota.
    /// Each excess is returned once.
    pub(crate) fn take_overrun(&mut self) -> Option<u64> {
        self.overrun.take()
    }

    /// Lowers the lease so that `keep` requests remain. The bound with the number `number` tells
    /// the kernel of it. Returns whether that has lowered the lease.
    pub(crate) fn lower(&mut self, keep: u64, number: u64) -> bool {
        let total = self.used.saturating_add(keep);
        if total >= self.total {
            return false;
        }
        self.total = total;
        self.left_after_grant = keep;
        self.wait_for_kernel(number);
        true
    }

    /// Makes the host wait until the kernel has the bound with the number `number`.
    pub(crate) fn wait_for_kernel(&mut self, number: u64) {
        self.lowering = Some(number);
        // The answer to an earlier call must not extend the lease again.
        self.outstanding = None;
    }

    /// Records that the kernel has the bound with the number `number`, and that the host has
    /// admitted `used` requests up to then. Returns whether the host was waiting for this.
    pub(crate) fn lowered(&mut self, number: u64, used: u64) -> bool {
        if self.lowering != Some(number) {
            return false;
        }
        self.lowering = None;
        self.used = self.used.max(used);
        self.total = self.total.max(self.used);
        self.report();
        true
    }

    /// Makes the host report the lease.
    pub(crate) fn report(&mut self) {
        self.outstanding = None;
        self.must_report = true;
    }

    /// Makes the host report its count, unless the engine already knows it. Returns whether there
    /// is something to report. The first report also gives back what an earlier daemon was granted
    /// without hearing of it.
    pub(crate) fn report_use(&mut self) -> bool {
        let is_unknown = self.used > self.reported || !self.has_answer;
        let news = is_unknown && self.outstanding.is_none();
        self.must_report |= news;
        news
    }

    /// Makes the host ask again, because the quota has changed or the engine answers again. The
    /// answer to an earlier call no longer matters.
    pub(crate) fn reconsider(&mut self) {
        self.excess = Excess::Held;
        self.outstanding = None;
        self.not_before = None;
    }

    /// Makes the host report the lease and ask for nothing more.
    pub(crate) fn finish(&mut self) {
        self.wants_more = false;
        self.not_before = None;
        if self.total > 0 || self.outstanding.is_some() {
            self.report();
        }
    }
}
