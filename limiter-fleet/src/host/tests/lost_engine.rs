// SPDX-License-Identifier: MIT OR Apache-2.0

//! An engine that is lost or replaced, and hosts that leave.

use super::*;

#[test]
fn a_recall_leaves_two_seconds_or_a_tenth_of_a_second_of_demand() {
    for (recall, kept) in [(Recall::Most, 40), (Recall::All, 2)] {
        let mut scene = Fixture::new(EngineLost::Lease);
        scene.lease(10_000);
        for second in 1..=100 {
            scene.tick(20 * second);
        }
        let step = scene.leases.recall(scene.now, SCOPE, TODAY, recall);
        assert!(limit(step).abs_diff(2_000 + kept) <= 1, "{step:?}");
    }
}

#[test]
fn a_recall_leaves_a_request_that_was_held_until_it_has_come_again() {
    let recall = |scene: &mut Fixture| {
        let step = scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All);
        step.map(|step| bound(Some(step)).limit)
    };
    let mut scene = Fixture::new(EngineLost::Lease);
    // The lease is granted after a request was held.
    scene.lease(5);
    assert_eq!(recall(&mut scene), Some(1));
    assert_eq!(recall(&mut scene), None);
    scene.count(1, false);
    assert_eq!(recall(&mut scene), None, "the lease is used up");
    // A client that does not send the request again has given up.
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(5);
    scene.wait(1_499);
    assert_eq!(recall(&mut scene), Some(1));
    scene.wait(1);
    assert_eq!(recall(&mut scene), Some(0));
}

#[test]
fn a_host_gives_back_a_lease_of_which_an_earlier_daemon_has_not_heard() {
    let mut scene = Fixture::new(EngineLost::Lease);
    let recall = |scene: &mut Fixture| {
        let step = scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All);
        assert_eq!(step, None);
        scene.call()
    };
    let call = recall(&mut scene).expect("a report");
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 0));
    assert_eq!(recall(&mut scene), None, "the answer is awaited");
    scene.answer(&call, 0, 500, Status::Granted);
    assert_eq!(recall(&mut scene), None, "the engine knows it");
}

#[test]
fn while_the_engine_is_lost_the_configured_rule_applies() {
    for (rule, expected) in [
        (EngineLost::Lease, 10),
        (EngineLost::Share, 10 + 500 / 4),
        (EngineLost::Open, QUOTA),
        (EngineLost::Closed, 0),
    ] {
        let mut scene = Fixture::new(rule);
        scene.lease(10);
        let steps = scene.lose_the_engine();
        assert_eq!(limit(steps.first().copied()), expected, "{rule:?}");
        // Beyond it, requests are refused, and the excess is renewed.
        let excess = bound(scene.count(expected.max(10), true)).excess;
        assert_eq!(
            excess,
            Excess::RefusedUntil(scene.now + REFUSED_FOR),
            "{rule:?}"
        );
        assert_eq!(scene.call(), None, "{rule:?}");
        scene.leases.engine_answered();
        let step = scene.leases.check_engine(scene.now).first().copied();
        // The requests that were admitted beyond the lease count as leased.
        assert_eq!(limit(step), expected.max(10), "{rule:?}");
        if let Some(Step::Lower(_)) = step {
            scene.lowered(step, expected.max(10));
        }
        let call = scene.call().unwrap();
        assert_eq!(
            (call.purpose, call.lease),
            (Purpose::Report, expected.max(10))
        );
    }
}

#[test]
fn a_restored_lease_and_leases_after_a_failover_are_reported() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.leases.restore(scene.now, SCOPE, TODAY, 30, 12);
    let call = scene.call().unwrap();
    assert_eq!(
        (call.purpose, call.lease, call.used),
        (Purpose::Report, 30, 12)
    );
    scene.leases.failed(scene.now, &call, Failure::OtherServer);
    scene.wait(100);
    let call = scene.call().unwrap();
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 30));
    scene.answer(&call, 30, 500, Status::Granted);
    assert_eq!(scene.call(), None);
    scene.leases.report_all(scene.now);
    assert_eq!(scene.call().unwrap().purpose, Purpose::Report);
}

#[test]
fn a_host_that_leaves_gives_everything_back() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(3, false);
    let steps = scene.leases.give_back_all(scene.now);
    assert_eq!(limit(steps.first().copied()), 3);
    scene.lowered(steps.first().copied(), 3);
    let call = scene.call().unwrap();
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 3));
}

#[test]
fn a_host_that_leaves_ignores_late_answers_and_asks_for_nothing() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(10, true);
    let call = scene.call().unwrap();
    assert_eq!(scene.leases.give_back_all(scene.now), []);
    assert_eq!(scene.answer(&call, 60, 500, Status::Granted), None);
    let report = scene.call().unwrap();
    assert_eq!((report.purpose, report.lease), (Purpose::Report, 10));
    scene.answer(&report, 10, 500, Status::Granted);
    scene.count(10, true);
    let next = scene.call();
    assert!(
        next.is_none_or(|call| call.purpose == Purpose::Report),
        "{next:?}"
    );
}

#[test]
fn heartbeats_do_not_hide_that_calls_are_not_confirmed() {
    let mut scene = Fixture::new(EngineLost::Share);
    scene.lease(10);
    scene.count(10, true);
    let mut limits = Vec::new();
    for _ in 0..100 {
        if let Some(call) = scene.call() {
            scene.leases.failed(scene.now, &call, Failure::Unanswered);
        }
        scene.leases.engine_answered();
        scene.wait(100);
        let steps = scene.leases.check_engine(scene.now);
        limits.extend(steps.first().map(|step| limit(Some(*step))));
    }
    assert_eq!(limits.first(), Some(&(10 + 500 / 4)), "after five seconds");
    // The host goes on trying, and notices that the engine answers.
    let call = scene.call().unwrap();
    assert_eq!(call.purpose, Purpose::Report);
    scene.answer(&call, 10, 400, Status::Granted);
    let step = scene.leases.check_engine(scene.now).first().copied();
    assert!(matches!(step, Some(Step::Lower(_))), "{step:?}");
    assert_eq!(limit(step), 10);
}

#[test]
fn a_part_of_the_free_quota_is_taken_once() {
    let mut scene = Fixture::new(EngineLost::Share);
    scene.lease(10);
    let step = scene.lose_the_engine().first().copied();
    assert_eq!(limit(step), 135);
    scene.count(135, true);
    scene.leases.engine_answered();
    scene.leases.check_engine(scene.now);
    let step = scene.lose_the_engine().first().copied();
    assert_eq!(
        limit(step),
        135,
        "the engine has not named another free part"
    );
}
