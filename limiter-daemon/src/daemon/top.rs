//! The busiest scopes.

use chrono::{DateTime, Utc};

use super::engine::{Engine, Scope};
use crate::{
    api::{TopQuery, TopRow, TopView},
    scope::ScopeName,
};

/// Scopes in an answer, unless another number is asked for.
const LIMIT: usize = 50;
/// Most scopes in an answer.
const MOST: usize = 1000;

impl Engine {
    /// The first scopes by what `query` says.
    ///
    /// Their counts of the day are those of the last look at them, a second ago at most, so that no more
    /// is read than what is ranked by: with a hundred thousand scopes it takes some twenty milliseconds.
    pub fn top(&self, query: &TopQuery, now: DateTime<Utc>) -> TopView {
        let limit = query.limit.map_or(LIMIT, |limit| limit as usize).min(MOST);
        let (mut matching, mut rate, mut refused_rate, mut in_flight) = (0, 0.0, 0.0, 0);
        let mut rows = Vec::with_capacity(2 * limit);
        let order = |one: &TopRow<_>, other: &TopRow<_>| query.by.rank(one, other);
        for scope in self.scopes.values() {
            if !scope.record.name.as_str().contains(&query.filter) {
                continue;
            }
            let row = self.top_row(scope);
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
            scopes: self.scopes.len() as u64,
            matching,
            rate,
            refused_rate,
            in_flight,
            top: rows.into_iter().map(named).collect(),
        }
    }

    fn top_row<'a>(&self, scope: &'a Scope) -> TopRow<&'a ScopeName> {
        let state = self.plane.state(scope.record.id);
        TopRow {
            scope: &scope.record.name,
            rate: scope.pace.admitted,
            refused_rate: scope.pace.refused,
            used: scope.book.usage.used,
            daily_quota: scope.limits.daily_quota,
            in_flight: state.in_flight,
            connections: state.connections,
            refused: scope.book.usage.refused,
        }
    }
}

/// A row that is handed out.
fn named(row: TopRow<&ScopeName>) -> TopRow {
    TopRow {
        scope: row.scope.clone(),
        rate: row.rate,
        refused_rate: row.refused_rate,
        used: row.used,
        daily_quota: row.daily_quota,
        in_flight: row.in_flight,
        connections: row.connections,
        refused: row.refused,
    }
}
