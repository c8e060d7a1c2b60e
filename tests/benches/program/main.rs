//! What a packet costs in the kernel programs: `cargo xtask bench`.
//!
//! `BPF_PROG_TEST_RUN` runs a program on one packet thousands of times and says how long it took.
//! All cases take turns, round after round, so that a machine that is busy for a while is so for
//! all of them; the best round counts, the median says how quiet it was.

mod measure;
mod packets;
mod report;

use std::{env, fs, path::PathBuf, process::ExitCode};

use limiter_common::{
    abi::{KeyEntry, Limits},
    day::MAX_COUNT,
};
use limiter_tests::program::{Programs, Shape, Tables, Talk, no_limits};
use measure::Case;

/// The scope that is asked for, and its key, which is one of many.
const SCOPE: u32 = 1;
const KEY: &str = "3f9c1b7a5d2e48c0a6b4";
const KEYS: u32 = 100_000;

fn main() -> ExitCode {
    let mut json = None;
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // What cargo says to every bench.
            "--bench" => {}
            "--json" => json = args.next().map(PathBuf::from),
            other => {
                eprintln!("unknown argument {other:?}; usage: program [--json FILE]");
                return ExitCode::from(2);
            }
        }
    }
    let (mut programs, talk) = set_up();
    let cases = cases(&talk);
    let costs = measure::all(&mut programs, &talk, &cases);
    let report = report::Report::new(&programs, &cases, &costs);
    print!("{report}");
    if let Some(file) = json {
        let written = file
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&file, report.json()));
        if let Err(error) = written {
            eprintln!("cannot write {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
        println!("written to {}", file.display());
    }
    ExitCode::SUCCESS
}

/// A scope with limits of every kind, none of which stands in the way, among many keys; and an open
/// connection.
fn set_up() -> (Programs, Talk) {
    let tables = Tables {
        scopes: 1024,
        keys: 1 << 17,
        flows: 1024,
    };
    let mut programs = Programs::sized(tables);
    let limits = Limits {
        daily_quota: MAX_COUNT,
        interval_ns: 1_000_000,
        tolerance_ns: 0,
        concurrency: 20,
        connections: 1000,
        ..no_limits()
    };
    programs.scope(SCOPE, KEY, limits);
    for number in 0..KEYS {
        let entry = KeyEntry {
            scope: 2 + number % 1000,
            flags: 0,
            last_used_ns: 0,
        };
        programs.key(&format!("key of another {number}"), entry);
    }
    let talk = Talk::open(&mut programs, Shape::v4());
    (programs, talk)
}

fn cases(talk: &Talk) -> Vec<Case> {
    let mut cases = vec![
        Case::new("empty program", "bench_empty", packets::udp(talk)),
        Case::new("rewind of a flow", "bench_rewind", packets::udp(talk)),
        Case::new("UDP", "limiter_ingress", packets::udp(talk)),
        Case::new(
            "TCP of another port",
            "limiter_ingress",
            packets::other_port(talk, true),
        ),
        Case::new(
            "TCP of another port, egress",
            "limiter_egress",
            packets::other_port(talk, false),
        ),
        Case::new("ACK on a flow", "limiter_ingress", packets::ack(talk, true)),
        Case::new(
            "ACK on a flow, egress",
            "limiter_egress",
            packets::ack(talk, false),
        ),
    ];
    cases.extend(packets::HEADS.map(|len| Case::request(len, packets::request(talk, KEY, len))));
    cases
}
