// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reports the results in tables and compares them with the targets, as text and as JSON.

use std::fmt;

use limiter_tests::bench::{self, Target, Targets, median};
use serde_json::{Value, json};

use crate::{
    clients::{Client, Flood, GoodCustomer, Sample},
    peers::Peer,
};

/// The maximum share of requests that may have an unexpected result. The limit of `OVER` admits the
/// first request in a minute, so not quite all of its requests are refused.
const EXCEPTIONS: f64 = 0.01;

/// The configurations of the limiter. The targets apply to the first one, which is the default.
const OURS: [Peer; 3] = [Peer::Limiter, Peer::Closing, Peer::Deferring];

/// The minimum rate of admitted requests, as a share of the rate of nginx alone. It is checked with
/// requests that are sent one after the other, because the rate then depends most on the cost of
/// each request.
const LEAST_ADMITTED: f64 = 0.8;
/// The maximum CPU time of a refusal, as a share of the CPU time of a refusal by nginx, which also
/// keeps the connection.
const MOST_REFUSED: f64 = 0.8;

/// Checks that the requests were all refused (`over`) or all admitted, apart from a few exceptions.
///
/// # Panics
/// Panics if the requests had another result.
#[track_caller]
pub fn assert_fate(peer: Peer, name: &str, sample: &Sample, over: bool) {
    let wanted = if over { 1.0 } else { 0.0 };
    assert!(
        (sample.refused - wanted).abs() < EXCEPTIONS && sample.failed < EXCEPTIONS,
        "{name}, {}: {sample:?}",
        peer.name()
    );
}

/// The results of several peers that got the same requests in each round. The first peer is the
/// reference.
pub struct Comparison {
    pub name: String,
    pub peers: Vec<Peer>,
    /// The samples of each round, in the order of `peers`.
    pub rounds: Vec<Vec<Sample>>,
}

impl Comparison {
    /// Returns one figure of a peer, as the median over all rounds.
    fn median(&self, peer: Peer, figure: impl Fn(&Sample) -> f64) -> f64 {
        let Some(at) = self.at(peer) else {
            return f64::NAN;
        };
        median(self.rounds.iter().map(|round| figure(&round[at])))
    }

    /// Returns the ratio of one figure between two peers, as the median over all rounds.
    fn ratio(&self, peer: Peer, to: Peer, figure: impl Fn(&Sample) -> f64) -> f64 {
        let (Some(at), Some(to)) = (self.at(peer), self.at(to)) else {
            return f64::NAN;
        };
        let ratios = self.rounds.iter();
        median(ratios.map(|round| figure(&round[at]) / figure(&round[to])))
    }

    fn at(&self, peer: Peer) -> Option<usize> {
        self.peers.iter().position(|other| *other == peer)
    }

    fn json(&self) -> Value {
        let measure = self.peers[0];
        let rows = self.peers.iter().map(|&peer| {
            json!({
                "peer": peer.name(),
                "requests_ratio": self.ratio(peer, measure, |sample| sample.rate),
                "server_cpu_ratio": self.ratio(peer, measure, |sample| sample.servers),
                "requests_per_second": self.median(peer, |sample| sample.rate),
                "p50_us": self.median(peer, |sample| sample.p50),
                "p99_us": self.median(peer, |sample| sample.p99),
                "server_cpu_us": self.median(peer, |sample| sample.servers),
                "client_cpu_us": self.median(peer, |sample| sample.clients),
                "client_cpu_packets_us": self.median(peer, |sample| sample.clients_packets),
                "refused": self.median(peer, |sample| sample.refused),
                "failed": self.median(peer, |sample| sample.failed),
            })
        });
        json!({"name": self.name, "peers": rows.collect::<Value>(), "rounds": self.rounds.len()})
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measure = self.peers[0];
        writeln!(
            f,
            "\n{:32} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
            self.name,
            "requests",
            "CPU",
            "a second",
            "p50 µs",
            "p99 µs",
            "CPU µs",
            "clients",
            "packets",
        )?;
        for &peer in &self.peers {
            writeln!(
                f,
                "{:32} {:>8.3} {:>8.3} {:>9.0} {:>8.0} {:>8.0} {:>8.2} {:>8.2} {:>8.2}",
                peer.name(),
                self.ratio(peer, measure, |sample| sample.rate),
                self.ratio(peer, measure, |sample| sample.servers),
                self.median(peer, |sample| sample.rate),
                self.median(peer, |sample| sample.p50),
                self.median(peer, |sample| sample.p99),
                self.median(peer, |sample| sample.servers),
                self.median(peer, |sample| sample.clients),
                self.median(peer, |sample| sample.clients_packets),
            )?;
        }
        Ok(())
    }
}

/// The results of the good customer with one peer, without a flood and during a flood, by round.
pub struct FloodResult {
    pub peer: Peer,
    pub quiet: Vec<GoodCustomer>,
    pub during: Vec<GoodCustomer>,
    /// The rate of the flood in requests per second.
    pub flood: Vec<f64>,
}

impl FloodResult {
    pub fn new(peer: Peer) -> Self {
        Self {
            peer,
            quiet: Vec::new(),
            during: Vec::new(),
            flood: Vec::new(),
        }
    }

    /// Returns the factor by which a flood increases the 99th percentile of the good customer's
    /// latency.
    fn slower(&self) -> f64 {
        let rounds = self.during.iter().zip(&self.quiet);
        median(rounds.map(|(during, quiet)| during.p99 / quiet.p99))
    }

    fn quiet(&self, figure: impl Fn(&GoodCustomer) -> f64) -> f64 {
        median(self.quiet.iter().map(figure))
    }

    fn during(&self, figure: impl Fn(&GoodCustomer) -> f64) -> f64 {
        median(self.during.iter().map(figure))
    }

    fn json(&self) -> Value {
        let good = |of: &dyn Fn(fn(&GoodCustomer) -> f64) -> f64| {
            json!({
                "p50_us": of(|good| good.p50), "p99_us": of(|good| good.p99),
                "served": of(|good| good.served),
            })
        };
        json!({
            "peer": self.peer.name(), "p99_ratio": self.slower(),
            "quiet": good(&|figure| self.quiet(figure)),
            "flooded": good(&|figure| self.during(figure)),
            "flood_per_second": median(self.flood.iter().copied()),
        })
    }
}

/// The results of the good customer during one kind of flood.
pub struct Mixed {
    pub flood: Flood,
    pub results: Vec<FloodResult>,
}

impl Mixed {
    fn json(&self) -> Value {
        json!({
            "name": self.flood.name(),
            "peers": self.results.iter().map(FloodResult::json).collect::<Value>(),
        })
    }

    /// Returns the targets for the limiter in its default configuration.
    fn targets(&self) -> Vec<Target> {
        let Some(ours) = self.results.iter().find(|of| of.peer == Peer::Limiter) else {
            return Vec::new();
        };
        let slower = match self.flood {
            Flood::Keeping { .. } => 1.5,
            Flood::Reconnecting { .. } | Flood::ManyAddresses { .. } => 2.0,
        };
        let others = self.results.iter();
        let others = others.filter(|of| of.peer != Peer::Bare && !OURS.contains(&of.peer));
        let best = others
            .map(|of| of.during(|good| good.p99))
            .fold(f64::INFINITY, f64::min);
        let name = self.flood.name();
        let ratio = ours.during(|good| good.p99) / best;
        vec![
            Target::at_most(
                format!("{name}: good customer's p99, of the quiet one's"),
                slower,
                ours.slower(),
            ),
            Target::at_most(
                format!("{name}: good customer's p99, of the best peer's"),
                1.0,
                ratio,
            ),
        ]
    }
}

impl fmt::Display for Mixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:32} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
            self.flood.name(),
            "p99",
            "quiet µs",
            "flood µs",
            "p50 µs",
            "served %",
            "flood /s"
        )?;
        for of in &self.results {
            writeln!(
                f,
                "{:32} {:>8.2} {:>9.0} {:>9.0} {:>9.0} {:>9.2} {:>9.0}",
                of.peer.name(),
                of.slower(),
                of.quiet(|good| good.p99),
                of.during(|good| good.p99),
                of.during(|good| good.p50),
                of.during(|good| good.served) * 100.0,
                median(of.flood.iter().copied()),
            )?;
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Report {
    /// Whether the results are checked against the bounds that detect regressions, instead of the
    /// targets.
    pub guard: bool,
    pub compared: Vec<Comparison>,
    pub mixed: Vec<Mixed>,
}

/// Returns the bound that detects a regression. It is loose enough for a machine that does other
/// work at the same time. docs/BENCHMARKS.md has the figures of a machine without other work.
pub fn bound(compared: &Comparison) -> Target {
    let [other, ours] = [compared.peers[0], Peer::Limiter];
    if compared.name.starts_with("admitted") {
        let what = format!("{}: requests, of {}", compared.name, other.name());
        let rate = compared.ratio(ours, other, |sample| sample.rate);
        Target::at_least(what, LEAST_ADMITTED, rate)
    } else {
        let what = format!("{}: CPU, of {}", compared.name, other.name());
        let cpu = compared.ratio(ours, other, |sample| sample.servers);
        Target::at_most(what, MOST_REFUSED, cpu)
    }
}

impl Report {
    fn compared(&self, name: &str) -> Option<&Comparison> {
        self.compared.iter().find(|compared| compared.name == name)
    }

    fn bounds(&self) -> Targets {
        Targets(self.compared.iter().map(bound).collect())
    }

    fn targets(&self) -> Targets {
        if self.guard {
            return self.bounds();
        }
        let mut targets = Vec::new();
        for connections in [1, 50] {
            let client = Client::Wrk { connections }.name();
            if let Some(admitted) = self.compared(&format!("admitted: {client}")) {
                let ratio = |to| admitted.ratio(Peer::Limiter, to, |sample| sample.rate);
                let what = |than: &str| format!("admitted, {client}: requests, of {than}");
                let (bare, haproxy) = (ratio(Peer::Bare), ratio(Peer::Haproxy));
                targets.push(Target::at_least(what("nginx alone"), 0.97, bare));
                targets.push(Target::at_least(what("HAProxy"), 2.0, haproxy));
            }
        }
        for connections in [1, 50] {
            let client = Client::Wrk { connections }.name();
            if let Some(refused) = self.compared(&format!("refused: {client}")) {
                let (ours, other) = (Peer::Limiter, Peer::Nginx);
                let cpu = refused.ratio(ours, other, |sample| sample.servers);
                let rate = refused.ratio(ours, other, |sample| sample.rate);
                let what = |figure| format!("refused, {client}: {figure}, of {}", other.name());
                targets.push(Target::at_most(what("CPU"), 0.33, cpu));
                targets.push(Target::at_least(what("requests"), 1.2, rate));
            }
        }
        let closing = self.compared.iter().filter(|one| {
            one.name.starts_with("refused: a connection each")
                || one.name.starts_with("refused: reconnecting")
        });
        targets.extend(closing.map(|refused| {
            let ratio = refused.ratio(Peer::Limiter, Peer::NginxClose, |sample| sample.servers);
            let what = format!("{}: CPU, of {}", refused.name, Peer::NginxClose.name());
            Target::at_most(what, 0.4, ratio)
        }));
        targets.extend(self.mixed.iter().flat_map(Mixed::targets));
        Targets(targets)
    }
}

impl bench::Report for Report {
    fn failed(&self) -> bool {
        self.guard && !self.bounds().0.iter().all(Target::reached)
    }

    fn json(&self) -> Value {
        json!({
            "compared": self.compared.iter().map(Comparison::json).collect::<Value>(),
            "mixed": self.mixed.iter().map(Mixed::json).collect::<Value>(),
            "targets": self.targets().json(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for compared in &self.compared {
            write!(f, "{compared}")?;
        }
        for mixed in &self.mixed {
            write!(f, "{mixed}")?;
        }
        write!(f, "{}", self.targets())
    }
}
