// SPDX-License-Identifier: MIT OR Apache-2.0

//! Changes of a scope that shares its quota.

use limiter_common::abi::LIMITS_LEASED;
use limiter_fleet::{Purpose, Status};

use super::super::host::{Host, TODAY, caller, name, noon};
use super::{FLEET, Member};
use crate::domain::bound::Bound;
use crate::protocol::requests::ScopeMode;

#[test]
fn a_reset_begins_a_generation_without_a_lease() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    let engine = member.host.engine();
    engine
        .reset(&name("acme"), "test", &caller(noon()))
        .unwrap();
    assert_eq!((member.admitted_by_kernel(), member.used()), (0, 0));
    assert_eq!(member.stored(TODAY), 0);
    member.report();
    let call = member.call();
    assert_eq!((call.generation, call.lease, call.used), (1, 0, 0));
    member.answer(call, 0, Status::Granted);
    member.lease(8);
    assert_eq!(member.admitted_by_kernel(), 8);
    // The generation survives a restart.
    member.host.start(noon()).unwrap();
    let scope = member.host.engine().scopes.find(&name("acme")).unwrap();
    assert_eq!(scope.record.generation, 1);
    assert_eq!(member.admitted_by_kernel(), 8);
}

#[test]
fn only_enforced_quotas_are_shared() {
    let mut member = Member::new();
    member.lease(20);
    member.set_mode(ScopeMode::Observe);
    let flags = |member: &Member| member.host.plane.tables().limits[&member.id].flags;
    assert_eq!(flags(&member) & LIMITS_LEASED, 0);
    // The rest goes back, because other hosts may need it.
    let call = member.call();
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 0));
    member.answer(call, 0, Status::Granted);
    member.set_mode(ScopeMode::Tier);
    assert_ne!(flags(&member) & LIMITS_LEASED, 0);
    assert_eq!(member.admitted_by_kernel(), 0);
    member.set_quota(Bound::Unlimited);
    assert_eq!(flags(&member) & LIMITS_LEASED, 0);
}

#[test]
fn a_lower_quota_is_known_to_the_engine() {
    let mut member = Member::new();
    member.lease(20);
    member.set_quota(Bound::At(100));
    let call = member.call();
    assert_eq!((call.purpose, call.quota), (Purpose::Report, 100));
    assert_eq!(member.admitted_by_kernel(), 0);
}

#[test]
fn a_host_that_leaves_has_its_whole_quotas_again() {
    let mut host = Host::new(FLEET);
    let id = host.add("acme");
    let flags = |host: &Host| host.plane.tables().limits[&id].flags & LIMITS_LEASED;
    // A host that belongs to no fleet yet enforces its limits alone.
    assert_eq!(flags(&host), 0);
    host.engine().enter_fleet("f", &caller(noon())).unwrap();
    assert_ne!(flags(&host), 0);
    host.start(noon()).unwrap();
    assert_ne!(flags(&host), 0);
    host.engine().exit_fleet(&caller(noon())).unwrap();
    assert_eq!(flags(&host), 0);
    host.start(noon()).unwrap();
    assert_eq!(flags(&host), 0);
}

#[test]
fn a_lease_that_was_given_back_in_observe_mode_does_not_come_back() {
    let mut member = Member::new();
    member.lease(500);
    member.host.plane.admit(member.id, TODAY, 10);
    member.host.engine().flush(noon()).unwrap();
    member.set_mode(ScopeMode::Observe);
    assert_eq!(member.stored(TODAY), 10);
    let call = member.call();
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 10));
    member.answer(call, 10, Status::Granted);
    member.host.start(noon()).unwrap();
    member.set_mode(ScopeMode::Tier);
    assert_eq!(member.admitted_by_kernel(), 10);
}

#[test]
fn a_reset_in_observe_mode_forgets_the_lease_in_the_kernel() {
    let mut member = Member::new();
    member.lease(500);
    member.host.plane.admit(member.id, TODAY, 500);
    member.set_mode(ScopeMode::Observe);
    member.host.start(noon()).unwrap();
    let engine = member.host.engine();
    engine
        .reset(&name("acme"), "test", &caller(noon()))
        .unwrap();
    member.set_mode(ScopeMode::Tier);
    assert_eq!(member.admitted_by_kernel(), 0);
}

#[test]
fn a_reset_that_cannot_be_stored_keeps_the_generation() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    member.host.engine().flush(noon()).unwrap();
    member.host.engine().store.refuse_changes();
    let engine = member.host.engine();
    let failed = engine.reset(&name("acme"), "test", &caller(noon()));
    assert!(failed.is_err());
    let scope = engine.scopes.find(&name("acme")).unwrap();
    assert_eq!(scope.record.generation, 0);
}
