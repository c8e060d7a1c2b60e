// SPDX-License-Identifier: MIT OR Apache-2.0

//! Connections that have been idle for a long time but are still open.

use limiter_common::{
    abi::{Flow, counter},
    flow::Idle,
};
use limiter_tests::program::{Programs, Shape, Talk, Verdict, no_limits};

use crate::support::{SCOPE, get, limited, ok, opened};

const DAY_NS: u64 = 86_400_000_000_000;

/// Makes a flow appear to have been idle since this machine booted, which is the longest possible
/// idle time.
fn make_idle(programs: &mut Programs, talk: &Talk) {
    let flow = programs.flow(&talk.key()).expect("a flow");
    programs.set_flow(Flow {
        last_seen_ns: 0,
        ..flow
    });
}

#[test]
fn flow_survives_days_within_and_between_requests() {
    assert!(Idle::DEFAULT_NS[Idle::Open as usize] > 4 * DAY_NS);
    let (mut programs, mut talk) = opened();
    for in_flight in [1, 0] {
        if in_flight == 1 {
            talk.asks(&mut programs, get("/"));
            talk.acknowledged(&mut programs);
        } else {
            talk.answers(&mut programs, ok(""));
        }
        make_idle(&mut programs, &talk);
        // All timeouts but that of open connections are zero, so the sweep would remove a flow in
        // any other phase.
        let mut idle_ns = [0; Idle::COUNT];
        idle_ns[Idle::Open as usize] = 4 * DAY_NS;
        let swept = programs.sweep(idle_ns);
        assert_eq!((swept.flows, swept.removed), (1, 0));
        assert_eq!(programs.state(SCOPE).in_flight, in_flight);
    }
    assert_eq!(programs.counter(counter::SWEPT_FLOWS), 0);
    idle_flow_is_swept_in_the_end(programs, &talk);
}

#[test]
fn timestamps_are_not_compared_after_half_an_hour_of_silence() {
    // After a long idle time, a clock whose ticks are microseconds may have wrapped, so a timestamp
    // may have any value.
    for (silent_ns, verdict) in [
        (2_140 * 1_000_000_000, Verdict::Drop),
        (2_160 * 1_000_000_000, Verdict::Pass),
    ] {
        let mut programs = limited(no_limits());
        let mut talk = Talk::new(Shape::v4());
        talk.timestamps = true;
        talk.set_ticks(3_000_000_000);
        let mut talk = talk.opened(&mut programs);
        talk.asks(&mut programs, get("/"));
        talk.answers(&mut programs, ok(""));
        let flow = programs.flow(&talk.key()).expect("a flow");
        programs.set_flow(Flow {
            // If this machine has been up for less than `silent_ns`, the difference wraps. The
            // programs subtract in the same way, so they still get `silent_ns`.
            last_seen_ns: flow.last_seen_ns.wrapping_sub(silent_ns),
            ..flow
        });
        talk.set_ticks(2_000_000_000);
        assert_eq!(talk.ask(&mut programs, get("/")).verdict, verdict);
        if verdict == Verdict::Pass {
            // From this segment on, timestamps are compared again.
            talk.answers(&mut programs, ok(""));
        }
        talk.set_ticks(1_999_999_999);
        assert_eq!(talk.ask(&mut programs, get("/")).verdict, Verdict::Drop);
        let stale = 1 + u64::from(verdict == Verdict::Drop);
        assert_eq!(programs.counter(counter::STALE_DROPPED), stale);
    }
}

/// Asserts that a sweep removes an idle flow once the longest timeout has passed.
fn idle_flow_is_swept_in_the_end(mut programs: Programs, talk: &Talk) {
    make_idle(&mut programs, talk);
    let mut idle_ns = [u64::MAX; Idle::COUNT];
    idle_ns[Idle::Open as usize] = 1_000_000;
    assert_eq!(programs.sweep(idle_ns).removed, 1);
}
