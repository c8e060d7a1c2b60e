// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compares the limiter with common alternatives under real traffic, as a part of `cargo xtask
//! bench`.
//!
//! The servers and proxies that are compared are called peers (see `peers.rs`). In each round, the
//! peers get the same requests, one peer after the other, so that a period in which the machine is
//! busy affects all peers. Figures are compared within a round, and the median over the rounds is
//! the result.

mod clients;
mod cpus;
mod peers;
mod report;

use std::{process::ExitCode, time::Duration};

use clients::{Client, Flood};
use limiter_tests::bench::{self, Args};
use peers::{OVER, Peer, Stage, WITHIN};
use report::{Comparison, FloodResult, Mixed, Report};

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(2);
const QUICK_ROUNDS: usize = 1;
const QUICK_TIME: Duration = Duration::from_secs(1);
/// The number of times that a comparison which guards against a regression is measured at most.
const GUARD_ATTEMPTS: u32 = 4;

/// The peers that are compared while they admit all requests.
const ADMITTING: [Peer; 5] = [
    Peer::Bare,
    Peer::Limiter,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Envoy,
];
/// The peers that are compared while they refuse requests. The first peer is the reference.
const REFUSING: [Peer; 7] = [
    Peer::NginxClose,
    Peer::Limiter,
    Peer::Closing,
    Peer::Deferring,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Envoy,
];
/// The peers that are compared while one customer floods them.
const FLOODED: [Peer; 8] = [
    Peer::Bare,
    Peer::Limiter,
    Peer::Closing,
    Peer::Deferring,
    Peer::NginxClose,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Envoy,
];

const ADMITTED_CLIENTS: [Client; 4] = [
    Client::Wrk { connections: 1 },
    Client::Wrk { connections: 50 },
    Client::WrkNew { connections: 1 },
    Client::WrkNew { connections: 50 },
];
const REFUSED_CLIENTS: [Client; 4] = [
    Client::Wrk { connections: 1 },
    Client::Wrk { connections: 50 },
    Client::WrkNew { connections: 50 },
    Client::Reconnecting { threads: 8 },
];
const FLOODING: u32 = 50;
const FLOODS: [Flood; 3] = [
    Flood::Keeping {
        connections: FLOODING,
    },
    Flood::Reconnecting {
        connections: FLOODING,
    },
    Flood::ManyAddresses { threads: 8 },
];

/// A comparison of the limiter: a name, the key of the requests, the other peer, and the client.
type Regression = (&'static str, &'static str, Peer, Client);

/// The comparisons that `--guard` checks for regressions.
const REGRESSIONS: [Regression; 2] = [
    (
        "admitted",
        WITHIN,
        Peer::Bare,
        Client::Wrk { connections: 1 },
    ),
    (
        "refused",
        OVER,
        Peer::Nginx,
        Client::Wrk { connections: 50 },
    ),
];

fn main() -> ExitCode {
    bench::main("traffic", run)
}

fn run(args: &Args) -> Report {
    cpus::require_two();
    let (rounds, time) = if args.quick {
        (QUICK_ROUNDS, QUICK_TIME)
    } else {
        (ROUNDS, TIME)
    };
    let stage = Stage::set();
    let mut report = Report::default();
    if args.guard {
        report.compared = REGRESSIONS
            .map(|regression| guard(&stage, regression))
            .into();
        report.guard = true;
        return report;
    }
    for (what, key, peers, clients) in [
        ("admitted", WITHIN, &ADMITTING[..], &ADMITTED_CLIENTS[..]),
        ("refused", OVER, &REFUSING[..], &REFUSED_CLIENTS[..]),
    ] {
        let peers = stage.present(peers);
        for client in clients {
            let name = format!("{what}: {}", client.name());
            if !args.wants(&name) {
                continue;
            }
            let peers = peers.clone();
            report
                .compared
                .push(compare(&stage, name, key, peers, *client, rounds, time));
        }
    }
    for flood in FLOODS {
        if args.wants(&flood.name()) {
            report.mixed.push(mixed(&stage, flood, rounds, time));
        }
    }
    report
}

/// Measures a comparison that guards against a regression. Other work on the machine may make it
/// miss its bound, so it is measured again then. A regression misses the bound every time.
fn guard(stage: &Stage, (what, key, other, client): Regression) -> Comparison {
    let measure = || {
        let peers = vec![other, Peer::Limiter];
        let name = format!("{what}: {}", client.name());
        compare(stage, name, key, peers, client, ROUNDS, QUICK_TIME)
    };
    let mut compared = measure();
    for _ in 1..GUARD_ATTEMPTS {
        let bound = report::bound(&compared);
        if bound.reached() {
            break;
        }
        println!("{}: {:.2}, measured again", bound.what, bound.seen);
        compared = measure();
    }
    compared
}

/// Sends the same requests to each peer in each round.
fn compare(
    stage: &Stage,
    name: String,
    key: &str,
    peers: Vec<Peer>,
    client: Client,
    rounds: usize,
    time: Duration,
) -> Comparison {
    let sample = |peer: &Peer| {
        let seen = clients::run(stage, *peer, key, client, time);
        report::assert_fate(*peer, &name, &seen, key == OVER);
        seen
    };
    let rounds = (0..rounds).map(|_| peers.iter().map(sample).collect());
    let rounds = rounds.collect();
    Comparison {
        name,
        peers,
        rounds,
    }
}

/// Measures a customer that stays within its limits, with and without a flood from another
/// customer.
fn mixed(stage: &Stage, flood: Flood, rounds: usize, time: Duration) -> Mixed {
    let peers = stage.present(&FLOODED);
    let mut all: Vec<FloodResult> = peers.iter().map(|peer| FloodResult::new(*peer)).collect();
    for round in 0..rounds {
        for of in &mut all {
            of.quiet.push(clients::good(stage, of.peer, WITHIN, time));
            let name = format!("{:?}-{flood:?}-{round}", of.peer);
            let good = || clients::good(stage, of.peer, WITHIN, time);
            let (good, rate) = clients::flood(stage, of.peer, OVER, flood, &name, good);
            of.during.push(good);
            of.flood.push(rate);
        }
    }
    Mixed {
        flood,
        results: all,
    }
}
