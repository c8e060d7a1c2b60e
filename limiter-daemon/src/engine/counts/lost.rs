// SPDX-License-Identifier: MIT OR Apache-2.0

//! Charges the requests that lost maps may have admitted.

use limiter_common::day::Day;

use super::maps_record::LostMaps;
use crate::{
    domain::plain::counted,
    engine::{
        fleet::leases::needs_lease,
        scopes::registry::{Scope, Scopes},
        setup::Setup,
    },
    kernel::Plane,
    protocol::error::ApiError,
    store::Store,
};

/// Charges the requests that lost maps may have admitted. Their number is calculated from the
/// allowances in the store, and from the leases of the scopes that share their quotas with other
/// hosts (`in_fleet`).
///
/// # Errors
/// Returns an error if the configuration lacks the tier of a scope.
pub(crate) fn charge_lost(
    lost: &LostMaps,
    scopes: &mut Scopes,
    (setup, plane, store): (&Setup, &dyn Plane, &Store),
    in_fleet: bool,
    today: Day,
) -> Result<(), ApiError> {
    let (mut charged, mut requests) = (0u64, 0u64);
    for scope in scopes.iter_mut() {
        if scope.record.unknown.is_some() && setup.unknown_tier().is_none() {
            // This scope is about to be removed, because unknown keys no longer have scopes.
            continue;
        }
        let (limits, mode) = setup.effective(&scope.record)?;
        let Some(quota) = limits.daily_quota else {
            continue;
        };
        let free_requests = if !lost.were_open {
            0
        } else if in_fleet && needs_lease(&limits, mode) {
            // On a day that has just begun, the kernel admits the lease.
            store.lease_of(scope.record.name.as_str(), today)?
        } else {
            u64::from(setup.config().accounting.ahead_of(Some(quota)))
        };
        let more = charge_allowance(scope, free_requests, quota, today);
        if more > 0 {
            plane.raise_day_count(scope.record.id, today, scope.counts.usage.used);
            charged += 1;
            requests += more;
        }
    }
    if requests > 0 {
        log::warn!(
            "the host or its maps were lost without notice. {} in the allowances of {} count as used today",
            counted(requests, "request"),
            counted(charged, "scope")
        );
    }
    Ok(())
}

/// Counts the allowance of `scope` for `today` as used, and returns the number of requests that
/// this adds to the count. The kernel may admit `free_requests` requests of a scope on a day before
/// it asks for an allowance.
fn charge_allowance(scope: &mut Scope, free_requests: u64, quota: u64, today: Day) -> u64 {
    let usage = &mut scope.counts.usage;
    let allowed = usage.allowed.max(free_requests).min(quota);
    if scope.counts.day != today || allowed <= usage.used {
        return 0;
    }
    let more = allowed - usage.used;
    usage.used = allowed;
    usage.lost += more;
    scope.unsaved = true;
    more
}
