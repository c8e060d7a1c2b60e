// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests per second that three hosts admit which share a rate.
//!
//! The clients of each host send requests at random times (a Poisson process), whether or not
//! earlier ones were refused. The first two seconds of each case are not counted, because in the
//! first one the hosts do not know of each other's demand.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use limiter_simulation::random::Random;
use limiter_tests::{Config, GUARDED, Hosts, Lab, avoid_midnight, bench::Target, engine::Program};
use serde_json::{Value, json};

pub const NAME: &str = "rate";

const HOSTS: usize = 3;
/// The rate of the scope, in requests per second.
const RATE: f64 = 200.0;
/// The burst, which is a tenth of a second of the rate.
const BURST: u32 = 20;
/// The demands as multiples of the rate.
const DEMANDS: [f64; 5] = [0.5, 1.1, 2.0, 5.0, 50.0];
/// The parts of the demand that the hosts have.
const PARTS: [(&str, [f64; HOSTS]); 2] = [
    ("even", [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]),
    ("skewed", [0.8, 0.15, 0.05]),
];
/// The largest number of requests per second that one connection sends.
const PER_CONNECTION: f64 = 400.0;

/// The time that is not counted at the beginning of a case, and the time that is counted.
const BEFORE: Duration = Duration::from_secs(2);
const COUNTED: Duration = Duration::from_secs(20);
const QUICK_COUNTED: Duration = Duration::from_secs(11);
/// The lengths of the windows in which admitted requests are counted, in seconds.
const WINDOWS: [f64; 3] = [1.0, 2.0, 10.0];
/// The maximum duration of this part, which must not run past midnight UTC.
const LONGEST: Duration = Duration::from_secs(600);
/// The wanted difference of the admitted requests from the rate, as a part of the rate.
const WANTED: f64 = 0.01;

/// The admitted requests per second for all demands.
pub struct Rates(Vec<Case>);

struct Case {
    /// The demand as a multiple of the rate, and the name of its distribution over the hosts.
    demand: f64,
    parts: &'static str,
    /// The number of requests that the clients have sent per second.
    asked: f64,
    /// The lowest and the highest number of requests per second in a window of each length.
    admitted: [(f64, f64); WINDOWS.len()],
    /// The same over the whole time.
    mean: f64,
}

fn configure(config: Config) -> Config {
    let rate = format!("rate = \"{RATE}/s\"\nburst = {BURST}");
    config.tier("profile", &rate).fleet("rate = \"shared\"")
}

pub fn measure(quick: bool) -> Rates {
    avoid_midnight(LONGEST);
    let hosts = Hosts::in_fleet(Program::Redis7, HOSTS, configure);
    let counted = if quick { QUICK_COUNTED } else { COUNTED };
    let mut cases = Vec::new();
    for (name, parts) in PARTS {
        for demand in DEMANDS {
            // A rate stays divided for a while, so each case has a scope of its own.
            let key = hosts.key(&format!("acme/{name}-{}", cases.len()));
            let rates = parts.map(|part| part * demand * RATE);
            let labs = hosts.rigs.iter().map(|rig| &rig.lab).zip(rates);
            let answers = ask_all(labs, &key, counted);
            cases.push(Case::of((demand, name), &answers, counted));
        }
    }
    Rates(cases)
}

/// An answer to a request.
struct Reply {
    /// The time since the beginning of the case, in seconds.
    at: f64,
    admitted: bool,
}

/// Sends requests to each lab at its rate, and returns the answers in the order of their times.
fn ask_all<'a>(
    labs: impl Iterator<Item = (&'a Lab, f64)>,
    key: &str,
    counted: Duration,
) -> Vec<Reply> {
    let start = Instant::now();
    let mut replies: Vec<Reply> = thread::scope(|threads| {
        let mut clients = Vec::new();
        for (lab, rate) in labs {
            let connections = (rate / PER_CONNECTION).ceil().max(1.0);
            for _ in 0..connections as usize {
                let random = Random::new(clients.len() as u64 + 1);
                let every = connections / rate;
                clients.push(threads.spawn(move || {
                    let end = BEFORE + counted;
                    ask(lab, key, (random, every), (start, end.as_secs_f64()))
                }));
            }
        }
        let replies = clients.into_iter();
        replies
            .flat_map(|client| client.join().expect("a client"))
            .collect()
    });
    replies.sort_unstable_by(|one, other| one.at.total_cmp(&other.at));
    replies
}

/// Sends requests on one connection, on average one in `every` seconds, until `end` seconds after
/// `start`.
fn ask(
    lab: &Lab,
    key: &str,
    (mut random, every): (Random, f64),
    (start, end): (Instant, f64),
) -> Vec<Reply> {
    let mut conn = lab.connect(GUARDED);
    let mut replies = Vec::new();
    let mut next = random.exponential(every);
    while next < end {
        let due = start + Duration::from_secs_f64(next);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let status = conn.get("/", key).status;
        replies.push(Reply {
            at: start.elapsed().as_secs_f64(),
            admitted: status == 200,
        });
        next += random.exponential(every);
    }
    replies
}

impl Case {
    fn of((demand, parts): (f64, &'static str), replies: &[Reply], counted: Duration) -> Self {
        let (from, seconds) = (BEFORE.as_secs_f64(), counted.as_secs_f64());
        let is_counted = |reply: &&Reply| (from..from + seconds).contains(&reply.at);
        let counted: Vec<&Reply> = replies.iter().filter(is_counted).collect();
        let admitted: Vec<f64> = counted
            .iter()
            .filter(|reply| reply.admitted)
            .map(|reply| reply.at - from)
            .collect();
        Self {
            demand,
            parts,
            asked: counted.len() as f64 / seconds,
            admitted: WINDOWS.map(|window| extremes(&admitted, window, seconds)),
            mean: admitted.len() as f64 / seconds,
        }
    }

    /// Returns whether the demand exceeds the rate.
    fn is_over(&self) -> bool {
        self.demand > 1.0
    }
}

/// Returns the lowest and the highest number of events per second in windows of `window` seconds,
/// which begin each tenth of a second. `times` are sorted, and within `end` seconds.
fn extremes(times: &[f64], window: f64, end: f64) -> (f64, f64) {
    let before = |time: f64| times.partition_point(|at| *at < time);
    let windows = ((end - window) * 10.0).floor().max(0.0) as u32;
    let counts = (0..=windows).map(|tenth| {
        let from = f64::from(tenth) / 10.0;
        (before(from + window) - before(from)) as f64 / window
    });
    counts.fold((f64::INFINITY, 0.0), |(low, high), count| {
        (low.min(count), high.max(count))
    })
}

impl Rates {
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        let over = || self.0.iter().filter(|case| case.is_over());
        let second = over().map(|case| case.admitted[0].1 / RATE);
        let ten_low = over().map(|case| case.admitted[2].0 / RATE);
        [
            Target::at_most(
                "a shared rate, admitted in a second, of the rate: max",
                1.0 + WANTED,
                second.fold(0.0, f64::max),
            ),
            Target::at_least(
                "a shared rate, admitted in ten seconds, of the rate: min",
                1.0 - WANTED,
                ten_low.fold(f64::INFINITY, f64::min),
            ),
        ]
        .into_iter()
    }

    pub fn json(&self) -> Value {
        let cases = self.0.iter().map(|case| {
            let windows = WINDOWS.iter().zip(case.admitted);
            let windows = windows.map(
                |(window, (low, high))| json!({"seconds": window, "lowest": low, "highest": high}),
            );
            json!({
                "demand": case.demand, "parts": case.parts, "asked_per_second": case.asked,
                "admitted_per_second": case.mean, "windows": windows.collect::<Vec<_>>(),
            })
        });
        cases.collect()
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("a rate of {RATE} a second on {HOSTS} hosts");
        write!(f, "\n{title:36} {:>8} {:>8}", "asked", "admitted")?;
        for window in WINDOWS {
            write!(f, " {:>13}", format!("in {window} s"))?;
        }
        writeln!(f)?;
        for case in &self.0 {
            let name = format!("demand {} times the rate, {}", case.demand, case.parts);
            write!(f, "{name:36} {:>8.0} {:>8.1}", case.asked, case.mean)?;
            for (low, high) in case.admitted {
                write!(f, " {:>13}", format!("{low:.1}-{high:.1}"))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
