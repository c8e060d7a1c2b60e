// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of a host that enforces shares of rates. The answers of the engine are made by the tests.

use std::time::Instant;

use limiter_common::{abi::reason, gcra::Rate};
use limiter_fleet::{PERIOD, RateAnswer};

use super::super::host::{Host, TODAY, caller, noon};
use crate::{
    domain::{bound::Bound, limits::Changes},
    protocol::requests::ScopeMode,
};

const FLEET: &str = "[fleet]\nengine = [\"redis://127.0.0.1:6379\"]\nrate = \"shared\"\n";

/// The rate of the built-in tier of the scope.
const WHOLE: Rate = Rate {
    interval_ns: 1_000_000,
    tolerance_ns: 0,
};
/// A quarter of it.
const QUARTER: Rate = Rate {
    interval_ns: 4_000_000,
    tolerance_ns: 100_000_000,
};

/// A host of a fleet of three, with the scope `acme`.
struct Member {
    host: Host,
    id: u32,
    now: Instant,
}

impl Member {
    fn new() -> Self {
        let mut host = Host::new(FLEET);
        let engine = host.engine();
        engine.enter_fleet("f", &caller(noon())).unwrap();
        engine.set_fleet_hosts(3);
        let id = host.add("acme");
        let now = Instant::now();
        assert_eq!(host.engine().rate_calls(now), []);
        Self { host, id, now }
    }

    /// Clients ask for 400 requests a second, of which the rate refuses 100. The host gets the
    /// share `answer`.
    fn ask(&mut self, answer: RateAnswer) {
        self.now += PERIOD;
        self.host.plane.admit(self.id, TODAY, 75);
        self.host.plane.refuse(self.id, reason::RATE, 25);
        self.host.plane.refuse(self.id, reason::CONCURRENCY, 50);
        let calls = self.host.engine().rate_calls(self.now);
        let demands = calls
            .iter()
            .map(|(name, call)| (name.as_str(), call.demand));
        assert_eq!(Vec::from_iter(demands), [("acme", 400.0)]);
        self.host.engine().note_shares(&calls, &[Some(answer)]);
    }

    fn rate(&self) -> Rate {
        let tables = self.host.plane.tables();
        let limits = tables.limits[&self.id];
        Rate {
            interval_ns: limits.interval_ns,
            tolerance_ns: limits.tolerance_ns,
        }
    }
}

#[test]
fn a_share_is_in_force_until_the_division_ends() {
    let mut member = Member::new();
    member.ask(RateAnswer::Whole);
    assert_eq!(member.rate(), WHOLE);
    member.ask(RateAnswer::Share(250.0));
    assert_eq!(
        (member.rate(), member.host.engine().divided_rates()),
        (QUARTER, 1)
    );
    member.ask(RateAnswer::Whole);
    assert_eq!(
        (member.rate(), member.host.engine().divided_rates()),
        (WHOLE, 0)
    );
}

#[test]
fn other_changes_keep_a_share() {
    let mut member = Member::new();
    member.ask(RateAnswer::Share(250.0));
    member.host.set_limits(
        "acme",
        Changes {
            daily_quota: Some(Bound::At(77)),
            ..Changes::default()
        },
    );
    assert_eq!(member.rate(), QUARTER);
    // A share is never more than the rate.
    let rate = "100/s".parse().unwrap();
    member.host.set_limits(
        "acme",
        Changes {
            rate: Some(Bound::At(rate)),
            ..Changes::default()
        },
    );
    assert_eq!(member.rate().interval_ns, 10_000_000);
    member.host.set_limits(
        "acme",
        Changes {
            rate: Some(Bound::Unlimited),
            ..Changes::default()
        },
    );
    assert_eq!(member.rate().interval_ns, 0);
    member.host.engine().rate_calls(member.now + PERIOD);
    assert_eq!(member.host.engine().divided_rates(), 0);
}

#[test]
fn a_host_that_leaves_enforces_the_whole_rate() {
    let mut member = Member::new();
    member.ask(RateAnswer::Share(250.0));
    member.host.engine().exit_fleet(&caller(noon())).unwrap();
    assert_eq!(member.rate(), WHOLE);
    assert_eq!(member.host.engine().rate_calls(member.now + PERIOD), []);
}

#[test]
fn the_rate_of_an_observed_scope_is_not_divided() {
    let mut member = Member::new();
    member.ask(RateAnswer::Share(250.0));
    member.host.set_mode("acme", ScopeMode::Observe);
    let engine = member.host.engine();
    engine.rate_calls(member.now + PERIOD);
    assert_eq!(member.rate(), WHOLE);
}

#[test]
fn an_announcement_makes_the_host_report_little_demand() {
    let mut member = Member::new();
    // 100 requests a second are less than half of a third of the rate.
    member.host.plane.admit(member.id, TODAY, 25);
    let now = member.now + PERIOD;
    let engine = member.host.engine();
    assert_eq!(engine.rate_calls(now), []);
    for scope in ["other", "No Scope"] {
        engine.note_announced_rate(scope);
    }
    assert_eq!(engine.rate_calls(now), []);
    engine.note_announced_rate("acme");
    assert_eq!(engine.rate_calls(now).len(), 1);
}
