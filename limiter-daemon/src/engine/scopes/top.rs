// SPDX-License-Identifier: MIT OR Apache-2.0

//! The busiest scopes.

use chrono::{DateTime, Utc};
use limiter_fleet::HostLeases;

use super::registry::{Scope, Scopes};
use crate::{
    domain::scope::ScopeName,
    kernel::Plane,
    protocol::insight::{TopQuery, TopRow, TopView},
};

/// The default number of scopes in a view.
const LIMIT: usize = 50;
/// The maximum number of scopes in a view.
const MAX_SCOPES: usize = 1000;

/// Returns the first scopes in the order that `query` specifies.
///
/// The counts of the day are those of the last flush, which was at most a second ago. Only the
/// requests in flight and the connections are read from the kernel. With a hundred thousand scopes,
/// this takes about twenty milliseconds.
pub(crate) fn top(
    scopes: &Scopes,
    plane: &dyn Plane,
    leases: Option<&HostLeases>,
    query: &TopQuery,
    now: DateTime<Utc>,
) -> TopView {
    let limit = query
        .limit
        .map_or(LIMIT, |limit| limit as usize)
        .min(MAX_SCOPES);
    let (mut matching, mut rate, mut refused_rate, mut in_flight) = (0, 0.0, 0.0, 0);
    let mut rows = Vec::with_capacity(2 * limit);
    let order = |one: &TopRow<_>, other: &TopRow<_>| query.by.rank(one, other);
    for scope in scopes.iter() {
        if !scope.record.name.as_str().contains(&query.filter) {
            continue;
        }
        let row = row(scope, plane, leases);
        matching += 1;
        rate += row.rate;
        refused_rate += row.refused_rate;
        in_flight += row.in_flight;
        rows.push(row);
        if rows.len() == 2 * limit {
            rows.select_nth_unstable_by(limit.saturating_sub(1), order);
            rows.truncate(limit);
        }
    }
    rows.sort_unstable_by(order);
    rows.truncate(limit);
    TopView {
        at: now,
        scopes: scopes.len() as u64,
        matching,
        rate,
        refused_rate,
        in_flight,
        top: rows.into_iter().map(owned).collect(),
    }
}

fn row<'a>(
    scope: &'a Scope,
    plane: &dyn Plane,
    leases: Option<&HostLeases>,
) -> TopRow<&'a ScopeName> {
    let state = plane.state(scope.record.id);
    let used = scope.counts.usage.used;
    let used_by_all = leases
        .filter(|_| scope.shared_bounds().is_some())
        .and_then(|leases| leases.used_by_all(scope.record.id));
    TopRow {
        scope: &scope.record.name,
        rate: scope.pace.admitted,
        refused_rate: scope.pace.refused,
        used,
        fleet_used: used_by_all.map(|by_all| by_all.max(used)),
        daily_quota: scope.limits.daily_quota,
        in_flight: state.in_flight,
        connections: state.connections,
        refused: scope.counts.usage.refused,
    }
}

/// Returns the row with an owned copy of the scope's name.
fn owned(row: TopRow<&ScopeName>) -> TopRow {
    TopRow {
        scope: row.scope.clone(),
        rate: row.rate,
        refused_rate: row.refused_rate,
        used: row.used,
        fleet_used: row.fleet_used,
        daily_quota: row.daily_quota,
        in_flight: row.in_flight,
        connections: row.connections,
        refused: row.refused,
    }
}
