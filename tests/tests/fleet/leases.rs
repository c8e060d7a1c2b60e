// SPDX-License-Identifier: MIT OR Apache-2.0

//! Hosts with the lease logic of the daemon share a quota on real servers. Only their kernels and
//! their customers are simulated.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::join_all};
use limiter_common::day::Day;
use limiter_fleet::{
    Bound, Call, EngineLost, Excess, HostLeases, Recall, Settings as LeaseSettings, Step,
    client::{Announcement, Announcements, Client, Kind, Settings},
};
use limiter_tests::{
    Lab,
    clock::TIMEOUT,
    engine::{Engine, Place, Program, Sentinels},
};

use crate::{
    sentinels::{settings_of, watched},
    support::{QUOTA, SCOPE, run, settings, today},
};

const HOSTS: usize = 3;
const ID: u32 = 0;
/// The interval at which a host has a request, and looks after its leases.
const INTERVAL: Duration = Duration::from_millis(10);
/// The interval at which a customer sends a request again that was held.
const RETRANSMISSION: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);
/// The text of a recall for all that a host does not need. The only other one is for most of it.
const ALL: &str = "all";

/// A host with a kernel of its own.
struct Host {
    client: Client,
    announcements: Option<Announcements>,
    leases: HostLeases,
    day: Day,
    bound: Option<Bound>,
    used: u64,
    held_at: Option<Instant>,
    incarnation: String,
}

impl Host {
    fn new(settings: Settings, name: &str) -> Self {
        let mut leases = HostLeases::new(LeaseSettings {
            lease: Duration::from_secs(60),
            engine_lost: EngineLost::Lease,
            last_number: 0,
        });
        leases.set_hosts(HOSTS as u64);
        let day = today();
        leases.set_quota(Instant::now(), ID, day, (0, QUOTA));
        Self {
            client: Client::new(settings, name),
            announcements: None,
            leases,
            day,
            bound: None,
            used: 0,
            held_at: None,
            incarnation: String::new(),
        }
    }

    fn apply(&mut self, step: Option<Step>) {
        let Some(Step::Publish(bound) | Step::Lower(bound)) = step else {
            return;
        };
        self.bound = Some(bound);
        if let Some(Step::Lower(bound)) = step {
            self.leases.lowered(Instant::now(), &bound, self.used);
        }
    }

    /// Returns whether all of the quota is used up.
    fn is_done(&self) -> bool {
        self.bound
            .is_some_and(|bound| bound.excess == Excess::RefusedAllDay && self.used >= bound.limit)
    }

    /// A request arrives.
    fn request(&mut self) {
        let now = Instant::now();
        if let Some(bound) = self.bound.filter(|bound| self.used < bound.limit) {
            self.used += 1;
            if self.used == bound.report_at || self.used == bound.limit {
                let step = self.leases.count(now, ID, self.day, self.used, false);
                self.apply(step);
            }
            return;
        }
        let waits = self.held_at.is_some_and(|at| now < at + RETRANSMISSION);
        let is_held = match self.bound.map(|bound| bound.excess) {
            None | Some(Excess::Held) => true,
            Some(Excess::RefusedUntil(until)) => until <= now,
            Some(Excess::RefusedAllDay) => false,
        };
        if is_held && !waits {
            self.held_at = Some(now);
            let step = self.leases.count(now, ID, self.day, self.used, true);
            self.apply(step);
        }
    }

    /// Sends the calls that are due.
    async fn exchange(&mut self) {
        let calls = self.leases.calls(Instant::now(), 100);
        if calls.is_empty() {
            return;
        }
        let named: Vec<(String, Call)> =
            calls.iter().map(|call| (SCOPE.to_owned(), *call)).collect();
        let (results, _) = self.client.lease(&named).await;
        let now = Instant::now();
        for (call, result) in calls.iter().zip(results) {
            match result {
                Ok(answer) => {
                    let step = self.leases.answered(now, call, &answer);
                    self.apply(step);
                    if let Some(recall) = answer.recall {
                        let text = if recall == Recall::All { ALL } else { "most" };
                        // The engine asks for it again if it is lost.
                        let _lost = self.client.recall(&[text.to_owned()]).await;
                    }
                }
                Err(failure) => self.leases.failed(now, call, failure),
            }
        }
    }

    /// Follows the announcements.
    async fn listen(&mut self) {
        let Some(announcements) = &mut self.announcements else {
            self.announcements = self.client.subscribe().await.ok();
            return;
        };
        let announced = announcements.next().now_or_never();
        match announced {
            Some(Some(Announcement::Recall(recall))) => {
                let recall = if recall.text == ALL {
                    Recall::All
                } else {
                    Recall::Most
                };
                let step = self.leases.recall(Instant::now(), ID, self.day, recall);
                self.apply(step);
            }
            Some(Some(Announcement::Claimed(_))) => self.leases.report_all(Instant::now()),
            Some(None) => self.announcements = None,
            Some(Some(Announcement::Changed(_) | Announcement::Rate(_))) | None => {}
        }
    }

    /// Does the work of each second.
    async fn tick(&mut self) {
        let servers = self.client.describe().await;
        let now = Instant::now();
        match servers.iter().flatten().next() {
            Some((_, Ok(server))) => {
                self.leases.engine_answered();
                if server.incarnation != self.incarnation {
                    self.incarnation.clone_from(&server.incarnation);
                    self.leases.report_all(now);
                }
            }
            _ => self.leases.engine_failed(now),
        }
        let step = self.leases.tick(now, ID, self.day, self.used);
        self.apply(step);
        for step in self.leases.check_engine(now) {
            self.apply(Some(step));
        }
    }

    /// Runs until the quota is used up, or until `stop` is set.
    async fn live(&mut self, stop: &Cell<bool>) {
        let begun = Instant::now();
        let mut next_tick = begun;
        while !stop.get() && !self.is_done() {
            assert!(begun.elapsed() < TIMEOUT, "{:?}", self.leases);
            self.request();
            self.exchange().await;
            self.listen().await;
            if Instant::now() >= next_tick {
                self.tick().await;
                next_tick += SECOND;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// Returns hosts on the engine, which gets a new fleet.
async fn hosts(settings: &Settings) -> Vec<Host> {
    let new = |number| Host::new(settings.clone(), &format!("host-{number}"));
    let mut hosts: Vec<Host> = (0..HOSTS).map(new).collect();
    let first = &mut hosts[0].client;
    first.create_fleet("fleet", "check").await.expect("a fleet");
    first.claim_buckets().await.expect("a server");
    hosts
}

fn used(hosts: &[Host]) -> u64 {
    hosts.iter().map(|host| host.used).sum()
}

/// A fault, and the time after which it comes.
type Fault<'a> = (Duration, Box<dyn FnMut() + Send + 'a>);

/// Lets all hosts use the quota while `faults` come.
async fn use_up(hosts: &mut [Host], faults: Vec<Fault<'_>>) {
    let stop = Cell::new(false);
    let begun = Instant::now();
    let last = faults.iter().map(|(after, _)| *after).max();
    let all = async {
        join_all(hosts.iter_mut().map(|host| host.live(&stop))).await;
        begun.elapsed()
    };
    let disturb = async {
        for (after, mut fault) in faults {
            tokio::time::sleep_until((begun + after).into()).await;
            fault();
        }
    };
    let (ended, ()) = tokio::join!(all, disturb);
    assert!(Some(ended) > last, "the faults came too late: {ended:?}");
}

fn start(program: Program, lab: &Lab, options: &[&str]) -> Engine {
    let place = Place::local(lab.server(), 6379);
    Engine::start(program, place, lab.directory(), options)
}

#[test]
fn hosts_that_ask_at_once_or_one_after_the_other_use_exactly_the_quota() {
    for program in [Program::Redis6, Program::Valkey9] {
        run(async |lab| {
            let engine = start(program, lab, &[]);
            let mut hosts = hosts(&settings(Kind::Single, &[&engine])).await;
            let (one, others) = hosts.split_at_mut(1);
            // The first host uses a half. Then the others come, and it uses no more.
            let stop = Cell::new(false);
            let half = async {
                while one[0].used < QUOTA / 2 {
                    let until = Cell::new(false);
                    let some = one[0].live(&until);
                    let _elapsed = tokio::time::timeout(Duration::from_millis(100), some).await;
                }
            };
            half.await;
            let rest = join_all(others.iter_mut().map(|host| host.live(&stop)));
            let quiet = async {
                // A host without requests goes on with its daemon.
                while !stop.get() {
                    one[0].exchange().await;
                    one[0].listen().await;
                    tokio::time::sleep(INTERVAL).await;
                }
            };
            let ended = async {
                rest.await;
                stop.set(true);
            };
            tokio::join!(ended, quiet);
            assert_eq!(used(&hosts), QUOTA, "{program:?}");
        });
    }
}

#[test]
fn an_engine_that_is_killed_flushed_or_read_only_for_a_while_grants_nothing_twice() {
    run(async |lab| {
        let mut engine = start(
            Program::Redis7,
            lab,
            &["--appendonly", "yes", "--appendfsync", "always"],
        );
        let mut hosts = hosts(&settings(Kind::Single, &[&engine])).await;
        let engine = std::sync::Mutex::new(&mut engine);
        let with = |work: fn(&mut Engine)| {
            let engine = &engine;
            move || work(&mut engine.lock().expect("the engine"))
        };
        let at = Duration::from_millis;
        let faults: Vec<Fault<'_>> = vec![
            (
                at(300),
                Box::new(with(|engine| drop(engine.cli(&["SCRIPT", "FLUSH"])))) as _,
            ),
            (at(600), Box::new(with(Engine::kill)) as _),
            (at(1_200), Box::new(with(Engine::restart)) as _),
            (
                at(5_000),
                Box::new(with(|engine| {
                    engine.cli(&["CONFIG", "SET", "maxmemory", "1"]);
                })) as _,
            ),
            (
                at(5_500),
                Box::new(with(|engine| {
                    engine.cli(&["CONFIG", "SET", "maxmemory", "0"]);
                })) as _,
            ),
            (
                at(6_000),
                Box::new(with(|engine| drop(engine.cli(&["FLUSHALL"])))) as _,
            ),
        ];
        use_up(&mut hosts, faults).await;
        assert_eq!(used(&hosts), QUOTA);
    });
}

#[test]
fn a_failover_while_hosts_ask_grants_nothing_twice() {
    run(async |lab| {
        let mut engine = watched(lab);
        let mut hosts = hosts(&settings_of(&engine, Sentinels::PRIMARY)).await;
        let primary = &mut engine.servers[0];
        let faults: Vec<Fault<'_>> =
            vec![(Duration::from_millis(700), Box::new(|| primary.kill()))];
        use_up(&mut hosts, faults).await;
        assert_eq!(used(&hosts), QUOTA);
    });
}
