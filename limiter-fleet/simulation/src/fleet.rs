// SPDX-License-Identifier: MIT OR Apache-2.0

//! The simulated fleet.

mod clients;
mod engine;
mod events;
mod hosts;

use crate::engine::Engine;
use crate::host::{Host, SCOPE, day_at};
use crate::outcome::Outcome;
use crate::random::Random;
use crate::scenario::{DAY, Event, HOUR, SECOND, Scenario, Spread};
use crate::schedule::Schedule;
use limiter_common::abi::MAX_HELD_NS;
use limiter_fleet::{Answer, Bucket, Call, Failure, Recall, Settings};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The name of the only scope.
const NAME: &str = "acme";
/// The latency of one direction between a host and the engine: its minimum, and the mean of the
/// exponentially distributed addition, in µs.
const LATENCY: (u64, f64) = (300, 300.0);
/// The additional time of a confirmation by a replica, and the time after which the host gives up
/// waiting for one, in µs.
const CONFIRMATION: (u64, u64) = (300, 100_000);
/// The first timeout of a client's retransmissions, in µs.
const RETRANSMISSION: u64 = 200_000;
/// The time for which the simulation goes on after the last request, in µs.
const SETTLING: u64 = 10 * SECOND;
/// The time after which the kernel refuses a request that it still holds, in µs.
const MAX_HELD: u64 = MAX_HELD_NS / 1_000;

/// A thing that perform at some time.
#[derive(Debug, Clone, Copy)]
enum Action {
    Request,
    Again {
        host: usize,
        sent_at: u64,
        tries: u32,
    },
    Poll(usize),
    Execute {
        host: usize,
        call: Call,
        server: usize,
    },
    Reply {
        host: usize,
        call: Call,
        answer: Answer,
    },
    NoReply {
        host: usize,
        call: Call,
        failure: Failure,
    },
    Tick(usize),
    Recall {
        host: usize,
        day: usize,
        recall: Recall,
    },
    Prepare(usize),
    Reconnect(usize),
    Learns(usize),
    Settled,
    Snapshot,
    Event(Event),
}

/// A fleet of hosts that share one scope.
pub struct Fleet {
    scenario: Scenario,
    random: Random,
    at: u64,
    base: Instant,
    schedule: Schedule<Action>,
    servers: Vec<Engine>,
    engine_up: bool,
    /// The data of the replica, as of the time at which it began to lag.
    replica: Option<HashMap<String, HashMap<String, String>>>,
    /// The start and the end of the time in which the replica lags and confirms nothing, in µs.
    lags: Option<(u64, u64)>,
    hosts: Vec<Host>,
    /// The cumulative weights of the hosts.
    weights: Vec<f64>,
    quota: u64,
    /// The highest quota since the last reset.
    highest: u64,
    /// The highest quotas of the generations before the present one.
    earlier: Vec<u64>,
    generation: u64,
    /// The admitted requests by day and generation.
    admitted: HashMap<(usize, u64), u64>,
    /// The requests of the first day that had been admitted when all hosts knew the last change of
    /// the quota.
    settled: u64,
    second: (u64, u64),
    outcome: Outcome,
}

impl Fleet {
    /// Returns the fleet of a scenario.
    ///
    /// # Errors
    /// Returns an error if the scripts cannot be compiled.
    pub fn new(scenario: Scenario, seed: u64) -> mlua::Result<Self> {
        let mut random = Random::new(seed);
        let number = scenario.hosts + scenario.spare;
        let mut weights: Vec<f64> = (0..number)
            .map(|host| match scenario.spread {
                Spread::One => f64::from(u8::from(host == 0)),
                Spread::Zipf(power) => 1.0 / ((host + 1) as f64).powf(power),
            })
            .collect();
        if scenario.spread != Spread::One {
            for at in (1..number).rev() {
                weights.swap(at, random.below(at as u64 + 1) as usize);
            }
        }
        let mut sum = 0.0;
        for weight in &mut weights {
            sum += *weight;
            *weight = sum;
        }
        let base = Instant::now();
        let mut fleet = Self {
            at: 0,
            base,
            schedule: Schedule::new(),
            servers: vec![Engine::new("server-0")?],
            engine_up: true,
            replica: None,
            lags: None,
            hosts: Vec::new(),
            weights,
            quota: scenario.quota,
            highest: scenario.quota,
            earlier: Vec::new(),
            generation: 0,
            admitted: HashMap::new(),
            settled: 0,
            second: (0, 0),
            outcome: Outcome::default(),
            scenario,
            random,
        };
        // `fleet init` has named the server, so that it grants leases at once.
        let state = [Bucket::of(NAME).state_key()];
        let first = [
            fleet.servers[0].name.clone(),
            "0".to_owned(),
            "0".to_owned(),
        ];
        fleet.servers[0]
            .claim(&state, &first)
            .expect("the script works");
        for host in 0..number {
            let skew = fleet.scenario.skew as f64;
            let ahead = ((fleet.random.fraction() * 2.0 - 1.0) * skew) as i64;
            let alive = host < fleet.scenario.hosts;
            let mut new = Host::new(fleet.settings(), ahead, alive);
            new.leases.set_hosts(number as u64);
            new.server_name.clone_from(&fleet.servers[0].name);
            fleet.hosts.push(new);
            fleet.learns(host);
            let offset = fleet.random.below(HOUR - SECOND);
            fleet
                .schedule
                .add(DAY - HOUR + offset, Action::Prepare(host));
        }
        for (at, event) in fleet.scenario.events.clone() {
            if let Event::Failover(lag) | Event::Split(lag, _) = event {
                fleet.schedule.add(at - lag, Action::Snapshot);
                fleet.lags = Some((at - lag, at));
            }
            fleet.schedule.add(at, Action::Event(event));
        }
        fleet.schedule.add(fleet.scenario.from, Action::Request);
        Ok(fleet)
    }

    /// Runs the simulation.
    ///
    /// # Panics
    /// Panics if a script fails.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        let end = self.scenario.from + self.scenario.duration + SETTLING;
        while let Some((at, perform)) = self.schedule.next() {
            if at > end {
                break;
            }
            self.at = at;
            self.perform(perform);
        }
        self.judge()
    }

    /// Computes the excess over the quota and the unused quota of each day.
    fn judge(mut self) -> Outcome {
        let last = (self.scenario.from + self.scenario.duration - 1) / DAY;
        for (&(day, generation), &admitted) in &self.admitted {
            let current = generation == self.generation;
            let allowed = match self.earlier.get(generation as usize) {
                Some(&highest) => highest,
                None if day == 0 => self.quota.max(self.settled),
                None => self.quota,
            };
            self.outcome.over = self.outcome.over.max(admitted.saturating_sub(allowed));
            if current && day as u64 <= last && self.scenario.demand > 1.0 {
                let unused = self.quota.saturating_sub(admitted);
                self.outcome.unused = self.outcome.unused.max(unused);
            }
        }
        self.outcome
    }

    fn settings(&self) -> Settings {
        Settings {
            lease: self.scenario.lease,
            engine_lost: self.scenario.engine_lost,
            // The numbers of a later run of a daemon are larger than those of an earlier one.
            last_number: self.at,
        }
    }

    fn now(&self) -> Instant {
        self.base + Duration::from_micros(self.at)
    }

    fn latency(&mut self) -> u64 {
        LATENCY.0 + self.random.exponential(LATENCY.1) as u64
    }

    fn perform(&mut self, perform: Action) {
        match perform {
            Action::Request => self.request(),
            Action::Again {
                host,
                sent_at,
                tries,
            } => {
                if self.hosts[host].alive {
                    self.arrives(host, sent_at, tries);
                }
            }
            Action::Poll(host) => self.poll(host),
            Action::Execute { host, call, server } => self.execute(host, &call, server),
            Action::Reply { host, call, answer } => self.replied(host, &call, &answer),
            Action::NoReply {
                host,
                call,
                failure,
            } => {
                let now = self.now();
                if self.hosts[host].attended {
                    self.hosts[host].leases.failed(now, &call, failure);
                    self.look(host);
                }
            }
            Action::Tick(host) => self.tick(host),
            Action::Recall { host, day, recall } => {
                let now = self.now();
                if self.reaches(host) {
                    let step = self.hosts[host]
                        .leases
                        .recall(now, SCOPE, day_at(day), recall);
                    self.apply(host, step);
                }
            }
            Action::Prepare(host) => {
                let now = self.now();
                let tomorrow = day_at(1);
                self.hosts[host]
                    .leases
                    .prepare(now, SCOPE, tomorrow, self.quota);
                self.look(host);
            }
            Action::Reconnect(host) => self.reconnect(host),
            Action::Learns(host) => self.learns(host),
            Action::Settled => self.settled = self.total(0),
            Action::Snapshot => self.replica = self.servers.last().map(Engine::snapshot),
            Action::Event(event) => self.event(event),
        }
    }
}
