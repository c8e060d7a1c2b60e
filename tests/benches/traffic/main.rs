//! The same work done by the limiter and by what is used otherwise, under real traffic: part of
//! `cargo xtask bench`.
//!
//! All peers take turns, round after round, so that a machine that is busy for a while is so for all of
//! them. What is compared is compared within a round; the median of the rounds counts.

mod clients;
mod cpus;
mod peers;
mod report;

use std::{process::ExitCode, time::Duration};

use clients::Client;
use limiter_tests::bench::{self, Args};
use peers::{OVER, Peer, Stage, WITHIN};
use report::{Compared, Flooded, Report};

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(2);
const QUICK_ROUNDS: usize = 1;
const QUICK_TIME: Duration = Duration::from_secs(1);

/// Those who let requests by.
const ADMITTING: [Peer; 6] = [
    Peer::Bare,
    Peer::Limiter,
    Peer::Deferring,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Envoy,
];
/// Those who refuse them. The first is what the others are compared with.
const REFUSING: [Peer; 6] = [
    Peer::NginxClose,
    Peer::Limiter,
    Peer::Deferring,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Envoy,
];
/// Those before whom one customer floods.
const FLOODED: [Peer; 7] = [
    Peer::Bare,
    Peer::Limiter,
    Peer::Deferring,
    Peer::NginxClose,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Envoy,
];

const ASKING: [Client; 4] = [
    Client::Wrk { connections: 1 },
    Client::Wrk { connections: 50 },
    Client::WrkNew { connections: 1 },
    Client::WrkNew { connections: 50 },
];
const INSISTING: [Client; 4] = [
    Client::Wrk { connections: 1 },
    Client::Wrk { connections: 50 },
    Client::WrkNew { connections: 50 },
    Client::Reconnecting { threads: 8 },
];
const FLOODING: u32 = 50;

/// What must not get worse: those that the limiter is held against, and how they are asked.
const GUARDED: [(&str, &str, Peer, Client); 2] = [
    (
        "admitted",
        WITHIN,
        Peer::Bare,
        Client::Wrk { connections: 1 },
    ),
    (
        "refused",
        OVER,
        Peer::NginxClose,
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
        for (what, key, other, client) in GUARDED {
            let peers = vec![other, Peer::Limiter];
            let name = format!("{what}: {}", client.name());
            report.compared.push(compare(
                &stage, name, key, peers, client, ROUNDS, QUICK_TIME,
            ));
        }
        report.guard = true;
        return report;
    }
    for (what, key, peers, clients) in [
        ("admitted", WITHIN, &ADMITTING[..], &ASKING[..]),
        ("refused", OVER, &REFUSING[..], &INSISTING[..]),
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
    if args.wants("mixed") {
        report.mixed = mixed(&stage, rounds, time);
    }
    report
}

/// The same requests before each of the peers, round after round.
fn compare(
    stage: &Stage,
    name: String,
    key: &str,
    peers: Vec<Peer>,
    client: Client,
    rounds: usize,
    time: Duration,
) -> Compared {
    let sample = |peer: &Peer| {
        let seen = clients::run(stage, *peer, key, client, time);
        report::assert_fate(*peer, &name, &seen, key == OVER);
        seen
    };
    let rounds = (0..rounds).map(|_| peers.iter().map(sample).collect());
    let rounds = rounds.collect();
    Compared {
        name,
        peers,
        rounds,
    }
}

/// One customer floods, another is within its limits.
fn mixed(stage: &Stage, rounds: usize, time: Duration) -> Vec<Flooded> {
    let peers = stage.present(&FLOODED);
    let mut all: Vec<Flooded> = peers.iter().map(|peer| Flooded::new(*peer)).collect();
    for round in 0..rounds {
        for of in &mut all {
            of.quiet.push(clients::good(stage, of.peer, WITHIN, time));
            let name = format!("{:?}-{round}", of.peer);
            let good = || clients::good(stage, of.peer, WITHIN, time);
            let (good, flood) = clients::flood(stage, of.peer, OVER, FLOODING, &name, good);
            of.during.push(good);
            of.flood.push(flood);
        }
    }
    all
}
