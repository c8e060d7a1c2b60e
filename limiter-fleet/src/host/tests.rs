// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the decisions of a host.

mod calls;
mod lost_engine;
mod quotas;

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
            used: 0,
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
