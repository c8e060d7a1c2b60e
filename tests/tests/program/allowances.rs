// SPDX-License-Identifier: MIT OR Apache-2.0

//! Counts do not run ahead of the store by more than the allowance, and limits expire without the
//! daemon.

use limiter_common::{
    abi::{ENDS, Event, Limits, counter, event, policy},
    day::{DAY_NS, Day, DayCount},
};
use limiter_tests::program::{Programs, Shape, Talk, Verdict, no_limits};

use crate::support::{SCOPE, assert_counters, boot_ns, get, limited};

/// The day on which the tests take place.
const TODAY: Day = Day(20_000);

/// Noon of that day, in nanoseconds since the epoch.
const NOON_NS: u64 = 20_000 * DAY_NS + DAY_NS / 2;

fn allowing(allowed: DayCount, ahead: u32) -> Limits {
    Limits {
        daily_quota: 100,
        allowed: allowed.0,
        ahead,
        ..no_limits()
    }
}

/// Returns the programs at noon, with a scope that has these limits. To the programs, it is as if a
/// daemon kept the store up to date.
fn attended(limits: Limits) -> Programs {
    let mut programs = limited(limits);
    set_utc(&mut programs, NOON_NS);
    programs.attend_until(u64::MAX);
    programs
}

fn set_utc(programs: &mut Programs, utc_ns: u64) {
    programs.set_clock(utc_ns.wrapping_sub(boot_ns()));
}

/// Sends a request on a new connection, and returns whether the request passed, was refused or was
/// held.
#[track_caller]
fn ask(programs: &mut Programs) -> &'static str {
    let mut talk = Talk::open(programs, Shape::v4());
    let segment = talk.client(get("/").as_bytes());
    let ran = talk.run(programs, true, &segment);
    match (ran.verdict, ran.sent.len()) {
        (Verdict::Pass, 0) => "passed",
        (Verdict::Pass, _) => "refused",
        _ => "held",
    }
}

fn take_reports(programs: &mut Programs) -> usize {
    let events = programs.object_mut().maps.take_events();
    let wanted = Event {
        kind: event::ALLOWANCE,
        scope: SCOPE,
        key: [0; 2],
    };
    assert!(events.iter().all(|event| *event == wanted), "{events:?}");
    events.len()
}

#[test]
fn request_beyond_the_allowance_is_held_until_it_grows() {
    let mut programs = attended(allowing(DayCount::new(TODAY, 2), 10));
    assert_eq!([ask(&mut programs), ask(&mut programs)], ["passed"; 2]);
    take_reports(&mut programs);
    assert_eq!(ask(&mut programs), "held");
    assert_eq!(take_reports(&mut programs), 1);
    let state = programs.state(SCOPE);
    // No request is in flight, because each connection has replaced the one before it, which had
    // the same ports.
    assert_eq!((state.admitted, state.in_flight), (2, 0));
    assert_eq!(DayCount(state.day_count), DayCount::new(TODAY, 2));
    assert_eq!(state.refused, [0; 4]);
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 2),
            (counter::HELD, 1),
            (counter::NOT_QUIET_DROPPED, 1),
        ],
    );
    programs.limit(SCOPE, allowing(DayCount::new(TODAY, 3), 10));
    assert_eq!([ask(&mut programs), ask(&mut programs)], ["passed", "held"]);
}

#[test]
fn held_request_is_charged_once_when_retransmitted() {
    let mut programs = attended(allowing(DayCount::new(TODAY, 1), 10));
    let mut talk = Talk::open(&mut programs, Shape::v4());
    talk.asks(&mut programs, get("/"));
    let segment = talk.client(get("/2").as_bytes());
    for _ in 0..3 {
        assert_ne!(
            talk.run(&mut programs, true, &segment).verdict,
            Verdict::Pass
        );
    }
    programs.limit(SCOPE, allowing(DayCount::new(TODAY, 9), 10));
    let ran = talk.run(&mut programs, true, &segment);
    assert_eq!(ran.decoded().payload, get("/2").as_bytes());
    assert_eq!(programs.state(SCOPE).admitted, 2);
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 2),
            (counter::HELD, 3),
            (counter::NOT_QUIET_DROPPED, 3),
        ],
    );
}

#[test]
fn new_day_begins_with_the_amount_that_may_run_ahead() {
    let yesterday = DayCount::new(Day(TODAY.0 - 1), 90);
    let mut programs = attended(allowing(yesterday, 1));
    assert_eq!(ask(&mut programs), "passed");
    // The programs report the first request of a day immediately.
    assert_eq!(take_reports(&mut programs), 1);
    assert_eq!(ask(&mut programs), "held");
}

#[test]
fn quota_bounds_the_allowance() {
    let mut programs = attended(Limits {
        daily_quota: 1,
        ..allowing(DayCount::new(TODAY, 50), 10)
    });
    assert_eq!(
        [ask(&mut programs), ask(&mut programs)],
        ["passed", "refused"]
    );
    assert_eq!(programs.state(SCOPE).refused, [0, 0, 0, 1]);
}

#[test]
fn allowance_reports_reach_the_daemon_in_time() {
    let mut programs = attended(allowing(DayCount::new(TODAY, 20), 20));
    let mut when = Vec::new();
    for number in 1..=20 {
        assert_eq!(ask(&mut programs), "passed");
        if take_reports(&mut programs) > 0 {
            when.push(number);
        }
    }
    // The programs report to the daemon at the first request, and when half and three quarters of
    // the allowance have been used.
    assert_eq!(when, [1, 10, 15]);
}

#[test]
fn unattended_requests_pass_up_to_the_quota_or_not_at_all() {
    let limits = Limits {
        daily_quota: 3,
        ..allowing(DayCount::new(TODAY, 1), 1)
    };
    let mut programs = attended(limits);
    programs.attend_until(1);
    let asked: Vec<_> = (0..4).map(|_| ask(&mut programs)).collect();
    assert_eq!(asked, ["passed", "passed", "passed", "refused"]);
    assert_counters(
        &programs,
        &[
            (counter::ADMITTED, 3),
            (counter::UNATTENDED, 2),
            (counter::REFUSED_DAILY_QUOTA, 1),
            (counter::RESPONSES_SENT, 1),
        ],
    );
    drop(programs);
    let mut programs = attended(limits);
    programs.attend_until(1);
    programs.configure(|config| config.unattended = policy::REJECT);
    assert_eq!(
        [ask(&mut programs), ask(&mut programs)],
        ["passed", "refused"]
    );
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn observed_requests_are_never_held() {
    let mut programs = attended(Limits {
        flags: no_limits().flags | limiter_common::abi::LIMITS_OBSERVE,
        ..allowing(DayCount::new(TODAY, 1), 1)
    });
    assert_eq!([ask(&mut programs), ask(&mut programs)], ["passed"; 2]);
    assert_eq!(programs.state(SCOPE).would_refuse, [0; 4]);
}

#[test]
fn limits_expire_by_themselves() {
    let until_s = u32::try_from(NOON_NS / 1_000_000_000).expect("seconds");
    let own = Limits {
        until_s,
        ..no_limits()
    };
    let then = Limits {
        daily_quota: 1,
        ..no_limits()
    };
    let mut programs = attended(own);
    set_utc(&mut programs, NOON_NS - 60 * 1_000_000_000);
    // These limits end only at `until_s`, and only if the limits that follow them are known.
    assert_eq!([ask(&mut programs), ask(&mut programs)], ["passed"; 2]);
    programs.set_later_limits(SCOPE, &[then]);
    assert_eq!(ask(&mut programs), "passed");
    set_utc(&mut programs, NOON_NS);
    assert_eq!(ask(&mut programs), "refused");
    assert_eq!(programs.state(SCOPE).refused, [0, 0, 0, 1]);
}

#[test]
fn limits_expire_one_after_the_other() {
    const MINUTE_NS: u64 = 60 * 1_000_000_000;
    let quota = |daily_quota: u64, minutes: Option<u64>| Limits {
        daily_quota,
        until_s: minutes.map_or(0, |minutes| {
            let end_ns = NOON_NS + minutes * MINUTE_NS;
            u32::try_from(end_ns / 1_000_000_000).expect("seconds")
        }),
        ..no_limits()
    };
    let later: Vec<_> = (2..6)
        .map(|stage| quota(stage, Some(stage)))
        .chain([quota(6, None)])
        .collect();
    assert_eq!(later.len(), ENDS);
    // No daemon replaces the limits. They begin with one request, and allow one more from each
    // minute on, until the last one.
    let mut programs = attended(quota(1, Some(1)));
    programs.set_later_limits(SCOPE, &later);
    for minute in 0..6 {
        set_utc(&mut programs, NOON_NS + minute * MINUTE_NS + MINUTE_NS / 2);
        let answers = [ask(&mut programs), ask(&mut programs)];
        assert_eq!(answers, ["passed", "refused"], "minute {minute}");
    }
    set_utc(&mut programs, NOON_NS + 100 * MINUTE_NS);
    assert_eq!(ask(&mut programs), "refused");
}
