// SPDX-License-Identifier: MIT OR Apache-2.0

//! Small versions of the cases of `cargo xtask simulate fleet`, each of which fails if a rule of
//! the leases is missing.

use limiter_fleet::EngineLost;
use limiter_simulation::{
    fleet::Fleet,
    outcome::Outcome,
    scenario::{DAY, Event, SECOND, Scenario},
};

/// Hosts that use up a quota within 30 s.
fn burst(events: Vec<(u64, Event)>) -> Scenario {
    Scenario {
        name: "a burst",
        hosts: 10,
        quota: 3_000,
        duration: 30 * SECOND,
        events,
        ..Scenario::default()
    }
}

fn run(scenario: &Scenario, runs: u64) -> Vec<Outcome> {
    (0..runs)
        .map(|seed| {
            Fleet::new(scenario.clone(), seed)
                .expect("the scripts compile")
                .run()
        })
        .collect()
}

/// Runs a scenario, and returns the largest number of requests beyond the quota.
fn over(scenario: &Scenario) -> u64 {
    let outcomes = run(scenario, 20);
    outcomes
        .iter()
        .map(|outcome| outcome.over)
        .max()
        .unwrap_or(0)
}

#[test]
fn without_faults_exactly_the_quota_is_admitted() {
    for outcome in run(&burst(Vec::new()), 20) {
        assert_eq!((outcome.over, outcome.unused, outcome.early), (0, 0, 0));
    }
}

#[test]
fn a_failover_that_loses_a_second_is_repaired_by_what_the_hosts_report() {
    let failover = |learning| Scenario {
        learning,
        ..burst(vec![(18 * SECOND, Event::Failover(2 * SECOND))])
    };
    assert_eq!(over(&failover(3 * SECOND)), 0);
}

#[test]
fn a_server_without_data_learns_what_was_leased() {
    assert_eq!(over(&burst(vec![(19 * SECOND, Event::Flush)])), 0);
}

#[test]
fn hosts_on_both_sides_of_a_partition_need_confirmations() {
    let split = |confirm| Scenario {
        confirm,
        ..burst(vec![
            (12 * SECOND, Event::Split(SECOND / 10, 5)),
            (25 * SECOND, Event::Heal),
        ])
    };
    assert_eq!(over(&split(true)), 0);
    assert!(
        over(&split(false)) > 0,
        "without confirmations, the quota should be exceeded"
    );
}

#[test]
fn each_rule_for_a_lost_engine_has_its_bound() {
    let away = |engine_lost| Scenario {
        engine_lost,
        demand: 10.0,
        ..burst(vec![(SECOND, Event::EngineDown)])
    };
    assert_eq!(over(&away(EngineLost::Lease)), 0);
    assert_eq!(over(&away(EngineLost::Closed)), 0);
    assert!(over(&away(EngineLost::Share)) <= 3_000);
    let open = over(&away(EngineLost::Open));
    assert!(open > 3_000 && open <= 9 * 3_000, "{open}");
}

#[test]
fn clocks_that_differ_at_midnight_neither_exceed_nor_waste_the_quota() {
    let midnight = Scenario {
        from: DAY - 15 * SECOND,
        skew: SECOND / 2,
        demand: 3.0,
        ..burst(Vec::new())
    };
    for outcome in run(&midnight, 20) {
        assert_eq!((outcome.over, outcome.unused), (0, 0));
    }
}

#[test]
fn a_lowered_quota_holds_once_all_hosts_know_it() {
    assert_eq!(over(&burst(vec![(15 * SECOND, Event::Quota(2_200))])), 0);
}

#[test]
fn at_most_a_hundredth_is_lost_with_a_tenth_of_the_hosts() {
    let crashes = (0..3)
        .map(|host| (15 * SECOND, Event::Crash(host)))
        .collect();
    let scenario = Scenario {
        hosts: 30,
        quota: 10_000,
        ..burst(crashes)
    };
    for outcome in run(&scenario, 5) {
        assert_eq!(outcome.over, 0);
        assert!(outcome.unused <= 100, "{outcome:?}");
    }
}
