// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the view of the busiest scopes.

use chrono::TimeDelta;
use limiter_common::abi::reason;

use super::host::{Host, TODAY, noon};
use crate::protocol::insight::{TopColumn, TopQuery};

#[test]
fn rows_are_sorted_by_any_column_and_limited() {
    let mut host = Host::new("[tiers.profile]\ndaily_quota = 100000\n");
    let ids: Vec<u32> = (0..40)
        .map(|number| host.add(&format!("a/{number:02}")))
        .collect();
    host.engine().tick(noon());
    for (number, id) in (0..).zip(&ids) {
        host.plane.admit(*id, TODAY, 100 + number);
        host.plane.refuse(*id, reason::RATE, 40 - number);
        let mut tables = host.plane.tables();
        let state = tables.state.entry(*id).or_default();
        state.in_flight = number % 7;
        state.connections = number % 5;
    }
    let now = noon() + TimeDelta::seconds(2);
    host.engine().tick(now);
    let mut top = |by, limit, filter: &str| {
        let query = TopQuery {
            by,
            limit: Some(limit),
            filter: filter.to_owned(),
        };
        host.engine().top(&query, now)
    };
    for (by, first) in [
        (TopColumn::Scope, ["a/00", "a/01", "a/02"]),
        (TopColumn::Rate, ["a/39", "a/38", "a/37"]),
        (TopColumn::RefusedRate, ["a/00", "a/01", "a/02"]),
        (TopColumn::Used, ["a/39", "a/38", "a/37"]),
        (TopColumn::Quota, ["a/39", "a/38", "a/37"]),
        (TopColumn::InFlight, ["a/06", "a/13", "a/20"]),
        (TopColumn::Connections, ["a/04", "a/09", "a/14"]),
        (TopColumn::Refused, ["a/00", "a/01", "a/02"]),
    ] {
        let view = top(by, 3, "");
        let names: Vec<&str> = view.top.iter().map(|row| row.scope.as_str()).collect();
        assert_eq!(names, first, "{by:?}");
        assert_eq!((view.scopes, view.matching), (40, 40));
    }
    let view = top(TopColumn::Rate, 3, "/1");
    assert_eq!((view.scopes, view.matching), (40, 10));
    // The ten scopes have 110 to 119 requests in two seconds.
    assert_eq!(view.rate, 1145.0 / 2.0);
    assert_eq!(view.top[0].rate, 119.0 / 2.0);
    assert_eq!(top(TopColumn::Rate, 0, "").top, []);
}
