// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::Standing;

const TODAY: Day = Day(20_000);
const TOMORROW: Day = Day(20_001);
const SCOPE: ScopeId = 7;
const QUOTA: u64 = 1_000;

/// A host with one scope, and the time.
struct Scene {
    leases: HostLeases,
    now: Instant,
}

impl Scene {
    fn new(engine_lost: EngineLost) -> Self {
        let settings = Settings {
            lease: Duration::from_secs(60),
            engine_lost,
            first_operation: 0,
        };
        let now = Instant::now();
        let mut leases = HostLeases::new(settings);
        leases.set_hosts(4);
        assert_eq!(leases.set_quota(now, SCOPE, TODAY, (0, QUOTA)), None);
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

    fn answer(&mut self, call: &Call, lease: u64, free: i64, standing: Standing) -> Option<Step> {
        self.answer_again(call, lease, free, standing, 0)
    }

    fn answer_again(
        &mut self,
        call: &Call,
        lease: u64,
        free: i64,
        standing: Standing,
        again: u64,
    ) -> Option<Step> {
        let answer = Answer {
            lease,
            free,
            standing,
            again: Duration::from_millis(again),
            recall: None,
        };
        self.leases.answered(self.now, call, &answer)
    }

    /// Lets the host lease `lease` requests, of which it has used none.
    fn lease(&mut self, lease: u64) {
        self.count(0, true);
        let call = self.call().unwrap();
        let step = self.answer(&call, lease, 500, Standing::Granted);
        assert_eq!(limit(step), lease);
    }

    /// Reads the count, as the daemon does every second.
    fn tick(&mut self, used: u64) {
        self.wait(1_000);
        self.leases.tick(self.now, SCOPE, TODAY, used);
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
    let mut scene = Scene::new(EngineLost::Lease);
    assert_eq!(scene.call(), None);
    scene.count(0, true);
    let call = scene.call().unwrap();
    assert_eq!((call.lease, call.wish), (0, Wish::UpTo(1)));
    assert_eq!((call.quota, call.generation, call.day), (QUOTA, 0, TODAY));
    scene.answer(&call, 1, 999, Standing::Granted);
    scene.count(1, false);
    scene.tick(1);
    let call = scene.call().unwrap();
    assert_eq!((call.lease, call.used), (1, 1));
    // On average, 0.1 requests a second for 60 s.
    assert_eq!(call.wish, Wish::UpTo(1 + 6));
}

#[test]
fn a_host_asks_when_half_of_its_lease_is_used() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.count(0, true);
    let call = scene.call().unwrap();
    let step = scene.answer(&call, 10, 500, Standing::Granted);
    assert_eq!(bound(step).report_at, 5);
    scene.count(4, false);
    assert_eq!(scene.call(), None);
    scene.count(5, false);
    assert!(matches!(scene.call().unwrap().wish, Wish::UpTo(_)));
}

#[test]
fn an_answer_that_comes_after_a_recall_extends_nothing() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(6, false);
    let call = scene.call().unwrap();
    let step = scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All);
    assert!(matches!(step, Some(Step::Lower(_))), "{step:?}");
    assert_eq!(limit(step), 6);
    assert_eq!(scene.answer(&call, 40, 500, Standing::Granted), None);
    scene.leases.report_all(scene.now);
    assert_eq!(scene.call(), None, "the kernel may still admit more");
    // One more request was admitted before the kernel had the lower bound.
    scene.leases.lowered(scene.now, SCOPE, TODAY, 7);
    let back = scene.call().unwrap();
    assert_eq!((back.wish, back.lease, back.used), (Wish::Keep, 7, 7));
    assert!(back.operation > call.operation);
}

#[test]
fn a_recall_leaves_two_seconds_or_a_tenth_of_a_second_of_demand() {
    for (recall, kept) in [(Recall::Most, 40), (Recall::All, 2)] {
        let mut scene = Scene::new(EngineLost::Lease);
        scene.lease(10_000);
        for second in 1..=100 {
            scene.tick(20 * second);
        }
        let step = scene.leases.recall(scene.now, SCOPE, TODAY, recall);
        assert!(limit(step).abs_diff(2_000 + kept) <= 1, "{step:?}");
    }
}

#[test]
fn a_recall_makes_a_host_without_a_rest_report_what_it_used() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(10, false);
    let call = scene.call().unwrap();
    scene.answer_again(&call, 10, 0, Standing::LeasedOut, 60_000);
    assert_eq!(
        scene.leases.recall(scene.now, SCOPE, TODAY, Recall::All),
        None
    );
    assert_eq!(scene.call(), None, "the engine knows all");
    let mut scene = Scene::new(EngineLost::Lease);
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
    let mut scene = Scene::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(10, true);
    let call = scene.call().unwrap();
    let step = scene.answer(&call, 10, 0, Standing::UsedUp);
    assert_eq!(bound(step).refusal, Refusal::UsedUp);
    scene.count(10, true);
    scene.wait(60_000);
    assert_eq!(scene.call(), None);
    let raised = (0, 2 * QUOTA);
    let step = scene.leases.set_quota(scene.now, SCOPE, TODAY, raised);
    assert_eq!(bound(step).refusal, Refusal::Held);
    scene.count(10, true);
    assert_eq!(scene.call().unwrap().quota, 2 * QUOTA);
}

#[test]
fn requests_are_refused_until_the_next_recall() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.count(0, true);
    let call = scene.call().unwrap();
    let step = scene.answer_again(&call, 0, 0, Standing::LeasedOut, 4_000);
    let until = scene.now + Duration::from_secs(4);
    assert_eq!(bound(step).refusal, Refusal::Until(until));
    scene.wait(3_000);
    scene.count(0, true);
    assert_eq!(scene.call(), None);
    scene.wait(1_000);
    scene.count(0, true);
    assert!(scene.call().is_some());
}

#[test]
fn requests_are_held_for_up_to_a_second_and_a_half() {
    let mut scene = Scene::new(EngineLost::Lease);
    let mut asked = 0;
    let mut refusals = Vec::new();
    for _ in 0..40 {
        refusals.extend(scene.count(0, true));
        if let Some(call) = scene.call() {
            asked += 1;
            refusals.extend(scene.answer_again(&call, 0, 0, Standing::LeasedOut, 200));
        }
        if !refusals.is_empty() {
            break;
        }
        scene.wait(50);
    }
    let refusal = bound(refusals.first().copied()).refusal;
    assert_eq!(asked, 16, "every 100 ms");
    assert_eq!(refusal, Refusal::Until(scene.now + REFUSED_FOR));
}

#[test]
fn without_an_answer_a_call_is_repeated_with_another_number() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.count(0, true);
    let first = scene.call().unwrap();
    scene.wait(249);
    assert_eq!(scene.call(), None);
    scene.wait(1);
    let second = scene.call().unwrap();
    assert!(second.operation > first.operation);
    assert_eq!(scene.answer(&first, 5, 500, Standing::Granted), None);
    assert_eq!(limit(scene.answer(&second, 5, 500, Standing::Granted)), 5);
}

#[test]
fn after_a_reset_nothing_is_left_of_the_lease_and_old_answers_are_ignored() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(5, false);
    let call = scene.call().unwrap();
    let step = scene.leases.set_quota(scene.now, SCOPE, TODAY, (1, QUOTA));
    assert_eq!(limit(step), 0);
    assert_eq!(scene.answer(&call, 20, 500, Standing::Granted), None);
    scene.count(0, true);
    assert_eq!(scene.call().unwrap().generation, 1);
}

#[test]
fn a_lower_quota_takes_back_what_is_not_needed_and_all_if_too_much_is_leased() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.lease(100);
    scene.count(40, false);
    let step = scene.leases.set_quota(scene.now, SCOPE, TODAY, (0, 50));
    assert!(matches!(step, Some(Step::Lower(_))), "{step:?}");
    scene.leases.lowered(scene.now, SCOPE, TODAY, 40);
    let call = scene.call().unwrap();
    assert_eq!((call.wish, call.quota), (Wish::Keep, 50));
    // A host that has little left tells the engine, which knows whether too much is leased.
    let mut scene = Scene::new(EngineLost::Lease);
    scene.lease(100);
    scene.count(100, false);
    scene.leases.queue = Queue::default();
    let lowered = (0, 50);
    assert_eq!(
        scene.leases.set_quota(scene.now, SCOPE, TODAY, lowered),
        None
    );
    assert_eq!(scene.call().unwrap().wish, Wish::Keep);
    let mut scene = Scene::new(EngineLost::Lease);
    scene.lease(100);
    scene.count(60, false);
    let call = scene.call().unwrap();
    let step = scene.answer(&call, 100, -10, Standing::LeasedOut);
    assert!(matches!(step, Some(Step::Lower(_))), "{step:?}");
    assert_eq!(limit(step), 60);
}

#[test]
fn a_lost_engine_is_replaced_by_the_rule_for_it() {
    for (rule, expected) in [
        (EngineLost::Lease, 10),
        (EngineLost::Share, 10 + 500 / 4),
        (EngineLost::Open, QUOTA),
        (EngineLost::Closed, 0),
    ] {
        let mut scene = Scene::new(rule);
        scene.lease(10);
        let steps = scene.lose_the_engine();
        assert_eq!(limit(steps.first().copied()), expected, "{rule:?}");
        // Beyond it, requests are refused, and the refusal is renewed.
        let refusal = bound(scene.count(expected.max(10), true)).refusal;
        assert_eq!(refusal, Refusal::Until(scene.now + REFUSED_FOR), "{rule:?}");
        assert_eq!(scene.call(), None, "{rule:?}");
        scene.leases.engine_answered();
        let step = scene.leases.check_engine(scene.now).first().copied();
        // What was used beyond the lease counts as leased.
        assert_eq!(limit(step), expected.max(10), "{rule:?}");
        let call = scene.call().unwrap();
        assert_eq!((call.wish, call.lease), (Wish::Keep, expected.max(10)));
    }
}

#[test]
fn for_tomorrow_a_host_leases_one_request_of_each_scope_that_it_serves() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.leases.prepare(scene.now, SCOPE, TOMORROW);
    assert_eq!(scene.call(), None, "the host serves nothing");
    scene.lease(10);
    scene.count(1, false);
    scene.leases.prepare(scene.now, SCOPE, TOMORROW);
    let call = scene.call().unwrap();
    assert_eq!((call.day, call.wish), (TOMORROW, Wish::UpTo(1)));
    let step = scene.answer(&call, 1, 99, Standing::Granted);
    assert_eq!((bound(step).day, limit(step)), (TOMORROW, 1));
    // The day turns. The engine gets the final count of the old one.
    let step = scene.leases.count(scene.now, SCOPE, TOMORROW, 1, false);
    assert_eq!(step, None);
    let calls = scene.leases.calls(scene.now, usize::MAX);
    let of_today = calls.iter().find(|call| call.day == TODAY).unwrap();
    assert_eq!((of_today.wish, of_today.used), (Wish::Keep, 1));
    assert!(calls.iter().any(|call| call.day == TOMORROW));
}

#[test]
fn a_restored_lease_and_leases_after_a_failover_are_reported() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.leases.restore(scene.now, SCOPE, TODAY, 30, 12);
    let call = scene.call().unwrap();
    assert_eq!((call.wish, call.lease, call.used), (Wish::Keep, 30, 12));
    scene.leases.failed(scene.now, &call, Failure::OtherServer);
    scene.wait(100);
    let call = scene.call().unwrap();
    assert_eq!((call.wish, call.lease), (Wish::Keep, 30));
    scene.answer(&call, 30, 500, Standing::Granted);
    assert_eq!(scene.call(), None);
    scene.leases.report_all(scene.now);
    assert_eq!(scene.call().unwrap().wish, Wish::Keep);
}

#[test]
fn a_host_that_leaves_gives_everything_back() {
    let mut scene = Scene::new(EngineLost::Lease);
    scene.lease(10);
    scene.count(3, false);
    let steps = scene.leases.give_back_all();
    assert_eq!(limit(steps.first().copied()), 3);
    scene.leases.lowered(scene.now, SCOPE, TODAY, 3);
    let call = scene.call().unwrap();
    assert_eq!((call.wish, call.lease), (Wish::Keep, 3));
}
