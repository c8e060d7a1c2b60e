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
const ADMITTING: [Peer; 5] = [
    Peer::Bare,
    Peer::Limiter,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Envoy,
];
/// Those who refuse them. The first is what the others are compared with.
const REFUSING: [Peer; 5] = [
    Peer::NginxClose,
    Peer::Limiter,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Envoy,
];
/// Those before whom one customer floods.
const FLOODED: [Peer; 6] = [
    Peer::Bare,
    Peer::Limiter,
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
    for (what, key, peers, clients) in [
        ("admitted", WITHIN, &ADMITTING[..], &ASKING),
        ("refused", OVER, &REFUSING[..], &INSISTING),
    ] {
        let peers = stage.present(peers);
        for client in clients {
            let name = format!("{what}: {}", client.name());
            if !args.wants(&name) {
                continue;
            }
            let sample = |peer: &Peer| clients::run(&stage, *peer, key, *client, time);
            // Warms up, and shows that each does what it should.
            for peer in &peers {
                let seen = clients::run(&stage, *peer, key, *client, QUICK_TIME);
                report::assert_fate(*peer, &name, &seen, key == OVER);
            }
            let rounds = (0..rounds).map(|_| peers.iter().map(sample).collect());
            report.compared.push(Compared {
                name,
                peers: peers.clone(),
                rounds: rounds.collect(),
            });
        }
    }
    if args.wants("mixed") {
        report.mixed = mixed(&stage, rounds, time);
    }
    report
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
