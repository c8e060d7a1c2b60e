// SPDX-License-Identifier: MIT OR Apache-2.0

//! The part of a daily quota that a host of a fleet may use.

use limiter_common::{
    abi::{
        LIMITS_LEASED, LIMITS_OBSERVE, Lease, Limits, MAX_HELD_NS, REFUSED_ALL_DAY, event, policy,
    },
    day::{DAY_NS, Day, DayCount},
};
use limiter_tests::{
    eventually_some,
    program::{Programs, Shape, Talk, Verdict, no_limits},
};

use crate::support::{KEY, SCOPE, boot_ns, get, limited};

/// The day on which the tests take place.
const TODAY: Day = Day(20_000);
const TOMORROW: Day = Day(20_001);

/// One minute before the end of [`TODAY`], in nanoseconds since the Unix epoch.
const LATE_NS: u64 = 20_001 * DAY_NS - 60_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;
/// The precision of [`boot_ns`] and of the time for which a request has been held.
const CLOCK_NS: u64 = 20_000_000;

/// The limits of a scope of a fleet, which allow `allowed` requests today.
fn shared(allowed: u64) -> Limits {
    Limits {
        daily_quota: 100,
        allowed: DayCount::new(TODAY, allowed).0,
        ahead: 10,
        flags: no_limits().flags | LIMITS_LEASED,
        ..no_limits()
    }
}

fn lease(requests: u64) -> Lease {
    Lease {
        current: DayCount::new(TODAY, requests).0,
        ..Lease::default()
    }
}

/// Returns the programs with a scope that has these limits and this lease. To the programs, it is
/// as if a daemon were running.
fn leased(limits: Limits, lease: Lease) -> Programs {
    let mut programs = limited(limits);
    programs.set_clock(LATE_NS.wrapping_sub(boot_ns()));
    programs.attend_until(u64::MAX);
    programs.lease(SCOPE, lease);
    programs
}

/// Sends a request on a new connection. Returns the same as [`send`].
#[track_caller]
fn ask(programs: &mut Programs) -> String {
    let mut talk = Talk::open(programs, Shape::v4());
    send(programs, &mut talk)
}

/// Opens a connection that stays open when [`ask`] makes another one.
#[track_caller]
fn open(programs: &mut Programs, client_port: u16) -> Talk {
    let mut talk = Talk::new(Shape::v4());
    talk.ends.client_port = client_port;
    talk.opened(programs)
}

/// Sends a request, which is the next one of the client until it has passed. Returns "passed",
/// "held", or the value of `Retry-After`.
#[track_caller]
fn send(programs: &mut Programs, talk: &mut Talk) -> String {
    let ran = talk.ask(programs, get("/"));
    let Some(answer) = ran.sent.first() else {
        let passed = ran.verdict == Verdict::Pass;
        return if passed { "passed" } else { "held" }.to_owned();
    };
    let text = String::from_utf8_lossy(answer);
    let wait = text.split("Retry-After: ").nth(1);
    let wait = wait.and_then(|text| text.split_ascii_whitespace().next());
    wait.expect("a response with Retry-After").to_owned()
}

#[test]
fn a_lease_applies_without_a_daemon_whatever_the_policy_is() {
    for unattended in [policy::PASS, policy::REJECT] {
        let mut programs = leased(shared(1), lease(1));
        programs.configure(|config| config.unattended = unattended);
        programs.attend_until(1);
        assert_eq!([(); 2].map(|()| ask(&mut programs)), ["passed", "5"]);
    }
}

#[test]
fn a_lease_that_cannot_be_extended_yet_refuses_with_the_remaining_time() {
    let refused = |until_ns| Lease {
        refused_until_ns: until_ns,
        ..lease(1)
    };
    let mut programs = leased(shared(1), refused(boot_ns() + 20 * SECOND_NS));
    assert_eq!(ask(&mut programs), "passed");
    let wait: u64 = ask(&mut programs).parse().expect("seconds");
    assert!((15..=20).contains(&wait), "{wait}");
    assert_eq!(programs.state(SCOPE).refused, [0, 0, 0, 1]);
    programs.lease(SCOPE, refused(boot_ns() - SECOND_NS));
    assert_eq!(ask(&mut programs), "held", "the time has passed");
    let longer = Lease {
        current: DayCount::new(TODAY, 2).0,
        ..refused(boot_ns() + 20 * SECOND_NS)
    };
    programs.lease(SCOPE, longer);
    assert_eq!(
        ask(&mut programs),
        "held",
        "the store has not recorded the lease yet"
    );
    programs.lease(SCOPE, refused(boot_ns() + 1_000 * SECOND_NS));
    let wait: u64 = ask(&mut programs).parse().expect("seconds");
    assert!(wait <= 60, "midnight comes earlier: {wait}");
    programs.lease(SCOPE, refused(REFUSED_ALL_DAY));
    let wait: u64 = ask(&mut programs).parse().expect("seconds");
    assert!((40..=60).contains(&wait), "{wait}");
}

#[test]
fn a_request_is_refused_after_it_has_waited_for_a_longer_lease() {
    let mut programs = leased(shared(1), lease(1));
    assert_eq!(ask(&mut programs), "passed");
    let mut talk = open(&mut programs, 40_001);
    let start_ns = boot_ns();
    assert_eq!(send(&mut programs, &mut talk), "held");
    let wait = eventually_some("the request is refused", || {
        let answer = send(&mut programs, &mut talk);
        assert_eq!(ask(&mut programs), "held", "each request waits by itself");
        (answer != "held").then_some(answer)
    });
    assert_eq!(wait, "5");
    assert!(boot_ns() - start_ns >= MAX_HELD_NS - CLOCK_NS);
    assert_eq!(programs.state(SCOPE).refused, [0, 0, 0, 1]);
}

#[test]
fn each_request_of_a_connection_may_wait() {
    let mut programs = leased(shared(0), lease(0));
    programs.configure(|config| config.on_limit = policy::ON_LIMIT_KEEPALIVE);
    let [mut admitted, mut refused] = [40_001, 40_002].map(|port| open(&mut programs, port));
    for talk in [&mut admitted, &mut refused] {
        assert_eq!(send(&mut programs, talk), "held");
    }
    let refusal = eventually_some("the request is refused", || {
        let ran = refused.ask(&mut programs, get("/"));
        (!ran.sent.is_empty()).then(|| ran.answer())
    });
    // The other request has waited for as long, and is admitted.
    programs.limit(SCOPE, shared(1));
    programs.lease(SCOPE, lease(1));
    assert_eq!(send(&mut programs, &mut admitted), "passed");
    admitted.answers(
        &mut programs,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(send(&mut programs, &mut admitted), "held");
    let answer = refusal.payload;
    refused.asked += u32::try_from(get("/").len()).expect("a short request");
    refused.answered += u32::try_from(answer.len()).expect("a short answer");
    assert_eq!(send(&mut programs, &mut refused), "held");
}

#[test]
fn a_new_day_begins_with_its_own_lease() {
    let used_up = Lease {
        next: DayCount::new(TOMORROW, 1).0,
        refused_until_ns: REFUSED_ALL_DAY,
        ..lease(0)
    };
    let mut programs = leased(shared(0), used_up);
    assert_ne!(ask(&mut programs), "passed");
    let after_midnight_ns = LATE_NS + 120 * SECOND_NS;
    programs.set_clock(after_midnight_ns.wrapping_sub(boot_ns()));
    // The refusal no longer applies, and the lease of the new day does.
    assert_eq!([(); 2].map(|()| ask(&mut programs)), ["passed", "held"]);
    drop(programs);
    let mut programs = leased(shared(5), lease(5));
    programs.set_clock(after_midnight_ns.wrapping_sub(boot_ns()));
    assert_eq!(ask(&mut programs), "held", "no lease for the new day");
}

#[test]
fn observed_requests_need_no_lease() {
    let mut limits = shared(50);
    limits.flags |= LIMITS_OBSERVE;
    let mut programs = leased(limits, lease(1));
    assert_eq!([(); 2].map(|()| ask(&mut programs)), ["passed"; 2]);
}

#[test]
fn an_adopted_key_passes_only_after_its_scope_has_a_lease() {
    let mut programs = leased(shared(1), lease(1));
    programs.configure(|config| {
        config.unknown_key = policy::ADOPT;
        config.adopt_limits = Limits {
            allowed: 0,
            ..shared(0)
        };
    });
    programs.add_unused_ids(&[5]);
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let request = get("/").replace(KEY, "unknown");
    let segment = talk.client(request.as_bytes());
    let ran = talk.run(&mut programs, true, &segment);
    assert_ne!(ran.verdict, Verdict::Pass);
    let events = programs.object_mut().maps.take_events();
    let kinds: Vec<_> = events
        .iter()
        .map(|event| (event.kind, event.scope))
        .collect();
    assert_eq!(kinds, [(event::ADOPTED, 5), (event::ALLOWANCE, 5)]);
    assert_eq!(programs.state(5).admitted, 0);
    programs.limit(5, shared(1));
    assert_eq!(
        talk.run(&mut programs, true, &segment).verdict,
        Verdict::Pass
    );
    assert_eq!(programs.state(5).admitted, 1);
}
