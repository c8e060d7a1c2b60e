// SPDX-License-Identifier: MIT OR Apache-2.0

//! The cases that `cargo xtask simulate fleet` runs.

use std::time::Duration;

use limiter_fleet::EngineLost;

use crate::scenario::{DAY, Event, HOUR, SECOND, Scenario, Spread};

/// A case of the table.
#[derive(Debug, Clone)]
pub struct Case {
    /// The parameters.
    pub scenario: Scenario,
    /// The number of runs with different seeds.
    pub runs: u64,
    /// Whether the fleet must never admit more than the quota.
    pub exact: bool,
}

fn exact(runs: u64, scenario: Scenario) -> Case {
    Case {
        scenario,
        runs,
        exact: true,
    }
}

fn inexact(runs: u64, scenario: Scenario) -> Case {
    Case {
        exact: false,
        ..exact(runs, scenario)
    }
}

/// Returns all cases.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        days(),
        hosts_that_come_and_go(),
        engine_away(),
        lost_writes(),
        midnights(),
        operators(),
        durations(),
    ]
    .concat()
}

fn named(name: &'static str) -> Scenario {
    Scenario {
        name,
        ..Scenario::default()
    }
}

/// Returns a case in which all requests come within `seconds`.
fn burst(name: &'static str, seconds: u64) -> Scenario {
    Scenario {
        duration: seconds * SECOND,
        ..named(name)
    }
}

fn days() -> Vec<Case> {
    let mut cases = Vec::new();
    for quota in [100, 1_000, 10_000, 100_000, 1_000_000] {
        let day = named("a day");
        let runs = if quota > 100_000 { 3 } else { 10 };
        cases.push(exact(runs, Scenario { quota, ..day }));
    }
    for hosts in [2, 10, 30] {
        let day = named("a day");
        cases.push(exact(10, Scenario { hosts, ..day }));
    }
    let even = Spread::Zipf(0.0);
    for quota in [1_000, 10_000] {
        cases.push(exact(
            10,
            Scenario {
                quota,
                spread: even,
                ..named("a day, spread evenly")
            },
        ));
    }
    let one = named("a day, one host gets all");
    let few = named("a day, demand is 1.02 times the quota");
    let early = named("a day without recalls");
    let lost = named("a day, 2% of the replies are lost");
    let repeated = named("a day, 5% of the calls come twice and late");
    cases.extend([
        exact(
            10,
            Scenario {
                spread: Spread::One,
                ..one
            },
        ),
        exact(
            10,
            Scenario {
                demand: 1.02,
                ..few
            },
        ),
        exact(
            10,
            Scenario {
                recalls: false,
                ..early
            },
        ),
        exact(
            10,
            Scenario {
                lost_replies: 0.02,
                ..lost
            },
        ),
        exact(
            10,
            Scenario {
                repeated_calls: 0.05,
                ..repeated
            },
        ),
        exact(10, burst("all within 20 s", 20)),
        exact(
            10,
            Scenario {
                quota: 1_000,
                ..burst("all within 20 s", 20)
            },
        ),
        exact(
            10,
            Scenario {
                lost_replies: 0.02,
                repeated_calls: 0.05,
                ..burst("all within 20 s, replies lost, calls repeated", 20)
            },
        ),
        exact(
            3,
            Scenario {
                quota: 1_000_000,
                ..burst("all within 10 min", 600)
            },
        ),
    ]);
    cases
}

fn hosts_that_come_and_go() -> Vec<Case> {
    let step = DAY / 30;
    let crash = |host: usize| ((2 * host as u64 + 1) * step, Event::Crash(host));
    let leave = |host: usize| ((2 * host as u64 + 1) * step, Event::Leave(host));
    let join = |host: usize| ((2 * host as u64 + 2) * step, Event::Join(100 + host));
    let replaced = |name, quota| Scenario {
        spare: 10,
        quota,
        events: (0..10).flat_map(|host| [crash(host), join(host)]).collect(),
        ..named(name)
    };
    let half = |at: u64| (0..50).map(move |host| (at, Event::Crash(host)));
    let back = (0..50).map(|host| (DAY / 3 + 600 * SECOND, Event::Reboot(host)));
    let restarts = (0..100).map(|host| (10 * SECOND + host * SECOND / 10, host as usize));
    vec![
        exact(10, replaced("10 hosts crash, 10 join", 1_000)),
        exact(10, replaced("10 hosts crash, 10 join", 10_000)),
        exact(
            10,
            Scenario {
                spare: 10,
                quota: 1_000,
                events: (0..10).flat_map(|host| [leave(host), join(host)]).collect(),
                ..named("10 hosts leave, 10 join")
            },
        ),
        exact(
            10,
            Scenario {
                events: half(DAY / 3).collect(),
                ..named("half of the hosts crash at 08:00")
            },
        ),
        exact(
            10,
            Scenario {
                events: half(DAY / 3).chain(back).collect(),
                ..named("half of the hosts crash at 08:00 and are back at 08:10")
            },
        ),
        exact(
            10,
            Scenario {
                events: half(10 * SECOND).collect(),
                ..burst("all within 20 s, half of the hosts crash", 20)
            },
        ),
        exact(
            10,
            Scenario {
                hosts: 2,
                events: vec![(10 * SECOND, Event::Crash(0))],
                ..burst("all within 20 s, one of two hosts crashes", 20)
            },
        ),
        exact(
            10,
            Scenario {
                events: restarts
                    .map(|(at, host)| (at, Event::Restart(host)))
                    .collect(),
                ..burst("all within 20 s, each daemon is killed once", 20)
            },
        ),
    ]
}

fn engine_away() -> Vec<Case> {
    let rules = [
        EngineLost::Lease,
        EngineLost::Share,
        EngineLost::Open,
        EngineLost::Closed,
    ];
    let names = [
        [
            "engine away 08:00 to 08:05, lease",
            "engine away 08:00 to 08:05, share",
            "engine away 08:00 to 08:05, open",
            "engine away 08:00 to 08:05, closed",
        ],
        [
            "engine away 14:00 to 18:00, lease",
            "engine away 14:00 to 18:00, share",
            "engine away 14:00 to 18:00, open",
            "engine away 14:00 to 18:00, closed",
        ],
        [
            "one host gets all until the engine is away, lease",
            "one host gets all until the engine is away, share",
            "one host gets all until the engine is away, open",
            "one host gets all until the engine is away, closed",
        ],
    ];
    let mut cases = Vec::new();
    let never_over = |rule| matches!(rule, EngineLost::Lease | EngineLost::Closed);
    for (at, rule) in rules.into_iter().enumerate() {
        for (name, from, to) in [
            (names[0][at], 8 * HOUR, 8 * HOUR + 300 * SECOND),
            (names[1][at], 14 * HOUR, 18 * HOUR),
        ] {
            cases.push(Case {
                exact: never_over(rule),
                ..exact(
                    10,
                    Scenario {
                        engine_lost: rule,
                        events: vec![(from, Event::EngineDown), (to, Event::EngineUp)],
                        ..named(name)
                    },
                )
            });
        }
        cases.push(Case {
            exact: never_over(rule),
            ..exact(
                10,
                Scenario {
                    engine_lost: rule,
                    spread: Spread::Zipf(6.0),
                    demand: 3.0,
                    events: vec![
                        (12 * HOUR, Event::EngineDown),
                        (12 * HOUR, Event::SpreadEvenly),
                        (16 * HOUR, Event::EngineUp),
                    ],
                    ..named(names[2][at])
                },
            )
        });
    }
    cases
}

fn lost_writes() -> Vec<Case> {
    let busy = |name| Scenario {
        quota: 100_000,
        ..burst(name, 60)
    };
    let failover = |at: u64| (at * SECOND, Event::Failover(SECOND));
    let cut = |at: u64| (0..10).map(move |host| (at * SECOND - 1, Event::Disconnect(host)));
    let mend = |at: u64| (0..10).map(move |host| (at * SECOND, Event::Reconnect(host)));
    let split = vec![
        (32 * SECOND, Event::Split(SECOND / 10, 50)),
        (42 * SECOND, Event::Heal),
    ];
    vec![
        inexact(
            10,
            Scenario {
                learning: 0,
                events: vec![failover(20)],
                ..busy("failover loses 1 s, nothing is learned")
            },
        ),
        exact(
            10,
            Scenario {
                events: vec![failover(20)],
                ..busy("failover loses 1 s")
            },
        ),
        exact(
            10,
            Scenario {
                events: vec![failover(39)],
                ..busy("failover loses 1 s near the end")
            },
        ),
        inexact(
            10,
            Scenario {
                events: cut(20).chain([failover(20)]).collect(),
                ..busy("failover loses 1 s, 10 hosts are cut off")
            },
        ),
        exact(
            10,
            Scenario {
                confirm: true,
                events: cut(20).chain([failover(20)]).collect(),
                ..busy("failover loses 1 s, 10 hosts are cut off, confirmed")
            },
        ),
        exact(
            10,
            Scenario {
                confirm: true,
                events: cut(39).chain([failover(39)]).chain(mend(45)).collect(),
                ..busy("failover loses 1 s near the end, 10 hosts are cut off for 6 s, confirmed")
            },
        ),
        inexact(
            10,
            Scenario {
                events: split.clone(),
                ..busy("a primary is cut off with half of the hosts for 10 s")
            },
        ),
        exact(
            10,
            Scenario {
                confirm: true,
                events: split,
                ..busy("a primary is cut off with half of the hosts for 10 s, confirmed")
            },
        ),
        exact(
            10,
            Scenario {
                events: vec![(20 * SECOND, Event::Flush)],
                ..busy("FLUSHALL")
            },
        ),
    ]
}

fn midnights() -> Vec<Case> {
    let midnight = |name, skew| Scenario {
        skew,
        from: DAY - 120 * SECOND,
        duration: 240 * SECOND,
        demand: 3.0,
        ..named(name)
    };
    vec![
        exact(10, midnight("midnight, clocks differ by 0.5 s", SECOND / 2)),
        exact(10, midnight("midnight, clocks differ by 30 s", 30 * SECOND)),
        exact(
            10,
            Scenario {
                events: vec![
                    (DAY - 20 * SECOND, Event::EngineDown),
                    (DAY + 40 * SECOND, Event::EngineUp),
                ],
                ..midnight("midnight while the engine is away", SECOND / 2)
            },
        ),
    ]
}

fn operators() -> Vec<Case> {
    let change = |name, at: u64, event| Scenario {
        events: vec![(at, event)],
        ..named(name)
    };
    let lowered = change("lowered to what is used", 8 * HOUR, Event::Quota(5_000));
    let in_burst = burst("lowered to what is used, in a burst", 20);
    let reset = change("reset at 06:00", 6 * HOUR, Event::Reset);
    let reset_in_burst = burst("reset in a burst", 20);
    vec![
        exact(
            10,
            change("raised by 40% at 17:00", 17 * HOUR, Event::Quota(14_000)),
        ),
        exact(
            10,
            change("lowered by 20% at 08:00", 8 * HOUR, Event::Quota(8_000)),
        ),
        exact(10, lowered),
        exact(
            10,
            Scenario {
                events: vec![(10 * SECOND, Event::Quota(7_500))],
                ..in_burst
            },
        ),
        exact(
            10,
            Scenario {
                demand: 2.5,
                ..reset
            },
        ),
        exact(
            10,
            Scenario {
                demand: 2.5,
                events: vec![(10 * SECOND, Event::Reset)],
                ..reset_in_burst
            },
        ),
    ]
}

fn durations() -> Vec<Case> {
    let names = [
        (
            10,
            "an hour, engine away for 5 min, lease = 10 s",
            "an hour, 10 hosts crash, lease = 10 s",
        ),
        (
            60,
            "an hour, engine away for 5 min, lease = 60 s",
            "an hour, 10 hosts crash, lease = 60 s",
        ),
        (
            300,
            "an hour, engine away for 5 min, lease = 300 s",
            "an hour, 10 hosts crash, lease = 300 s",
        ),
    ];
    let mut cases = Vec::new();
    for (seconds, away, crash) in names {
        let hour = |name| Scenario {
            quota: 100_000,
            lease: Duration::from_secs(seconds),
            duration: HOUR,
            ..named(name)
        };
        cases.push(exact(
            3,
            Scenario {
                demand: 1.1,
                events: vec![
                    (HOUR / 2, Event::EngineDown),
                    (HOUR / 2 + 300 * SECOND, Event::EngineUp),
                ],
                ..hour(away)
            },
        ));
        let crashes = (0..10).map(|host| (300 * (host + 1) * SECOND, Event::Crash(host as usize)));
        cases.push(exact(
            3,
            Scenario {
                events: crashes.collect(),
                ..hour(crash)
            },
        ));
    }
    cases
}
