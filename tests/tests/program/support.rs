// SPDX-License-Identifier: MIT OR Apache-2.0

//! Functions that the tests share.

use std::{collections::BTreeMap, fs};

use limiter_common::abi::{Limits, ScopeState, counter};
use limiter_tests::program::{
    ACK, Extras, FIN, Hook, Programs, RunResult, Segment, Shape, Talk, Verdict, no_limits,
};

/// The scope to which most requests belong, and its key.
pub const SCOPE: u32 = 1;
pub const KEY: &str = "key-one";

/// The properties of packets on another interface, for which the tests use the loopback device of
/// their namespace.
pub const OTHER_INTERFACE: Extras = Extras {
    mark: 0,
    ifindex: Some(1),
    ingress_ifindex: 0,
    gso_size: 0,
    checksum_complete: false,
};

/// Runs a segment on another interface.
pub fn run_elsewhere(
    programs: &mut Programs,
    talk: &Talk,
    to_server: bool,
    segment: &Segment,
) -> RunResult {
    let packet = talk.shape.wrap(&talk.ends, to_server, segment);
    programs.run_with(Hook::of(to_server, true), &packet, OTHER_INTERFACE)
}

/// Returns a GET request with `KEY`.
pub fn get(path: &str) -> String {
    get_as(KEY, path)
}

/// Returns a GET request with the given key.
pub fn get_as(key: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n")
}

/// Returns a complete response with status 200 and the body `body`.
pub fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Returns the programs with `SCOPE`, which has these limits.
pub fn limited(limits: Limits) -> Programs {
    let mut programs = Programs::fresh();
    programs.scope(SCOPE, KEY, limits);
    programs
}

/// Returns the programs with `SCOPE`, which has no limits, and an open connection.
pub fn opened() -> (Programs, Talk) {
    let mut programs = limited(no_limits());
    let talk = Talk::open(&mut programs, Shape::v4());
    (programs, talk)
}

/// Opens another connection from the same client address, with the client port `port`.
pub fn another(programs: &mut Programs, port: u16) -> Talk {
    let mut talk = Talk::new(Shape::v4());
    talk.ends.client_port = port;
    talk.opened(programs)
}

/// Counters of bytes and flows, which most tests ignore.
const QUIET: [u32; 6] = [
    counter::FLOWS_OPENED,
    counter::FLOWS_CLOSED,
    counter::INSPECTED_BYTES,
    counter::RETRANSMITTED_BYTES,
    counter::DROPPED_BYTES,
    counter::REFUSED_BYTES,
];

/// Asserts that the counters in `expected` have these values and that all other counters are zero.
/// The counters in `QUIET` are not checked.
#[track_caller]
pub fn assert_counters(programs: &Programs, expected: &[(u32, u64)]) {
    let name = |index: u32| counter::NAMES[usize::try_from(index).expect("an index")];
    let expected: BTreeMap<&str, u64> = expected
        .iter()
        .map(|(index, count)| (name(*index), *count))
        .collect();
    let mut seen = programs.counters();
    for index in QUIET {
        seen.remove(name(index));
    }
    assert_eq!(seen, expected, "counters");
}

/// Returns the time of `CLOCK_BOOTTIME` in nanoseconds, rounded down to a hundredth of a second.
pub fn boot_ns() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").expect("read the uptime");
    let digits: String = uptime
        .chars()
        .take_while(|&c| c != ' ')
        .filter(char::is_ascii_digit)
        .collect();
    digits.parse::<u64>().expect("seconds with two decimals") * 10_000_000
}

/// Runs a FIN from the client (if `client`) or the server. The FIN follows all bytes of that side.
#[track_caller]
pub fn fin(programs: &mut Programs, talk: &mut Talk, client: bool) -> Verdict {
    let segment = if client {
        talk.client(b"")
    } else {
        talk.server(b"")
    };
    talk.run(programs, client, &segment.with_flags(FIN | ACK))
        .verdict
}

/// Asserts that `SCOPE` has no request in flight and no open connection.
#[track_caller]
pub fn assert_nothing_held(programs: &Programs) {
    let ScopeState {
        in_flight,
        connections,
        ..
    } = programs.state(SCOPE);
    assert_eq!((in_flight, connections), (0, 0));
}
