// SPDX-License-Identifier: MIT OR Apache-2.0

//! Leases in the store and in the kernel.

use limiter_common::abi::{LIMITS_LEASED, REFUSED_ALL_DAY};
use limiter_common::day::DayCount;
use limiter_fleet::{Purpose, Status};

use super::super::host::{TODAY, TOMORROW, at, noon};
use super::super::plane::MemoryPlane;
use super::{HOST, Member, granted};

#[test]
fn without_a_lease_nothing_is_admitted() {
    let mut member = Member::new();
    member.host.engine().tick(noon());
    let limits = member.host.plane.tables().limits[&member.id];
    assert_ne!(limits.flags & LIMITS_LEASED, 0);
    assert!(limits.ahead > 0, "0 would mean that nothing is enforced");
    assert_eq!(member.admitted_by_kernel(), 0);
    // The host has had no request, so it has no reason to call the engine.
    assert_eq!(member.calls(), []);
}

#[test]
fn a_lease_reaches_the_store_and_then_the_kernel() {
    let mut member = Member::new();
    member.lease(20);
    assert_eq!(
        (member.admitted_by_kernel(), member.stored(TODAY)),
        (20, 20)
    );
    let ahead = member.host.plane.tables().limits[&member.id].ahead;
    assert_eq!(ahead, 20, "the kernel reports when half is left");
    // When half of the lease is used, the host asks for more.
    member.host.plane.admit(member.id, TODAY, 10);
    member.report();
    let call = member.call();
    assert_eq!((call.lease, call.used), (20, 10));
    assert!(matches!(call.purpose, Purpose::Extend(total) if total > 20));
}

#[test]
fn a_lease_that_cannot_be_stored_does_not_reach_the_kernel() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 15);
    member.report();
    let call = member.call();
    member.host.engine().store.refuse_changes();
    let answer = granted(60);
    let calls = [("acme".to_owned(), call)];
    let engine = member.host.engine();
    let (_, noted) = engine.note_results(&calls, vec![Ok(answer)], HOST);
    assert!(noted.is_err());
    assert_eq!(member.admitted_by_kernel(), 20);
}

#[test]
fn the_allowance_follows_the_store_within_a_large_lease() {
    let mut member = Member::new();
    member.lease(5_000);
    // A tenth of the quota may run ahead of the store.
    assert_eq!(member.admitted_by_kernel(), 1_000);
    member.host.plane.admit(member.id, TODAY, 600);
    member.report();
    assert_eq!(member.admitted_by_kernel(), 1_600);
}

#[test]
fn a_used_up_quota_is_refused_until_midnight() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 20);
    member.report();
    let call = member.call();
    member.answer(call, 20, Status::UsedUp);
    let lease = member.host.plane.tables().leases[&member.id];
    assert_eq!(lease.refused_until_ns, REFUSED_ALL_DAY);
}

#[test]
fn a_recall_lowers_the_kernel_before_the_engine_hears_of_it() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    // The host does not follow its own recall.
    member.recall(HOST);
    assert_eq!((member.admitted_by_kernel(), member.calls().len()), (20, 0));
    member.recall("other");
    assert_eq!((member.admitted_by_kernel(), member.stored(TODAY)), (5, 5));
    let call = member.call();
    assert_eq!(
        (call.purpose, call.lease, call.used),
        (Purpose::Report, 5, 5)
    );
}

#[test]
fn a_lower_bound_that_cannot_be_stored_is_not_reported() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 1);
    member.host.engine().store.refuse_changes();
    let text = format!("other {} all acme", TODAY.0);
    let engine = member.host.engine();
    assert!(engine.note_recalls(&[text], HOST).is_err());
    // The kernel has the lower bound, which is safe. If the engine heard of it, a crash would bring
    // the higher one back from the store.
    assert_eq!(member.admitted_by_kernel(), 1);
    assert_eq!(member.calls(), []);
}

#[test]
fn leases_survive_the_daemon_and_count_as_used_after_a_crash_of_the_host() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    // The daemon is killed, and the maps stay.
    member.host.start(noon()).unwrap();
    assert_eq!((member.admitted_by_kernel(), member.used()), (20, 5));
    let call = member.call();
    assert_eq!(
        (call.purpose, call.lease, call.used),
        (Purpose::Report, 20, 5)
    );
    // The host loses its power.
    member.host.plane = MemoryPlane::new("boot:two");
    member.host.start(noon()).unwrap();
    assert_eq!(member.used(), 20);
    assert_eq!(member.admitted_by_kernel(), 20);
}

#[test]
fn an_orderly_end_gives_the_rest_back() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    member.host.engine().give_back().unwrap();
    assert_eq!((member.admitted_by_kernel(), member.stored(TODAY)), (5, 5));
    let call = member.call();
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 5));
    member.answer(call, 5, Status::Granted);
    assert!(!member.host.engine().has_fleet_calls());
}

#[test]
fn tomorrow_begins_with_the_lease_of_tomorrow() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    let late = at("2026-11-24T23:30:00Z");
    member.host.engine().tick(late);
    let calls = member.calls();
    let call = calls.iter().find(|call| call.day == TOMORROW).unwrap();
    member.answer(*call, 1, Status::Granted);
    assert_eq!(member.stored(TOMORROW), 1);
    let lease = member.host.plane.tables().leases[&member.id];
    assert_eq!(DayCount(lease.next), DayCount::new(TOMORROW, 1));
    // The first request of the new day comes.
    member.host.plane.admit(member.id, TOMORROW, 1);
    member.host.engine().tick(at("2026-11-25T00:00:01Z"));
    let lease = member.host.plane.tables().leases[&member.id];
    assert_eq!(DayCount(lease.current), DayCount::new(TOMORROW, 1));
    assert_eq!(lease.next, 0);
    let allowed = member.host.plane.tables().allowed[&member.id];
    assert_eq!(allowed, DayCount::new(TOMORROW, 1));
    // The engine gets the final count of the day that has ended.
    let calls = member.calls();
    let last = calls.iter().find(|call| call.day == TODAY).unwrap();
    assert_eq!((last.purpose, last.used), (Purpose::Report, 5));
}
