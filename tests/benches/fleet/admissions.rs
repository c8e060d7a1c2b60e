// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests that three hosts admit, in a fleet and each by itself.
//!
//! The hosts of both kinds have the same limits, which are too high to be reached. They take turns,
//! and all hosts of a kind are loaded at once.

use std::{fmt, thread, time::Duration};

use limiter_tests::{
    Config, GUARDED, Hosts, Lab, Rig, avoid_midnight,
    bench::{Target, median},
    engine::Program,
    tools,
};
use serde_json::{Value, json};

pub const NAME: &str = "admitted";

const HOSTS: usize = 3;
const ROUNDS: usize = 21;
const QUICK_ROUNDS: usize = 1;
const SECONDS: u32 = 2;
const QUICK_SECONDS: u32 = 1;
/// The maximum duration of this part, which must not run past midnight UTC.
const LONGEST: Duration = Duration::from_secs(300);

/// The connections to each host.
const CONNECTIONS: u32 = 8;
const SCOPE: &str = "acme/web";
/// A daily quota that is not used up.
const QUOTA: u64 = 2_000_000_000;
/// The wanted part of the requests without a fleet. Medians of a busy virtual machine differ by a
/// few hundredths without a reason.
const WANTED: f64 = 0.97;

/// The admitted requests per second on all hosts together.
pub struct Admissions {
    /// In each round, the rate of the fleet, and that of the hosts that are not in a fleet.
    rounds: Vec<[f64; 2]>,
}

/// Hosts, and the key that each of them knows.
struct Group<'a> {
    rigs: &'a [Rig],
    keys: Vec<String>,
}

impl Group<'_> {
    /// Returns the number of requests per second that all hosts together have admitted.
    fn load(&self, seconds: u32) -> f64 {
        let wrk = |rig: &Rig, key: &str| {
            let url = rig.lab.url(GUARDED, "/");
            let wrk = tools::wrk(&rig.lab, &url, key, CONNECTIONS, seconds);
            assert_eq!((wrk.refused, wrk.socket_errors), (0, 0), "{}", wrk.text);
            wrk.requests
        };
        let requests: u64 = thread::scope(|threads| {
            let all: Vec<_> = self
                .rigs
                .iter()
                .zip(&self.keys)
                .map(|(rig, key)| threads.spawn(move || wrk(rig, key)))
                .collect();
            all.into_iter()
                .map(|wrk| wrk.join().expect("wrk reports"))
                .sum()
        });
        requests as f64 / f64::from(seconds)
    }
}

pub fn measure(quick: bool) -> Admissions {
    avoid_midnight(LONGEST);
    let (rounds, seconds) = if quick {
        (QUICK_ROUNDS, QUICK_SECONDS)
    } else {
        (ROUNDS, SECONDS)
    };
    let configure = |config: Config| config.tier("profile", &format!("daily_quota = {QUOTA}"));
    let hosts = Hosts::in_fleet(Program::Redis7, HOSTS, configure);
    let key = hosts.key(SCOPE);
    let fleet = Group {
        rigs: &hosts.rigs,
        keys: vec![key; HOSTS],
    };
    let rigs: Vec<Rig> = (0..HOSTS).map(|_| alone(configure)).collect();
    let alone = Group {
        rigs: &rigs,
        keys: rigs.iter().map(|rig| rig.limiter.key(SCOPE)).collect(),
    };
    // The first leases of a host are short, because it does not know its demand yet.
    for group in [&fleet, &alone] {
        group.load(QUICK_SECONDS);
    }
    let rounds = (0..rounds).map(|round| {
        // Each kind is the first one in half of the rounds.
        if round % 2 == 0 {
            let of_fleet = fleet.load(seconds);
            [of_fleet, alone.load(seconds)]
        } else {
            let of_others = alone.load(seconds);
            [fleet.load(seconds), of_others]
        }
    });
    Admissions {
        rounds: rounds.collect(),
    }
}

/// Starts a host that is like those of [`Hosts`], but not in a fleet.
fn alone(configure: impl FnOnce(Config) -> Config) -> Rig {
    let lab = Lab::veth();
    lab.tune_for_packet_loss();
    Rig::of(lab, configure)
}

impl Admissions {
    fn rate(&self, kind: usize) -> f64 {
        median(self.rounds.iter().map(|rates| rates[kind]))
    }

    /// Returns the median of the ratios of a round.
    fn ratio(&self) -> f64 {
        median(self.rounds.iter().map(|[fleet, alone]| fleet / alone))
    }

    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let name = "admitted in a fleet, of the same hosts without a fleet";
        [Target::at_least(name, WANTED, self.ratio())].into_iter()
    }

    pub fn json(&self) -> Value {
        json!({
            "fleet_per_second": self.rate(0), "alone_per_second": self.rate(1),
            "ratio": self.ratio(), "rounds": self.rounds,
        })
    }
}

impl fmt::Display for Admissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("{HOSTS} hosts, {CONNECTIONS} connections each");
        writeln!(f, "\n{title:36} {:>8} {:>10}", "requests", "a second")?;
        let mut line = |name, ratio, rate| writeln!(f, "{name:36} {ratio:>8.3} {rate:>10.0}");
        line("without [fleet]", 1.0, self.rate(1))?;
        line("in a fleet", self.ratio(), self.rate(0))
    }
}
