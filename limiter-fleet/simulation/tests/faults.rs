// SPDX-License-Identifier: MIT OR Apache-2.0

//! Random sequences of faults, in which the fleet must never admit more than the quota.

use limiter_simulation::{
    fleet::Fleet,
    random::Random,
    scenario::{Event, SECOND, Scenario, Spread},
};

const HOSTS: usize = 8;
const QUOTA: u64 = 1_000;
const DURATION: u64 = 30 * SECOND;
const SEQUENCES: u64 = 200;

/// Returns a random event for a random host.
fn event(random: &mut Random) -> Event {
    let host = random.below(HOSTS as u64) as usize;
    match random.below(12) {
        0 => Event::Crash(host),
        1 | 2 => Event::Reboot(host),
        3 => Event::Restart(host),
        4 => Event::Leave(host),
        5 => Event::Join(host),
        6 => Event::EngineDown,
        7 | 8 => Event::EngineUp,
        9 => Event::Disconnect(host),
        10 => Event::Reconnect(host),
        _ => Event::Quota(QUOTA / 2 + random.below(QUOTA)),
    }
}

/// Returns a scenario with random faults. The fleet confirms its grants, so that a failover loses
/// no lease.
fn scenario(random: &mut Random) -> Scenario {
    let mut events: Vec<(u64, Event)> = (0..random.below(12))
        .map(|_| (random.below(DURATION), event(random)))
        .collect();
    let lag = random.below(2 * SECOND);
    let failover = 2 * SECOND + random.below(DURATION - 2 * SECOND);
    match random.below(4) {
        0 => events.push((failover, Event::Failover(lag))),
        1 => {
            let behind = random.below(HOSTS as u64) as usize;
            events.push((failover, Event::Split(lag, behind)));
            events.push((failover + random.below(10 * SECOND), Event::Heal));
        }
        2 => events.push((random.below(DURATION), Event::Reset)),
        _ => {}
    }
    Scenario {
        name: "random faults",
        hosts: HOSTS,
        quota: QUOTA,
        demand: 0.5 + 4.0 * random.fraction(),
        duration: DURATION,
        spread: Spread::Zipf(2.0 * random.fraction()),
        confirm: true,
        lost_replies: 0.1 * random.fraction(),
        repeated_calls: 0.2 * random.fraction(),
        events,
        ..Scenario::default()
    }
}

#[test]
fn no_sequence_of_faults_makes_the_fleet_exceed_the_quota() {
    let mut admitted = 0;
    for seed in 0..SEQUENCES {
        let scenario = scenario(&mut Random::new(seed));
        let text = format!("{scenario:?}");
        let outcome = Fleet::new(scenario, seed).unwrap().run();
        assert_eq!(outcome.over, 0, "seed {seed}: {outcome:?}\n{text}");
        admitted += outcome.admitted;
    }
    // The faults have not stopped everything.
    assert!(admitted > SEQUENCES * QUOTA / 2, "{admitted}");
}
