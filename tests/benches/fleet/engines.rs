// SPDX-License-Identifier: MIT OR Apache-2.0

//! The leases that the engine of a fleet bears.
//!
//! A client asks for leases of many scopes in turn, as fast as the engine answers, and the CPU time
//! of the engine gives the leases that one core bears. In a second run, the client asks at a fixed
//! rate, and another client measures the time of single calls.

use std::{
    fmt, fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use limiter_common::day::Day;
use limiter_fleet::{
    Call, Failure, Purpose,
    client::{Access, Client, Kind, Settings},
};
use limiter_tests::{
    Lab, avoid_midnight,
    bench::{Args, Target, quantile},
    clock::unix_now,
    engine::{Engine, Place, Program},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const TIME: Duration = Duration::from_secs(5);
const QUICK_TIME: Duration = Duration::from_secs(1);
/// The maximum duration of this part, which must not run past midnight UTC.
const LONGEST: Duration = Duration::from_secs(300);

/// The number of buckets over which scopes are spread, which is the number of calls for all scopes.
const BUCKETS: usize = 256;
/// The average numbers of leases in a call.
const LEASES: [usize; 2] = [16, 100];
/// The rate at which single calls are measured, in leases a second, and the number of leases that
/// are asked for at a time.
const RATE: f64 = 50_000.0;
const STEP: usize = 1_600;
/// The interval between two measured calls.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);
/// A quota that is never used up.
const QUOTA: u64 = 1 << 39;

/// An engine: a primary with some replicas.
struct Engines {
    lab: Lab,
    servers: Vec<Engine>,
}

impl Engines {
    fn start(program: Program, replicas: usize) -> Self {
        let lab = Lab::loopback();
        let start = |port: u16, options: &[&str]| {
            let place = Place::local(lab.server(), port);
            Engine::start(program, place, lab.directory(), options)
        };
        let mut servers = vec![start(6379, &[])];
        for number in 0..replicas {
            let options = ["--replicaof", "127.0.0.1 6379"];
            servers.push(start(6380 + number as u16, &options));
        }
        let engines = Self { lab, servers };
        engines.servers[0].wait_for_replicas(replicas);
        engines
    }

    fn client(&self, host: &str) -> Client {
        let settings = Settings {
            kind: Kind::Single,
            addresses: vec![self.servers[0].url().parse().expect("an address")],
            access: Access::default(),
            confirmations: None,
        };
        Client::new(settings, host)
    }

    /// Returns the CPU time of the primary's main thread, which executes all commands, in seconds.
    /// The scheduler measures it exactly (Documentation/scheduler/sched-stats.rst of the kernel),
    /// while the times in `/proc/PID/stat` may be samples.
    fn cpu(&self) -> f64 {
        let path = format!("/proc/{}/schedstat", self.servers[0].pid());
        let text = fs::read_to_string(path).expect("the engine runs");
        let ns: Option<u64> = text.split(' ').next().and_then(|ns| ns.parse().ok());
        ns.expect("a number of nanoseconds") as f64 / 1e9
    }
}

/// A client that asks for more leases of its scopes at each call.
struct Asker {
    client: Client,
    calls: Vec<(String, Call)>,
}

impl Asker {
    fn new(client: Client, scopes: usize) -> Self {
        let call = Call {
            scope: 0,
            day: Day((unix_now() / 86_400) as u32),
            generation: 0,
            quota: QUOTA,
            lease: 0,
            used: 0,
            purpose: Purpose::Extend(0),
            number: 0,
        };
        let calls = (0..scopes).map(|scope| (format!("account-{scope}/profile"), call));
        Self {
            client,
            calls: calls.collect(),
        }
    }

    /// Asks for one more request of each of the scopes in `range`.
    async fn ask(&mut self, range: std::ops::Range<usize>) -> usize {
        let calls = &mut self.calls[range];
        for (_, call) in calls.iter_mut() {
            call.number += 1;
            call.used = call.lease;
            call.purpose = Purpose::Extend(call.lease + 1);
        }
        let (results, error) = self.client.lease(calls).await;
        let mut granted = 0;
        for ((_, call), result) in calls.iter_mut().zip(results) {
            match result {
                Ok(answer) => {
                    call.lease = answer.lease;
                    granted += 1;
                }
                // The replicas were too slow. The next call asks for the same again.
                Err(Failure::Unanswered) if error.is_none() => {}
                Err(failure) => panic!("{failure:?}: {error:?}"),
            }
        }
        granted
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// The figures of an engine.
struct Row {
    program: Program,
    replicas: usize,
    leases: usize,
    /// The leases a second, as fast as the engine answers.
    rate: f64,
    /// The leases a second of the engine's CPU time.
    per_core: f64,
    /// The median and the 99th percentile of the time of a single call at [`RATE`], in ms.
    p50: f64,
    p99: f64,
}

/// Measures the engines that `args` selects.
pub fn measure_all(args: &Args) -> Rows {
    avoid_midnight(LONGEST);
    let time = if args.quick { QUICK_TIME } else { TIME };
    let mut rows = Vec::new();
    for program in [Program::Redis7, Program::Valkey9] {
        for replicas in [0, 2] {
            for leases in LEASES {
                let name = format!("{program:?}, {replicas} replicas, {leases} a call");
                if args.wants(&name) {
                    rows.push(measure(program, replicas, leases, time));
                }
            }
        }
    }
    Rows(rows)
}

fn measure(program: Program, replicas: usize, leases: usize, time: Duration) -> Row {
    let engines = Engines::start(program, replicas);
    let mut asker = Asker::new(engines.client("asker"), BUCKETS * leases);
    let (rate, per_core) = engines.lab.server().enter(|| {
        runtime().block_on(async {
            asker.client.claim_buckets().await.expect("a server");
            let all = 0..asker.calls.len();
            asker.ask(all.clone()).await;
            let (cpu, begun, mut granted) = (engines.cpu(), Instant::now(), 0);
            while begun.elapsed() < time {
                granted += asker.ask(all.clone()).await;
            }
            let (cpu, took) = (engines.cpu() - cpu, begun.elapsed().as_secs_f64());
            (granted as f64 / took, granted as f64 / cpu)
        })
    });
    let (p50, p99) = probe(&engines, asker, time);
    Row {
        program,
        replicas,
        leases,
        rate,
        per_core,
        p50,
        p99,
    }
}

/// Measures single calls while `asker` asks at a fixed rate. Returns the median and the 99th
/// percentile, in ms.
fn probe(engines: &Engines, mut asker: Asker, time: Duration) -> (f64, f64) {
    let ended = AtomicBool::new(false);
    // The connection of the other run ended with it.
    asker.client = engines.client("asker");
    let server = engines.lab.server();
    let mut times: Vec<f64> = thread::scope(|scope| {
        scope.spawn(|| {
            server.enter(|| {
                runtime().block_on(async {
                    let (begun, mut asked) = (Instant::now(), 0usize);
                    while !ended.load(Relaxed) {
                        let from = asked % (asker.calls.len() - STEP + 1);
                        asker.ask(from..from + STEP).await;
                        asked += STEP;
                        let due = begun + Duration::from_secs_f64(asked as f64 / RATE);
                        tokio::time::sleep_until(due.into()).await;
                    }
                });
            });
        });
        let times = server.enter(|| {
            runtime().block_on(async {
                let mut probe = Asker::new(engines.client("probe"), 1);
                probe.client.describe().await.expect("a server");
                probe.ask(0..1).await;
                let begun = Instant::now();
                let mut times = Vec::new();
                while begun.elapsed() < time {
                    let asked = Instant::now();
                    probe.ask(0..1).await;
                    times.push(asked.elapsed().as_secs_f64() * 1_000.0);
                    tokio::time::sleep(PROBE_INTERVAL).await;
                }
                times
            })
        });
        ended.store(true, Relaxed);
        times
    });
    times.sort_unstable_by(f64::total_cmp);
    (quantile(&times, 0.5), quantile(&times, 0.99))
}

/// The figures of all engines.
pub struct Rows(Vec<Row>);

impl Rows {
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let confirmed = self.0.iter().filter(|row| row.replicas > 0);
        confirmed.flat_map(|row| {
            let name = format!("{:?}, {} a call, confirmed: ", row.program, row.leases);
            let rate = format!("{name}leases a second and core");
            [
                Target::at_least(rate, RATE, row.per_core),
                Target::at_most(format!("{name}p99, ms"), 5.0, row.p99),
            ]
        })
    }

    pub fn json(&self) -> Value {
        let rows = self.0.iter().map(|row| {
            json!({
                "program": format!("{:?}", row.program), "replicas": row.replicas,
                "leases_per_call": row.leases, "leases_per_second": row.rate,
                "leases_per_core_second": row.per_core, "p50_ms": row.p50, "p99_ms": row.p99,
            })
        });
        rows.collect()
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "{:10} {:>8} {:>7} {:>11} {:>12} {:>9} {:>8} {:>8}",
            "engine",
            "replicas",
            "a call",
            "leases/s",
            "leases/core",
            "µs/lease",
            "p50 ms",
            "p99 ms"
        )?;
        for row in &self.0 {
            writeln!(
                f,
                "{:10} {:>8} {:>7} {:>11.0} {:>12.0} {:>9.1} {:>8.2} {:>8.2}",
                format!("{:?}", row.program),
                row.replicas,
                row.leases,
                row.rate,
                row.per_core,
                1e6 / row.per_core,
                row.p50,
                row.p99
            )?;
        }
        Ok(())
    }
}
