//! Connections on which nothing happens for long, and which are as alive as any.

use limiter_common::{
    abi::{Flow, counter},
    flow::Idle,
};
use limiter_tests::program::{Programs, Talk};

use crate::support::{SCOPE, get, ok, opened};

const DAY_NS: u64 = 86_400_000_000_000;

/// As long as this machine has been up: no flow can be older.
fn silent_since_ever(programs: &mut Programs, talk: &Talk) {
    let flow = programs.flow(&talk.key()).expect("a flow");
    programs.set_flow(Flow {
        last_seen_ns: 0,
        ..flow
    });
}

#[test]
fn a_request_may_take_days_and_so_may_the_time_between_two() {
    assert!(Idle::DEFAULT_NS[Idle::Open as usize] > 4 * DAY_NS);
    let (mut programs, mut talk) = opened();
    for in_flight in [1, 0] {
        if in_flight == 1 {
            talk.asks(&mut programs, get("/"));
        } else {
            talk.answers(&mut programs, ok(""));
        }
        silent_since_ever(&mut programs, &talk);
        // However little patience there is with all that is not open.
        let mut idle_ns = [0; 4];
        idle_ns[Idle::Open as usize] = 4 * DAY_NS;
        let swept = programs.sweep(idle_ns);
        assert_eq!((swept.flows, swept.removed), (1, 0));
        assert_eq!(programs.state(SCOPE).in_flight, in_flight);
    }
    assert_eq!(programs.counter(counter::SWEPT_FLOWS), 0);
    idle_flow_is_swept_in_the_end(programs, &talk);
}

/// The time counts at all.
fn idle_flow_is_swept_in_the_end(mut programs: Programs, talk: &Talk) {
    silent_since_ever(&mut programs, talk);
    let mut idle_ns = [u64::MAX; 4];
    idle_ns[Idle::Open as usize] = 1_000_000;
    assert_eq!(programs.sweep(idle_ns).removed, 1);
}
