//! One packet, one verdict.

use limiter_tests::program::{Ends, Hook, Programs, Shape, Talk, Verdict, no_limits};

use crate::support::{KEY, SCOPE, counted, get};

/// Extension headers of IPv6.
pub const HOP_BY_HOP: u8 = 0;
pub const DESTINATION: u8 = 60;

/// A packet, and what is to become of it.
pub struct Row {
    what: &'static str,
    hook: Hook,
    packet: Vec<u8>,
    verdict: Verdict,
    counters: Vec<(u32, u64)>,
}

impl Row {
    /// A packet that passes untouched and without a trace.
    pub fn new(what: &'static str, hook: Hook, packet: Vec<u8>) -> Self {
        Self {
            what,
            hook,
            packet,
            verdict: Verdict::Pass,
            counters: Vec::new(),
        }
    }

    /// It is dropped, which is counted.
    pub fn dropped(self, counter: u32) -> Self {
        Self {
            verdict: Verdict::Drop,
            counters: vec![(counter, 1)],
            ..self
        }
    }

    /// It leaves these counts.
    pub fn counts(self, counters: &[(u32, u64)]) -> Self {
        Self {
            counters: counters.to_vec(),
            ..self
        }
    }
}

/// Runs each row on programs that know a scope and no connection.
#[track_caller]
pub fn check(rows: Vec<Row>) {
    for row in rows {
        let mut programs = Programs::fresh();
        programs.scope(SCOPE, KEY, no_limits());
        let ran = programs.run(row.hook, &row.packet);
        let what = row.what;
        println!("{what}: {:?}, {:?}", ran.verdict, programs.counters());
        assert_eq!(ran.verdict, row.verdict, "{what}");
        if row.verdict == Verdict::Pass {
            assert_eq!(ran.packet, row.packet, "{what}: changed");
        }
        assert_eq!(ran.sent, [] as [Vec<u8>; 0], "{what}: sent besides");
        counted(&programs, &row.counters);
    }
}

/// A request to the guarded port in a shape, on a connection that is not followed.
pub fn request(shape: &Shape) -> Vec<u8> {
    request_of(shape, shape.ends())
}

/// As [`request`], between any ends.
pub fn request_of(shape: &Shape, ends: Ends) -> Vec<u8> {
    let segment = Talk::new(shape.clone()).client(get("/").as_bytes());
    shape.wrap(&ends, true, &segment)
}
