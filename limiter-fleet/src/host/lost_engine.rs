// SPDX-License-Identifier: MIT OR Apache-2.0

//! The detection of an engine that is lost, and the rule for that time.

use std::time::Instant;

use super::{HostLeases, Step};
use crate::{ScopeId, lease::REFUSED_FOR, outage::EngineLost};

impl HostLeases {
    /// Records that the engine has answered a heartbeat.
    pub fn engine_answered(&mut self) {
        self.silence.answered();
    }

    /// Records that a heartbeat has failed.
    pub fn engine_failed(&mut self, now: Instant) {
        self.silence.failed(now);
    }

    /// Checks whether the engine is lost. The caller calls this every second. Returns the bounds
    /// that change because the engine has just been lost or has just answered again, and, while it
    /// is lost, those of the scopes whose refusal is renewed.
    pub fn check_engine(&mut self, now: Instant) -> Vec<Step> {
        self.unreachable = self.silence.is_long(now);
        let scopes: Vec<ScopeId> = self.scopes.keys().copied().collect();
        scopes
            .into_iter()
            .filter_map(|scope| self.check_scope(now, scope))
            .collect()
    }

    fn check_scope(&mut self, now: Instant, scope: ScopeId) -> Option<Step> {
        let (unreachable, rule) = (self.unreachable, self.settings.engine_lost);
        let leases = self.scopes.get_mut(&scope)?;
        let (day, is_short) = (leases.today.day, leases.today.holds_or_refuses());
        let lost = unreachable || leases.today.outage.is_long(now);
        let was_lost = std::mem::replace(&mut leases.lost, lost);
        if lost && (is_short || rule == EngineLost::Closed) {
            leases.today.refuse_until(now + REFUSED_FOR);
        }
        if lost && !was_lost {
            if rule == EngineLost::Share {
                // The free part is shared once, until the engine names another one.
                let part = std::mem::take(&mut leases.today.free) / self.hosts;
                leases.outage_limit = Some(leases.today.total.saturating_add(part));
            }
            // The host finds out by this report that the engine answers again.
            leases.today.report();
            self.queue.push(scope, now);
        }
        if !lost && was_lost {
            let allowed_more = matches!(rule, EngineLost::Share | EngineLost::Open);
            leases.outage_limit = None;
            leases.today.reconsider();
            leases.today.report();
            self.queue.push(scope, now);
            if allowed_more {
                // The requests that were admitted beyond the lease count as leased.
                return self.enforce(scope, day);
            }
        }
        (lost != was_lost || lost && is_short).then(|| self.publish(scope, day))
    }
}
