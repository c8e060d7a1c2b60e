// SPDX-License-Identifier: MIT OR Apache-2.0

//! Quotas, resets and days.

use super::*;

#[test]
fn a_used_up_quota_is_refused_until_it_is_raised() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(10, true);
    let call = scene.call().unwrap();
    let step = scene.answer(&call, 10, 0, Status::UsedUp);
    assert_eq!(bound(step).excess, Excess::RefusedAllDay);
    scene.count(10, true);
    scene.wait(60_000);
    assert_eq!(scene.call(), None);
    let step = scene.set_quota(0, 2 * QUOTA);
    assert_eq!(bound(step).excess, Excess::Held);
    scene.count(10, true);
    assert_eq!(scene.call().unwrap().quota, 2 * QUOTA);
}

#[test]
fn after_a_reset_nothing_is_left_of_the_lease_and_old_answers_are_ignored() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(5, false);
    let call = scene.call().unwrap();
    let step = scene.set_quota(1, QUOTA);
    assert_eq!(limit(step), 0);
    assert_eq!(scene.answer(&call, 20, 500, Status::Granted), None);
    scene.lowered(step, 0);
    scene.count(0, true);
    assert_eq!(scene.call().unwrap().generation, 1);
}

#[test]
fn a_lower_quota_takes_back_what_is_not_needed_and_all_if_too_much_is_leased() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(100);
    scene.count(40, false);
    let step = scene.set_quota(0, 50);
    assert!(matches!(step, Some(Step::Lower(_))), "{step:?}");
    scene.lowered(step, 40);
    let call = scene.call().unwrap();
    assert_eq!((call.purpose, call.quota), (Purpose::Report, 50));
    // A host that has little left tells the engine, which knows whether too much is leased.
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(100);
    scene.count(100, false);
    scene.leases.queue = Queue::default();
    assert_eq!(scene.set_quota(0, 50), None);
    assert_eq!(scene.call().unwrap().purpose, Purpose::Report);
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(100);
    scene.count(60, false);
    let call = scene.call().unwrap();
    let step = scene.answer(&call, 100, -10, Status::LeasedOut);
    assert!(matches!(step, Some(Step::Lower(_))), "{step:?}");
    assert_eq!(limit(step), 60);
}

#[test]
fn for_tomorrow_a_host_leases_one_request_of_each_scope_that_it_serves() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.leases.prepare(scene.now, SCOPE, TOMORROW, QUOTA);
    assert_eq!(scene.call(), None, "the host serves nothing");
    scene.lease(10);
    scene.count(1, false);
    scene.leases.prepare(scene.now, SCOPE, TOMORROW, QUOTA);
    let call = scene.call().unwrap();
    assert_eq!((call.day, call.purpose), (TOMORROW, Purpose::Extend(1)));
    let step = scene.answer(&call, 1, 99, Status::Granted);
    assert_eq!((bound(step).day, limit(step)), (TOMORROW, 1));
    // The day turns. The engine gets the final count of the old one.
    let step = scene.leases.count(scene.now, SCOPE, TOMORROW, 1, false);
    assert_eq!(step, None);
    let calls = scene.leases.calls(scene.now, usize::MAX);
    let of_today = calls.iter().find(|call| call.day == TODAY).unwrap();
    assert_eq!((of_today.purpose, of_today.used), (Purpose::Report, 1));
    assert!(calls.iter().any(|call| call.day == TOMORROW));
}

#[test]
fn an_answer_for_an_earlier_quota_does_not_end_the_day() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(10, false);
    let call = scene.call().unwrap();
    scene.set_quota(0, 2 * QUOTA);
    assert_eq!(scene.answer(&call, 10, 0, Status::UsedUp), None);
    scene.count(10, true);
    assert_eq!(scene.call().unwrap().quota, 2 * QUOTA);
}

#[test]
fn a_used_up_quota_stays_used_up_although_a_request_was_held() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(10, true);
    let call = scene.call().unwrap();
    let step = scene.answer(&call, 10, 0, Status::UsedUp);
    assert_eq!(bound(step).excess, Excess::RefusedAllDay);
    for _ in 0..5 {
        scene.wait(1_000);
        let step = scene.leases.tick(scene.now, SCOPE, TODAY, 10);
        assert_eq!((step, scene.call()), (None, None));
    }
}

#[test]
fn a_lower_quota_and_a_reset_take_back_tomorrows_lease_too() {
    for (generation, quota) in [(0, 50), (1, QUOTA)] {
        let mut scene = Fixture::new(EngineLost::Lease);
        scene.lease(10);
        scene.count(1, false);
        scene.leases.prepare(scene.now, SCOPE, TOMORROW, QUOTA);
        let calls = scene.leases.calls(scene.now, usize::MAX);
        let call = calls.iter().find(|call| call.day == TOMORROW).unwrap();
        scene.answer(call, 1, 99, Status::Granted);
        let of_scope = (generation, quota);
        let steps = scene.leases.set_quota(scene.now, SCOPE, TODAY, of_scope);
        let of_tomorrow = steps
            .iter()
            .find(|step| bound(Some(**step)).day == TOMORROW);
        let of_tomorrow = of_tomorrow.copied();
        assert!(matches!(of_tomorrow, Some(Step::Lower(_))), "{steps:?}");
        assert_eq!(limit(of_tomorrow), 0);
    }
}

#[test]
fn a_recall_concerns_only_the_present_day() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(1, false);
    scene.leases.count(scene.now, SCOPE, TOMORROW, 0, false);
    assert_eq!(
        scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All),
        None
    );
}

#[test]
fn a_quota_that_changes_at_midnight_is_that_of_the_new_day() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(4, false);
    let of_scope = (0, 50);
    scene.leases.set_quota(scene.now, SCOPE, TOMORROW, of_scope);
    scene.leases.count(scene.now, SCOPE, TOMORROW, 0, true);
    let calls = scene.leases.calls(scene.now, usize::MAX);
    let quotas: Vec<(Day, u64)> = calls.iter().map(|call| (call.day, call.quota)).collect();
    assert!(quotas.contains(&(TOMORROW, 50)), "{quotas:?}");
    assert!(quotas.contains(&(TODAY, QUOTA)), "{quotas:?}");
}
