// SPDX-License-Identifier: MIT OR Apache-2.0

//! The figures and events about a fleet.

use std::time::{Duration, Instant};

use limiter_fleet::Answer;

use super::super::host::{TODAY, noon};
use super::{Member, granted};
use crate::domain::bound::Bound;
use crate::protocol::insight::TopQuery;
use crate::protocol::requests::ScopeMode;

#[test]
fn the_busiest_scopes_are_shown_with_the_requests_of_all_hosts() {
    let mut member = Member::new();
    let top = |member: &mut Member| {
        let query = TopQuery::default();
        let view = member.host.engine().top(&query, noon());
        (view.top[0].used, view.top[0].fleet_used)
    };
    assert_eq!(top(&mut member), (0, Some(0)));
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 15);
    member.report();
    let call = member.call();
    assert_eq!(call.used, 15);
    // The hosts have reported 700 requests, including those 15.
    let answer = Answer {
        used: 700,
        ..granted(40)
    };
    member.answer_with(call, answer);
    member.host.plane.admit(member.id, TODAY, 5);
    member.host.engine().tick(noon());
    assert_eq!(top(&mut member), (20, Some(705)));
    // Quotas in observe mode are not shared.
    member.set_mode(ScopeMode::Observe);
    assert_eq!(top(&mut member), (20, None));
}

#[test]
fn a_quota_that_the_hosts_exceed_is_an_event() {
    let mut member = Member::new();
    let answer = |member: &mut Member, used| {
        member.host.engine().report_leases();
        let call = member.call();
        let answer = Answer {
            used,
            ..granted(call.lease)
        };
        member.answer_with(call, answer);
        let events = member.host.engine().events.recent(100, 0);
        let messages = events.iter().filter_map(|event| event.message.as_deref());
        messages
            .filter(|message| message.contains("more than its daily quota"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 15);
    member.host.engine().tick(noon());
    assert!(answer(&mut member, 10_000).is_empty());
    let exceeded = answer(&mut member, 10_001);
    assert_eq!(
        exceeded,
        [
            "fleet: the hosts have admitted 10001 requests of acme, more than its daily quota of \
             10000"
        ]
    );
    assert_eq!(answer(&mut member, 10_002), exceeded, "one event");
    // A quota that is lowered is not exceeded by the hosts.
    member.set_quota(Bound::At(5_000));
    assert_eq!(answer(&mut member, 10_002), exceeded);
    assert_eq!(answer(&mut member, 10_003), exceeded);
}

#[test]
fn missing_confirmations_are_a_problem_after_five_seconds() {
    let mut member = Member::new();
    let engine = member.host.engine();
    engine.note_exchange(0.1, 2);
    engine.note_exchange(0.1, 1);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(engine.unconfirmed_problem(at(4)), None);
    let problem = engine.unconfirmed_problem(at(6)).unwrap();
    assert!(problem.contains("too few replicas"), "{problem}");
    engine.note_exchange(0.1, 0);
    assert_eq!(engine.unconfirmed_problem(at(6)), None);
}

#[test]
fn the_rest_of_the_leases_is_counted_in_the_kernel() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    // The daemon has not read the count since.
    assert_eq!(member.host.engine().leases_now(noon()).left, 15);
}
