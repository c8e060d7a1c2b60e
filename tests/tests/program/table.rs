// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tables of packets and their verdicts.

use limiter_tests::program::{Ends, Hook, Programs, Shape, Talk, Verdict, no_limits};

use crate::support::{KEY, SCOPE, assert_counters, get};

/// The types of IPv6 extension headers.
pub const HOP_BY_HOP: u8 = 0;
pub const DESTINATION: u8 = 60;

/// A packet and its expected result.
pub struct Row {
    what: &'static str,
    hook: Hook,
    packet: Vec<u8>,
    verdict: Verdict,
    counters: Vec<(u32, u64)>,
}

impl Row {
    /// Returns a row for a packet that must pass unchanged and must not be counted.
    pub fn new(what: &'static str, hook: Hook, packet: Vec<u8>) -> Self {
        Self {
            what,
            hook,
            packet,
            verdict: Verdict::Pass,
            counters: Vec::new(),
        }
    }

    /// Changes the expectation: the packet must be dropped and counted under `counter`.
    pub fn dropped(self, counter: u32) -> Self {
        Self {
            verdict: Verdict::Drop,
            counters: vec![(counter, 1)],
            ..self
        }
    }

    /// Changes the expected values of the counters.
    pub fn counts(self, counters: &[(u32, u64)]) -> Self {
        Self {
            counters: counters.to_vec(),
            ..self
        }
    }
}

/// Checks each row with programs that have one scope and no connection.
#[track_caller]
pub fn check(rows: Vec<Row>) {
    for row in rows {
        let mut programs = Programs::fresh();
        programs.scope(SCOPE, KEY, no_limits());
        programs.older_until(u64::MAX);
        let ran = programs.run(row.hook, &row.packet);
        let what = row.what;
        println!("{what}: {:?}, {:?}", ran.verdict, programs.counters());
        assert_eq!(ran.verdict, row.verdict, "{what}");
        if row.verdict == Verdict::Pass {
            assert_eq!(ran.packet, row.packet, "{what}: changed");
        }
        assert_eq!(ran.sent, [] as [Vec<u8>; 0], "{what}: additional packets");
        assert_counters(&programs, &row.counters);
    }
}

/// Returns a packet with a request to the guarded port in the shape `shape`. The connection is
/// untracked.
pub fn request(shape: &Shape) -> Vec<u8> {
    request_of(shape, shape.ends())
}

/// Does the same as [`request`] for other addresses and ports.
pub fn request_of(shape: &Shape, ends: Ends) -> Vec<u8> {
    let segment = Talk::new(shape.clone()).client(get("/").as_bytes());
    shape.wrap(&ends, true, &segment)
}
