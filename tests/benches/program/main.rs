// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures the cost of a packet in the kernel programs, as a part of `cargo xtask bench`.
//!
//! `BPF_PROG_TEST_RUN` runs a program on one packet thousands of times, and reports the average
//! duration of a run. The bench does this for every case in turn, and repeats the whole sequence
//! several times, so that a period in which the machine is busy affects all cases. Each repetition
//! is called a round. The result of a case is its best round. The larger the median of the rounds
//! is in comparison, the more the results were affected by other work on the machine.

mod measure;
mod packets;
mod report;

use std::{process::ExitCode, time::Duration};

use limiter_common::{
    abi::{KeyEntry, LIMITS_LEASED, Limits, UNLIMITED, counter, policy},
    day::{Day, DayCount, MAX_COUNT},
};
use limiter_tests::{
    bench::{self, Args},
    program::{Programs, Shape, Tables, Talk, no_limits},
};
use measure::Case;
use nix::time::{ClockId, clock_gettime};
use report::Report;

/// The scope of the requests, and its key. The maps also contain many other keys.
const SCOPE: u32 = 1;
const KEY: &str = "3f9c1b7a5d2e48c0a6b4";

/// The number of keys in a crowd. A crowd is one of two sets of other keys in the maps. `draw` of
/// limiter-ebpf/src/jobs/bench.rs can write at most 2^20 different keys.
const KEYS: u32 = 1 << 20;
const FIRST_SCOPE: u32 = 2;
/// The prefix of the keys in the first crowd, in which each key has its own scope.
const ALONE: &str = "3f9c1b7a5d2e";
/// The prefix of the keys in the second crowd, whose keys belong to a thousand scopes.
const SHARED: &str = "8d04e6f1c37b";
const SHARED_BY: u32 = 1000;
/// The number of letters that distinguish the keys of a crowd. Both prefixes have the same length.
const LETTERS: u32 = 8;

/// The key of a scope that admits no request.
const OVER: &str = "71d0e4c2";
const OVER_SCOPE: u32 = FIRST_SCOPE + KEYS;

/// The key of a scope that shares its quota with other hosts, and the key of a scope that has the
/// same limits and does not share its quota.
const FLEET: &str = "5e0b9a64";
const FLEET_SCOPE: u32 = OVER_SCOPE + 1;
const ALONE_KEY: &str = "0c4d81f7";
const ALONE_SCOPE: u32 = OVER_SCOPE + 2;

/// Returns the key with the number `number` in the crowd `crowd`. The key is as long as [`KEY`].
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
    // The idle cases always run, because their costs are subtracted to get the net costs.
    cases.retain(|case| case.is_idle() || args.wants(&case.name));
    let costs = measure::all(&mut programs, &talk, &cases, args.quick);
    Report::new(&programs, &cases, &costs)
}

/// Opens a connection, after making a scope with limits that the bench never reaches, a scope that
/// admits no request, and the crowds of other keys.
fn set_up() -> (Programs, Talk) {
    let tables = Tables {
        scopes: ALONE_SCOPE + 1,
        keys: 2 * KEYS + 4,
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
    // The bench rewinds only the counts of `SCOPE`, so the counts of these scopes grow, and their
    // limits have to be too high to be reached.
    let limits = Limits {
        interval_ns: 1,
        concurrency: UNLIMITED - 1,
        connections: UNLIMITED - 1,
        ..limits
    };
    programs.set_clock(0);
    let today = Day::at(
        Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a clock")).as_nanos() as u64,
    );
    for (scope, key, flag) in [
        (ALONE_SCOPE, ALONE_KEY, 0),
        (FLEET_SCOPE, FLEET, LIMITS_LEASED),
    ] {
        let recorded = Limits {
            allowed: DayCount::new(today, MAX_COUNT).0,
            ahead: 1,
            flags: limits.flags | flag,
            ..limits
        };
        programs.scope(scope, key, recorded);
    }
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
    for (what, key) in [("a scope alone", ALONE_KEY), ("a scope of a fleet", FLEET)] {
        let name = format!("400 bytes, {what}");
        cases.push(Case::request(
            &name,
            request(key, 400),
            true,
            counter::ADMITTED,
        ));
    }
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
