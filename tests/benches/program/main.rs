//! What a packet costs in the kernel programs: `cargo xtask bench`.
//!
//! `BPF_PROG_TEST_RUN` runs a program on one packet thousands of times and says how long it took.
//! All cases take turns, round after round, so that a machine that is busy for a while is so for
//! all of them; the best round counts, the median says how quiet it was.

mod measure;
mod packets;
mod report;

use std::process::ExitCode;

use limiter_common::{
    abi::{KeyEntry, Limits, UNLIMITED, counter, policy},
    day::MAX_COUNT,
};
use limiter_tests::{
    bench::{self, Args},
    program::{Programs, Shape, Tables, Talk, no_limits},
};
use measure::Case;
use report::Report;

/// The scope that is asked for, and its key, which is one of many.
const SCOPE: u32 = 1;
const KEY: &str = "3f9c1b7a5d2e48c0a6b4";

/// So many others has each of two crowds: as many as `draw` of limiter-ebpf/src/bench.rs knows.
const KEYS: u32 = 1 << 20;
const FIRST_SCOPE: u32 = 2;
/// Each of its keys has a scope of its own.
const ALONE: &str = "3f9c1b7a5d2e";
/// Its keys are those of a thousand scopes.
const SHARED: &str = "8d04e6f1c37b";
const SHARED_BY: u32 = 1000;
/// Letters that tell the keys of a crowd apart; what comes before is as long in both.
const LETTERS: u32 = 8;

/// A key of a scope that may ask for nothing.
const OVER: &str = "71d0e4c2";
const OVER_SCOPE: u32 = FIRST_SCOPE + KEYS;

/// The key with a number in a crowd, as long as [`KEY`].
fn drawn(crowd: &str, number: u32) -> String {
    let letter = |at: u32| char::from(b'a' + (number >> (4 * at) & 15) as u8);
    let letters: String = (0..LETTERS).map(letter).collect();
    format!("{crowd}{letters}")
}

fn main() -> ExitCode {
    bench::main("program", run)
}

fn run(args: &Args) -> Report {
    let (mut programs, talk) = set_up();
    let mut cases = cases(&talk);
    // Nothing is net without the first ones.
    cases.retain(|case| case.is_idle() || args.wants(&case.name));
    let costs = measure::all(&mut programs, &talk, &cases, args.quick);
    Report::new(&programs, &cases, &costs)
}

/// A scope with limits of every kind, none of which stands in the way, among many keys; and an open
/// connection.
fn set_up() -> (Programs, Talk) {
    let tables = Tables {
        scopes: OVER_SCOPE + 1,
        keys: 2 * KEYS + 2,
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
    programs.scope(
        OVER_SCOPE,
        OVER,
        Limits {
            daily_quota: 0,
            ..limits
        },
    );
    programs.configure(|config| config.on_limit = policy::ON_LIMIT_DROP);
    // Nothing sets these back.
    let limits = Limits {
        interval_ns: 1,
        concurrency: UNLIMITED - 1,
        connections: UNLIMITED - 1,
        ..limits
    };
    for number in 0..KEYS {
        programs.scope(FIRST_SCOPE + number, &drawn(ALONE, number), limits);
        let entry = KeyEntry {
            scope: FIRST_SCOPE + number % SHARED_BY,
            flags: 0,
            last_used_ns: 0,
        };
        programs.key(&drawn(SHARED, number), entry);
    }
    let talk = Talk::open(&mut programs, Shape::v4());
    (programs, talk)
}

fn cases(talk: &Talk) -> Vec<Case> {
    let (to_server, to_client) = ("limiter_ingress", "limiter_egress");
    let mut cases = vec![
        Case::idle("empty program", "bench_empty", packets::udp(talk)),
        Case::idle("rewind of a flow", "bench_rewind", packets::udp(talk)),
        Case::idle(
            "rewind, checksum known",
            "bench_rewind_checked",
            packets::udp(talk),
        ),
        Case::idle(
            "rewind, a key drawn",
            "bench_rewind_drawn",
            packets::udp(talk),
        ),
        Case::new("UDP", to_server, packets::udp(talk)),
        Case::new(
            "TCP of another port",
            to_server,
            packets::other_port(talk, true),
        ),
        Case::new(
            "TCP of another port, egress",
            to_client,
            packets::other_port(talk, false),
        ),
        Case::new("ACK on a flow", to_server, packets::ack(talk, true)),
        Case::new(
            "ACK on a flow, egress",
            to_client,
            packets::ack(talk, false),
        ),
    ];
    cases.push(Case::idle(
        "rewind of a response",
        "bench_rewind_response",
        packets::udp(talk),
    ));
    let response = packets::response(talk);
    cases.push(Case::response("response of 267 bytes", response));
    let request = |key, len| packets::request(talk, key, len);
    cases.extend(packets::HEADS.map(|len| Case::admitted(len, request(KEY, len))));
    for (what, crowd) in [("keys", SHARED), ("scopes", ALONE)] {
        let packet = packets::request(talk, &drawn(crowd, 0), 400);
        let name = format!("400 bytes, a million {what}");
        cases.push(Case::drawn(&name, packet));
    }
    cases.push(Case::unchecked(
        "400 bytes, admitted, checksum unknown",
        request(KEY, 400),
    ));
    let others = [
        ("no key, passed", "", true, counter::MISSING_KEY),
        (
            "an unknown key, passed",
            "nobody's",
            true,
            counter::UNKNOWN_KEY,
        ),
        (
            "over the quota, dropped",
            OVER,
            false,
            counter::LIMIT_DROPPED,
        ),
    ];
    cases.extend(others.map(|(what, key, passes, counter)| {
        let name = format!("400 bytes, {what}");
        Case::request(&name, request(key, 400), passes, counter)
    }));
    cases
}
