// SPDX-License-Identifier: MIT OR Apache-2.0

//! Random sequences of requests, commands and faults on one fleet. Each sequence has a scope of its
//! own. Several sequences run at the same time, and share the faults.

mod allowance;
mod disturbance;

use std::{
    collections::HashMap,
    fmt::Write as _,
    panic::resume_unwind,
    sync::{
        RwLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use limiter_common::day::Day;
use limiter_fleet::account_key;
use limiter_simulation::random::Random;
use limiter_tests::{
    GUARDED, Hosts, Lab,
    clock::unix_now,
    engine::Program,
    eventually, eventually_some,
    hosts::{self, Verdict},
    limiter::exit,
    long, process,
};

use self::{allowance::Allowance, disturbance::Parts};
use crate::support::{HOSTS, SCOPE, begin};

/// The number of sequences at the same time.
const AT_ONCE: u64 = 67;
/// The number of rounds of sequences on a fleet. Its tables have places for the scopes of more.
const ROUNDS: u64 = 3;
/// The number of fleets in a long run.
const LONG_FLEETS: u64 = 20;
/// The number of steps of a sequence.
const STEPS: usize = 8;
/// The number of faults in a round.
const FAULTS: usize = 5;
/// The quota at the beginning of a sequence.
const QUOTA: u64 = 100;
/// The largest quota of a sequence.
const LARGEST: u64 = 2 * QUOTA;
/// The largest number of requests to a host in a step.
const BURST: u64 = QUOTA / 4;
/// The pause of a client after a refusal. Without it, the clients of all sequences would occupy the
/// processors.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints the seed if the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- the seed of the sequence: {}", self.0);
        }
    }
}

/// Prints the account of a scope at the engine, and its usage on each host, if the test fails.
struct State<'a> {
    hosts: &'a Hosts,
    scope: String,
}

impl Drop for State<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let today = Day((unix_now() / 86_400) as u32);
        let account = account_key(&self.scope, today);
        let account = self.hosts.engine.cli(&["HGETALL", &account]);
        eprintln!("---- the account of {}: {account:?}", self.scope);
        for rig in &self.hosts.rigs {
            let usage = rig.limiter.cli(&["usage", &self.scope, "--json"]);
            let host = hosts::status(rig)["host"].clone();
            eprintln!("---- its usage on {host}: {}", usage.stdout);
        }
    }
}

/// A sequence with its scope.
struct Sequence {
    seed: u64,
    random: Random,
    scope: String,
    key: String,
    allowance: Allowance,
}

impl Sequence {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Random::new(seed),
            scope: format!("acme/sequence-{seed}"),
            key: format!("key-of-the-sequence-{seed:06}"),
            allowance: Allowance::new(QUOTA),
        }
    }

    /// Takes a random step: requests to one host or to all of them, or a command on a random host.
    fn step(&mut self, labs: &[&Lab], parts: &Parts<'_>) {
        match self.random.below(20) {
            0..11 => {
                let host = self.random.below(HOSTS as u64) as usize;
                self.burst(labs[host]);
            }
            // The hosts that ask last call on the others to give back what they have leased.
            11..14 => labs.iter().for_each(|lab| self.burst(lab)),
            14..18 => {
                let quota = 1 + self.random.below(LARGEST);
                let words = ["limits", "set", "", "--daily-quota", &quota.to_string()];
                let has_succeeded = self.command(parts, words);
                self.allowance.set_quota(quota, has_succeeded);
            }
            _ => {
                let has_succeeded = self.command(parts, ["reset", ""]);
                self.allowance.reset(has_succeeded);
            }
        }
    }

    /// Sends some requests to a host, until one is refused.
    fn burst(&mut self, lab: &Lab) {
        let mut conn = lab.connect(GUARDED);
        let count = 1 + self.random.below(BURST);
        let is_admitted = |_: &u64| hosts::ask_on(&mut conn, &self.key) == Verdict::Admitted;
        (0..count).take_while(is_admitted).for_each(drop);
    }

    /// Runs a command about the scope, whose place in `words` is empty, on a random host. Returns
    /// whether it has succeeded.
    fn command<const N: usize>(&mut self, parts: &Parts<'_>, words: [&str; N]) -> bool {
        let host = self.random.below(HOSTS as u64) as usize;
        let of_scope = words.map(|word| match word {
            "" => self.scope.as_str(),
            word => word,
        });
        let words = [&of_scope[..], &["--note", "a step of a sequence"]].concat();
        // The daemon may be killed while the command runs.
        let mut command = parts.limiters[host]
            .read()
            .expect("a daemon")
            .command(&words);
        process::output(&mut command).status.code() == Some(exit::DONE)
    }

    /// Uses up the quota, of which exactly the rest must be left. There are no more faults. Returns
    /// the number of requests that are now counted.
    fn use_up(&mut self, hosts: &Hosts) -> u64 {
        let _seed = Seed(self.seed);
        let scope = self.scope.clone();
        let _state = State { hosts, scope };
        let used = || {
            eventually_some("the host asks all hosts", || {
                let usage = hosts.rigs[0].limiter.usage(&self.scope);
                usage.host_used.map(|_| usage.used)
            })
        };
        let (before, quota) = (used(), self.allowance.quota().expect("it was set"));
        let first = self.random.below(HOSTS as u64) as usize;
        let mut admitted = 0;
        for rig in hosts.rigs.iter().cycle().skip(first).take(HOSTS) {
            eventually("the quota is used up", || {
                let mut conn = rig.lab.connect(GUARDED);
                loop {
                    match hosts::ask_on(&mut conn, &self.key) {
                        Verdict::Admitted => admitted += 1,
                        Verdict::UsedUp => return true,
                        Verdict::Later(_) => break,
                    }
                    assert!(admitted <= LARGEST, "there is no limit");
                }
                thread::sleep(PAUSE);
                false
            });
        }
        let state = (before, quota, self.allowance);
        assert_eq!(before + admitted, before.max(quota), "{state:?}");
        assert_eq!(used(), before.max(quota), "{state:?}");
        before.max(quota)
    }

    /// Checks the number of requests that the servers have received. `counted` is the number of
    /// requests that the hosts have counted since the last reset.
    fn check(&self, served: u64, counted: u64) {
        let _seed = Seed(self.seed);
        let allowance = self.allowance;
        assert!(served <= allowance.most(), "{served} of {allowance:?}");
        assert!(served >= counted, "{served} instead of {counted}");
        if !allowance.was_reset {
            assert_eq!(served, counted, "{allowance:?}");
        }
    }
}

/// Returns the number of requests with each key that have reached the servers of all hosts.
fn served(hosts: &Hosts) -> HashMap<String, u64> {
    let mut served = HashMap::new();
    for access in hosts.rigs.iter().flat_map(|rig| rig.nginx.log()) {
        *served.entry(access.api_key).or_default() += 1;
    }
    served
}

/// Creates the scopes and keys of some sequences on all hosts.
#[track_caller]
fn register(hosts: &Hosts, sequences: &[Sequence]) {
    let mut csv = "scope,key\n".to_owned();
    for Sequence { scope, key, .. } in sequences {
        writeln!(csv, "{scope},{key}").expect("a text");
    }
    let import = ["key", "import", "--csv", "-"];
    let done = hosts.rigs[0].limiter.cli_with_input(&import, &csv);
    assert_eq!(done.code, exit::DONE, "{done:?}");
    hosts.wait_for_changes();
}

/// Runs the steps of sequences, and makes faults meanwhile.
fn run(hosts: &mut Hosts, sequences: &mut [Sequence], random: &mut Random) {
    let (labs, limiters): (Vec<&Lab>, Vec<_>) = hosts
        .rigs
        .iter_mut()
        .map(|rig| (&rig.lab, RwLock::new(&mut rig.limiter)))
        .unzip();
    let network = &hosts.network;
    let parts = Parts { limiters, network };
    let steps = AtomicUsize::new(0);
    let last = sequences.len() * STEPS;
    thread::scope(|threads| {
        for sequence in sequences {
            let (labs, parts, steps) = (&labs, &parts, &steps);
            threads.spawn(move || {
                let _seed = Seed(sequence.seed);
                for _ in 0..STEPS {
                    sequence.step(labs, parts);
                    steps.fetch_add(1, SeqCst);
                }
            });
        }
        parts.disturb(&mut hosts.engine, random, FAULTS, (&steps, last));
    });
}

/// Waits until all hosts have all changes after the faults, and sets the quotas that are not known.
#[track_caller]
fn settle(hosts: &Hosts, sequences: &mut [Sequence], round: u64) {
    let limiter = &hosts.rigs[0].limiter;
    for sequence in sequences {
        if sequence.allowance.quota().is_none() {
            let quota = 1 + sequence.random.below(LARGEST);
            let daily = quota.to_string();
            let note = ["--note", "the end of a sequence"];
            let set = ["limits", "set", &sequence.scope, "--daily-quota", &daily];
            eventually("the quota is set", || {
                limiter.cli(&[&set[..], &note].concat()).code == exit::DONE
            });
            sequence.allowance.set_quota(quota, true);
        }
    }
    eventually("the last change is made", || {
        let daily = (LARGEST + round).to_string();
        let set = ["limits", "set", SCOPE, "--daily-quota", &daily];
        let last = [&set[..], &["--note", "the end of a round"]].concat();
        limiter.cli(&last).code == exit::DONE
    });
    let version = |rig| hosts::status(rig)["version"].as_u64();
    let last = version(&hosts.rigs[0]);
    for rig in &hosts.rigs {
        eventually("the host has the last change", || version(rig) >= last);
    }
}

/// Runs a round of sequences on a fleet. Its number is the seed of its faults.
#[track_caller]
fn round(hosts: &mut Hosts, number: u64) {
    let _seed = Seed(number);
    let mut random = Random::new(number);
    let seeds = (0..AT_ONCE).map(|sequence| number * 1_000 + sequence);
    let mut sequences: Vec<Sequence> = seeds.map(Sequence::new).collect();
    register(hosts, &sequences);
    run(hosts, &mut sequences, &mut random);
    settle(hosts, &mut sequences, number);
    let hosts = &*hosts;
    let counted = thread::scope(|threads| {
        let start = |sequence| threads.spawn(|| Sequence::use_up(sequence, hosts));
        let running: Vec<_> = sequences.iter_mut().map(start).collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended.collect::<Result<Vec<u64>, _>>()
    });
    let counted = counted.unwrap_or_else(|panic| resume_unwind(panic));
    let served = served(hosts);
    for (sequence, counted) in sequences.iter().zip(counted) {
        let served = served.get(&sequence.key).copied().unwrap_or(0);
        sequence.check(served, counted);
    }
}

#[test]
fn random_sequences_of_faults_and_commands_never_exceed_or_lose_a_quota() {
    for fleet in 0..if long() { LONG_FLEETS } else { 1 } {
        begin();
        let mut hosts = Hosts::in_fleet(Program::Redis7, HOSTS, |config| {
            config.tier("profile", &format!("daily_quota = {QUOTA}"))
        });
        hosts.key(SCOPE);
        for number in 1..=ROUNDS {
            begin();
            round(&mut hosts, fleet * ROUNDS + number);
        }
    }
}
