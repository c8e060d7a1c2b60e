// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

const SCOPE: ScopeId = 3;
const RATE: f64 = 1_000.0;
const HOSTS: u64 = 3;

/// A host whose counters a test sets.
struct Host {
    rates: HostRates,
    now: Instant,
    asked: u64,
    /// The last report.
    call: Option<RateCall>,
}

impl Host {
    fn new() -> Self {
        let mut host = Self {
            rates: HostRates::default(),
            now: Instant::now(),
            asked: 0,
            call: None,
        };
        host.rates.set_hosts(HOSTS);
        host.read(0);
        host
    }

    /// Reads the counters after a period in which clients have sent `requests`.
    fn read(&mut self, requests: u64) {
        self.now += PERIOD;
        self.asked += requests;
        let mut readings = self.rates.read(self.now);
        readings.add(SCOPE, self.asked, RATE);
        assert_eq!(readings.end(), []);
    }

    /// Returns the demand that the host reports, if it reports one.
    fn demand(&mut self) -> Option<f64> {
        let calls = self.rates.calls(self.now);
        assert!(calls.len() <= 1 && calls.iter().all(|call| call.scope == SCOPE));
        self.call = calls.first().copied();
        self.call.map(|call| call.demand)
    }

    fn answer(&mut self, answer: RateAnswer) -> Option<ShareChange> {
        let call = self.call.expect("a report");
        self.rates.answered(self.now, &call, answer)
    }
}

fn change(share: Option<f64>) -> Option<ShareChange> {
    Some(ShareChange {
        scope: SCOPE,
        share,
    })
}

fn active(rate: f64) -> ActiveRate {
    ActiveRate {
        rate,
        recent: 0.0,
        demand: 0.0,
        share: None,
        is_reported: false,
        announced_at: None,
        heard_at: Instant::now(),
        divided_at: None,
    }
}

#[test]
fn a_demand_follows_a_change_and_not_its_noise() {
    let mut active = active(200.0);
    // 60 or 76 requests per second by turns, which is noise.
    let mut demands = Vec::new();
    for period in 0..80 {
        active.follow(15 + period % 2 * 4, 0.25);
        demands.push(active.demand);
    }
    for demand in &demands[40..] {
        assert!((66.0..70.0).contains(demand), "{demands:?}");
    }
    // A third of the requests is a change, of which a single period is no proof.
    active.follow(6, 0.25);
    assert!(active.demand > 60.0, "{}", active.demand);
    for _ in 0..5 {
        active.follow(6, 0.25);
    }
    assert!(active.demand < 35.0, "{}", active.demand);
}

#[test]
fn a_sudden_demand_is_reported_at_once() {
    let mut host = Host::new();
    assert_eq!(host.demand(), None);
    host.read(100);
    assert_eq!(host.demand(), Some(400.0));
    // A small difference may be chance.
    host.read(105);
    let demand = host.demand().unwrap();
    assert!((400.5..405.0).contains(&demand), "{demand}");
    host.read(0);
    assert_eq!(host.demand(), Some(0.0));
}

#[test]
fn the_demand_of_a_slow_rate_is_an_average() {
    let mut active = active(0.5);
    // One request in two seconds.
    for period in 0..400 {
        active.follow(u64::from(period % 8 == 0), 0.25);
    }
    assert!((0.4..0.6).contains(&active.demand), "{}", active.demand);
}

#[test]
fn a_host_with_little_demand_reports_it_after_an_announcement() {
    let mut host = Host::new();
    // 100 a second are less than half of a third of the rate.
    host.read(25);
    assert_eq!(host.demand(), None);
    host.rates.announced(host.now, SCOPE);
    assert_eq!(host.demand(), Some(100.0));
    // The announcement ends. The engine then forgets this host.
    for _ in 0..12 {
        host.read(25);
    }
    assert_eq!(host.demand(), Some(0.0));
    host.answer(RateAnswer::Whole);
    host.rates.announced(host.now, SCOPE);
    for _ in 0..12 {
        host.read(0);
    }
    assert_eq!(host.demand(), None);
}

#[test]
fn a_host_that_is_alone_reports_nothing() {
    let mut host = Host::new();
    host.rates.set_hosts(1);
    host.read(900);
    assert_eq!(host.demand(), None);
}

#[test]
fn a_share_is_enforced_until_it_ends() {
    let mut host = Host::new();
    host.read(100);
    host.demand();
    assert_eq!(host.answer(RateAnswer::Whole), None);
    assert_eq!(host.answer(RateAnswer::Share(300.0)), change(Some(300.0)));
    assert_eq!(host.answer(RateAnswer::Share(300.0)), None);
    assert_eq!(host.rates.shares(), 1);
    // Nearly the whole rate is the whole rate, which is enforced more strictly.
    assert_eq!(host.answer(RateAnswer::Share(995.0)), change(None));
    assert_eq!(host.rates.shares(), 0);
}

#[test]
fn a_host_that_pauses_has_an_equal_share_until_the_division_ends() {
    let mut host = Host::new();
    host.read(100);
    host.demand();
    host.answer(RateAnswer::Share(600.0));
    host.read(0);
    assert_eq!(host.demand(), Some(0.0));
    let equal = change(Some(RATE / HOSTS as f64));
    assert_eq!(host.answer(RateAnswer::Whole), equal);
    for _ in 0..30 {
        host.read(0);
        assert_eq!(
            (host.demand(), host.rates.give_up(host.now)),
            (None, vec![])
        );
    }
    // The last answer is more than five seconds old, but the engine has not been asked since.
    host.read(100);
    assert_eq!(host.demand(), Some(400.0));
    assert_eq!(host.rates.give_up(host.now), []);
    assert_eq!(host.answer(RateAnswer::Share(600.0)), change(Some(600.0)));
    host.read(0);
    host.demand();
    host.answer(RateAnswer::Whole);
    host.now += DIVIDED_FOR;
    assert_eq!(host.rates.give_up(host.now), Vec::from_iter(change(None)));
    // The engine says that the rate is not divided any more.
    host.read(0);
    host.read(100);
    host.demand();
    host.answer(RateAnswer::Share(600.0));
    assert_eq!(host.answer(RateAnswer::Whole), change(None));
}

#[test]
fn a_share_ends_if_the_engine_does_not_answer() {
    let mut host = Host::new();
    host.read(100);
    host.demand();
    host.answer(RateAnswer::Share(300.0));
    for _ in 0..19 {
        host.read(100);
        assert_eq!(host.rates.give_up(host.now), []);
    }
    host.read(100);
    assert_eq!(
        host.rates.give_up(host.now),
        Vec::from_iter(change(None)),
        "after five seconds"
    );
    assert_eq!(host.rates.give_up(host.now), []);
}

#[test]
fn a_share_of_a_scope_without_rate_ends() {
    let mut host = Host::new();
    host.read(100);
    host.demand();
    host.answer(RateAnswer::Share(300.0));
    let ended = host.rates.read(host.now + PERIOD).end();
    assert_eq!(ended, Vec::from_iter(change(None)));
    assert!(host.rates.active.is_empty());
    // A new owner of the id begins at 0.
    host.asked = 0;
    host.read(0);
    host.read(5);
    assert!(host.rates.active[&SCOPE].demand < 100.0);
}
