// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

const TODAY: Day = Day(20_000);
const TOMORROW: Day = Day(20_001);
const SCOPE: ScopeId = 7;
const QUOTA: u64 = 1_000;

/// A host with one scope, and the time.
struct Fixture {
    leases: HostLeases,
    now: Instant,
}

impl Fixture {
    fn new(engine_lost: EngineLost) -> Self {
        let settings = Settings {
            lease: Duration::from_secs(60),
            engine_lost,
            last_number: 0,
        };
        let now = Instant::now();
        let mut leases = HostLeases::new(settings);
        leases.set_hosts(4);
        assert_eq!(leases.set_quota(now, SCOPE, TODAY, (0, QUOTA)), []);
        Self { leases, now }
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    fn count(&mut self, used: u64, held: bool) -> Option<Step> {
        self.leases.count(self.now, SCOPE, TODAY, used, held)
    }

    fn call(&mut self) -> Option<Call> {
        let calls = self.leases.calls(self.now, usize::MAX);
        assert!(calls.len() <= 1, "{calls:?}");
        calls.first().copied()
    }

    fn answer(&mut self, call: &Call, lease: u64, free: i64, status: Status) -> Option<Step> {
        self.answer_with_wait(call, lease, free, status, 0)
    }

    fn answer_with_wait(
        &mut self,
        call: &Call,
        lease: u64,
        free: i64,
        status: Status,
        wait: u64,
    ) -> Option<Step> {
        let answer = Answer {
            lease,
            free,
            status,
            retry_after: Duration::from_millis(wait),
            recall: None,
        };
        self.leases.answered(self.now, call, &answer)
    }

    /// Lets the host lease `lease` requests, of which it has used none.
    fn lease(&mut self, lease: u64) {
        self.count(0, true);
        let call = self.call().unwrap();
        let step = self.answer(&call, lease, 500, Status::Granted);
        assert_eq!(limit(step), lease);
    }

    /// Reads the count, as the daemon does every second.
    fn tick(&mut self, used: u64) {
        self.wait(1_000);
        self.leases.tick(self.now, SCOPE, TODAY, used);
    }

    fn lowered(&mut self, step: Option<Step>, used: u64) {
        self.leases.lowered(self.now, &bound(step), used);
    }

    fn set_quota(&mut self, generation: u64, quota: u64) -> Option<Step> {
        let of_scope = (generation, quota);
        let steps = self.leases.set_quota(self.now, SCOPE, TODAY, of_scope);
        steps.first().copied()
    }

    fn lose_the_engine(&mut self) -> Vec<Step> {
        self.leases.engine_failed(self.now);
        self.wait(5_000);
        self.leases.check_engine(self.now)
    }
}

fn bound(step: Option<Step>) -> Bound {
    match step {
        Some(Step::Publish(bound) | Step::Lower(bound)) => bound,
        None => panic!("no bound has changed"),
    }
}

fn limit(step: Option<Step>) -> u64 {
    bound(step).limit
}

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
        // What was used beyond the lease counts as leased.
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
fn a_host_whose_numbers_have_gone_back_continues_after_the_last_one() {
    let mut scene = Fixture::new(EngineLost::Lease);
    scene.count(0, true);
    let call = scene.call().unwrap();
    scene.answer(&call, 5_000, 500, Status::Superseded);
    scene.wait(100);
    assert_eq!(scene.call().unwrap().number, 5_001);
}
