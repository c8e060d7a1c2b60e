//! Words that the tests share.

use std::{collections::BTreeMap, fs};

use limiter_common::abi::{Limits, ScopeState, counter};
use limiter_tests::program::{ACK, FIN, Programs, Shape, Talk, Verdict, no_limits};

/// The scope that most tests ask for, and its key.
pub const SCOPE: u32 = 1;
pub const KEY: &str = "key-one";

/// A request of `KEY`.
pub fn get(path: &str) -> String {
    get_as(KEY, path)
}

/// A request of any key.
pub fn get_as(key: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n")
}

/// A whole response.
pub fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Programs that know `SCOPE` with these limits.
pub fn limited(limits: Limits) -> Programs {
    let mut programs = Programs::fresh();
    programs.scope(SCOPE, KEY, limits);
    programs
}

/// Programs that know `SCOPE`, which has no limits, and an open connection.
pub fn opened() -> (Programs, Talk) {
    let mut programs = limited(no_limits());
    let talk = Talk::open(&mut programs, Shape::v4());
    (programs, talk)
}

/// Another connection of the same client.
pub fn another(programs: &mut Programs, port: u16) -> Talk {
    let mut talk = Talk::new(Shape::v4());
    talk.ends.client_port = port;
    talk.opened(programs)
}

/// Counters that say little: how many bytes, how many connections.
const QUIET: [u32; 6] = [
    counter::FLOWS_OPENED,
    counter::FLOWS_CLOSED,
    counter::INSPECTED_BYTES,
    counter::RETRANSMITTED_BYTES,
    counter::DROPPED_BYTES,
    counter::REFUSED_BYTES,
];

/// Nothing else was counted than this, but for connections and bytes.
#[track_caller]
pub fn counted(programs: &Programs, expected: &[(u32, u64)]) {
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

/// `CLOCK_BOOTTIME`, to a hundredth of a second.
pub fn boot_ns() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").expect("read the uptime");
    let digits: String = uptime
        .chars()
        .take_while(|&c| c != ' ')
        .filter(char::is_ascii_digit)
        .collect();
    digits.parse::<u64>().expect("seconds with two decimals") * 10_000_000
}

/// A FIN of one side, behind all that it sent.
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

/// Nothing is held any more.
#[track_caller]
pub fn nothing_is_held(programs: &Programs) {
    let ScopeState {
        in_flight,
        connections,
        ..
    } = programs.state(SCOPE);
    assert_eq!((in_flight, connections), (0, 0));
}
