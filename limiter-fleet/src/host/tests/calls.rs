// SPDX-License-Identifier: MIT OR Apache-2.0

//! Calls, answers and recalls.

use super::*;

#[test]
fn a_host_asks_for_one_request_at_first_and_then_for_its_demand() {
    let mut scene = Fixture::new(EngineLost::Lease);
    assert_eq!(scene.call(), None);
    scene.count(0, true);
    let call = scene.call().unwrap();
    assert_eq!((call.lease, call.purpose), (0, Purpose::Extend(1)));
    assert_eq!((call.quota, call.generation, call.day), (QUOTA, 0, TODAY));
    scene.answer(&call, 1, 999, Status::Granted);
    scene.count(1, false);
    scene.tick(1);
    let call = scene.call().unwrap();
    assert_eq!((call.lease, call.used), (1, 1));
    // On average, 0.1 requests a second for 60 s.
    assert_eq!(call.purpose, Purpose::Extend(1 + 6));
}

#[test]
fn a_host_asks_when_half_of_its_lease_is_used() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.count(0, true);
    let call = scene.call().unwrap();
    let step = scene.answer(&call, 10, 500, Status::Granted);
    assert_eq!(bound(step).report_at, 5);
    scene.count(4, false);
    assert_eq!(scene.call(), None);
    scene.count(5, false);
    assert!(matches!(scene.call().unwrap().purpose, Purpose::Extend(_)));
}

#[test]
fn an_answer_that_comes_after_a_recall_extends_nothing() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(6, false);
    let call = scene.call().unwrap();
    let step = scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All);
    assert!(matches!(step, Some(Step::Lower(_))), "{step:?}");
    assert_eq!(limit(step), 6);
    assert_eq!(scene.answer(&call, 40, 500, Status::Granted), None);
    scene.leases.report_all(scene.now);
    assert_eq!(scene.call(), None, "the kernel may still admit more");
    // One more request was admitted before the kernel had the lower bound.
    scene.lowered(step, 7);
    let back = scene.call().unwrap();
    assert_eq!(
        (back.purpose, back.lease, back.used),
        (Purpose::Report, 7, 7)
    );
    assert!(back.number > call.number);
}

#[test]
fn a_recall_makes_a_host_with_a_used_up_lease_report_its_count() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(10, false);
    let call = scene.call().unwrap();
    scene.answer_with_wait(&call, 10, 0, Status::LeasedOut, 60_000);
    assert_eq!(
        scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All),
        None
    );
    assert_eq!(scene.call(), None, "the engine knows all");
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(4, false);
    scene.leases.count(scene.now, SCOPE, TODAY, 10, false);
    scene.leases.queue = Queue::default();
    assert_eq!(
        scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All),
        None
    );
    assert_eq!(scene.call().unwrap().used, 10);
}

#[test]
fn requests_are_refused_until_the_next_recall() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.count(0, true);
    let call = scene.call().unwrap();
    let step = scene.answer_with_wait(&call, 0, 0, Status::LeasedOut, 4_000);
    let until = scene.now + Duration::from_secs(4);
    assert_eq!(bound(step).excess, Excess::RefusedUntil(until));
    scene.wait(3_000);
    scene.count(0, true);
    assert_eq!(scene.call(), None);
    scene.wait(1_000);
    scene.count(0, true);
    assert!(scene.call().is_some());
}

#[test]
fn requests_are_held_for_up_to_a_second_and_a_half() {
    let mut scene = Fixture::new(EngineLost::Lease);
    let mut asked = 0;
    let mut excesss = Vec::new();
    for _ in 0..40 {
        excesss.extend(scene.count(0, true));
        if let Some(call) = scene.call() {
            asked += 1;
            excesss.extend(scene.answer_with_wait(&call, 0, 0, Status::LeasedOut, 200));
        }
        if !excesss.is_empty() {
            break;
        }
        scene.wait(50);
    }
    let excess = bound(excesss.first().copied()).excess;
    assert_eq!(asked, 16, "every 100 ms");
    assert_eq!(excess, Excess::RefusedUntil(scene.now + REFUSED_FOR));
}

#[test]
fn without_an_answer_a_call_is_repeated_with_another_number() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.count(0, true);
    let first = scene.call().unwrap();
    scene.wait(249);
    assert_eq!(scene.call(), None);
    scene.wait(1);
    let second = scene.call().unwrap();
    assert!(second.number > first.number);
    assert_eq!(scene.answer(&first, 5, 500, Status::Granted), None);
    assert_eq!(limit(scene.answer(&second, 5, 500, Status::Granted)), 5);
}

#[test]
fn the_rest_is_given_back_only_when_the_kernel_has_the_lowest_bound() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10_000);
    for second in 1..=100 {
        scene.tick(20 * second);
    }
    let first = scene.leases.recall(scene.now, SCOPE, TODAY, Recall::Most);
    let second = scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All);
    assert!(bound(second).number > bound(first).number);
    scene.lowered(first, 2_000);
    assert_eq!(scene.call(), None, "the second bound is not in force");
    scene.lowered(second, 2_000);
    assert_eq!(scene.call().unwrap().lease, limit(second));
    // A bound from before a reset says nothing about the new generation.
    let before = scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All);
    assert_eq!(before, None);
    let reset = scene.set_quota(1, QUOTA);
    scene.lowered(second, 400);
    scene.count(0, true);
    assert_eq!(scene.call(), None);
    scene.lowered(reset, 0);
    assert_eq!(scene.call().unwrap().lease, 0);
}

#[test]
fn a_host_whose_numbers_have_gone_back_continues_after_the_last_one() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.count(0, true);
    let call = scene.call().unwrap();
    scene.answer(&call, 5_000, 500, Status::Superseded);
    scene.wait(100);
    assert_eq!(scene.call().unwrap().number, 5_001);
}
