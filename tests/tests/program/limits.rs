// SPDX-License-Identifier: MIT OR Apache-2.0

//! One decision applies all limits. A request is charged either to all limits or to none of them.

use limiter_common::{
    abi::{Limits, ScopeState, counter, reason},
    day::{DAY_NS, Day, DayCount},
};
use limiter_tests::program::{Programs, RunResult, Shape, Talk, Verdict, no_limits};

use crate::support::{SCOPE, another, boot_ns, get, limited, ok};

const HOUR: u64 = 3_600_000_000_000;

/// The interval between requests at a rate so low that the interval does not pass during a test.
const LONG: u64 = 10 * HOUR;

/// Sends a request on a separate connection. If it passes, it is answered and its connection is
/// reset, so that nothing stays in flight. Returns the response to a refused request, or `None` if
/// the request passed.
#[track_caller]
fn asks_once(programs: &mut Programs, port: u16) -> Option<String> {
    let mut talk = another(programs, port);
    let ran = talk.ask(programs, get("/"));
    assert_eq!(ran.verdict, Verdict::Pass);
    if ran.sent.is_empty() {
        talk.answers(programs, ok(""));
        let reset = talk.server(b"").with_flags(limiter_tests::program::RST);
        talk.run(programs, false, &reset);
        return None;
    }
    Some(ran.answer().text())
}

/// Returns the line of the field `name` in the response.
#[track_caller]
fn field(ran: &str, name: &str) -> String {
    let line = ran.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in {ran}"))
        .trim_end()
        .to_owned()
}

/// Sets the clock, in nanoseconds since the epoch.
fn set_utc(programs: &mut Programs, utc_ns: u64) {
    programs.set_clock(utc_ns.wrapping_sub(boot_ns()));
}

/// Returns the time `hour` hours after the start of `day`, in nanoseconds since the epoch. Half a
/// second is added, so that a test can see how the programs round.
fn moment(day: u64, hour: u64) -> u64 {
    day * DAY_NS + hour * HOUR + 500_000_000
}

fn used(programs: &Programs) -> (u32, u64) {
    let count = DayCount(programs.state(SCOPE).day_count);
    (count.day().0, count.count())
}

#[test]
fn exactly_the_quota_is_admitted_each_day() {
    let mut programs = limited(Limits {
        daily_quota: 3,
        ..no_limits()
    });
    for day in [20_000, 20_001, 20_005] {
        set_utc(&mut programs, moment(day, 23));
        for count in 1..=3 {
            assert_eq!(asks_once(&mut programs, 40_001), None, "day {day}, {count}");
            assert_eq!(used(&programs), (u32::try_from(day).expect("a day"), count));
        }
        for _ in 0..2 {
            // The time of day is set again, because the whole second must not pass.
            set_utc(&mut programs, moment(day, 23));
            let response = asks_once(&mut programs, 40_002).expect("a refusal");
            assert_eq!(field(&response, "Retry-After"), "Retry-After: 3600");
            assert_eq!(
                field(&response, "RateLimit"),
                "RateLimit: \"policy\";r=0;t=3600"
            );
        }
        assert_eq!(used(&programs), (u32::try_from(day).expect("a day"), 3));
    }
    assert_eq!(programs.counter(counter::REFUSED_DAILY_QUOTA), 6);
    assert_eq!(programs.state(SCOPE).refused, [0, 0, 0, 6]);
}

#[test]
fn retry_after_is_the_time_to_midnight_to_the_second() {
    for (before_midnight_ns, seconds) in [
        (86_399_500_000_000, 86_400),
        (61_500_000_000, 62),
        (9_500_000_000, 10),
    ] {
        let mut programs = limited(Limits {
            daily_quota: 0,
            ..no_limits()
        });
        set_utc(&mut programs, 20_001 * DAY_NS - before_midnight_ns);
        let response = asks_once(&mut programs, 40_001).expect("a refusal");
        assert_eq!(
            field(&response, "Retry-After"),
            format!("Retry-After: {seconds}")
        );
    }
}

#[test]
fn clock_set_back_reopens_no_day() {
    let mut programs = limited(Limits {
        daily_quota: 2,
        ..no_limits()
    });
    set_utc(&mut programs, moment(20_000, 12));
    for _ in 0..2 {
        assert_eq!(asks_once(&mut programs, 40_001), None);
    }
    set_utc(&mut programs, moment(19_999, 12));
    assert!(asks_once(&mut programs, 40_001).is_some());
    assert_eq!(used(&programs), (20_000, 2));
    // As long as the clock shows the earlier day, requests count for the later day and use up its
    // quota.
    let day_count = DayCount::new(Day(20_000), 1).0;
    programs.set_state(
        SCOPE,
        ScopeState {
            day_count,
            ..ScopeState::default()
        },
    );
    assert_eq!(asks_once(&mut programs, 40_001), None);
    assert_eq!(used(&programs), (20_000, 2));
    assert!(asks_once(&mut programs, 40_001).is_some());
}

#[test]
fn rate_refusal_states_the_time_to_wait() {
    let mut programs = limited(Limits {
        interval_ns: LONG,
        tolerance_ns: 0,
        ..no_limits()
    });
    assert_eq!(asks_once(&mut programs, 40_001), None);
    let response = asks_once(&mut programs, 40_001).expect("a refusal");
    assert!(response.ends_with("too fast"), "{response}");
    assert_eq!(field(&response, "Retry-After"), "Retry-After: 36000");
    assert_eq!(programs.counter(counter::REFUSED_RATE), 1);
}

#[test]
fn exactly_the_burst_is_admitted() {
    for burst in [1, 2, 5] {
        let tolerance_ns = (burst - 1) * LONG;
        let mut programs = limited(Limits {
            interval_ns: LONG,
            tolerance_ns,
            ..no_limits()
        });
        for count in 1..=burst {
            assert_eq!(asks_once(&mut programs, 40_001), None, "{count} of {burst}");
        }
        assert!(asks_once(&mut programs, 40_001).is_some(), "burst {burst}");
    }
}

#[test]
fn next_request_passes_when_the_interval_is_over() {
    let mut programs = limited(Limits {
        interval_ns: LONG,
        tolerance_ns: 0,
        ..no_limits()
    });
    assert_eq!(asks_once(&mut programs, 40_001), None);
    let state = programs.state(SCOPE);
    let first = state.tat_ns;
    assert!(asks_once(&mut programs, 40_001).is_some());
    // The first request was one interval earlier.
    programs.set_state(
        SCOPE,
        ScopeState {
            tat_ns: first - LONG,
            ..state
        },
    );
    assert_eq!(asks_once(&mut programs, 40_001), None);
    assert!(programs.state(SCOPE).tat_ns >= first);
}

#[test]
fn requests_in_flight_are_limited_and_slots_come_back() {
    let mut programs = limited(Limits {
        concurrency: 2,
        ..no_limits()
    });
    let mut talks: Vec<Talk> = (0..2).map(|n| another(&mut programs, 41_000 + n)).collect();
    for talk in &mut talks {
        talk.asks(&mut programs, get("/"));
    }
    let response = asks_once(&mut programs, 41_010).expect("a refusal");
    assert!(
        response.ends_with("too many requests at once"),
        "{response}"
    );
    assert_eq!(field(&response, "Retry-After"), "Retry-After: 1");
    assert_eq!(programs.counter(counter::REFUSED_CONCURRENCY), 1);
    talks[0].answers(&mut programs, ok("done"));
    assert_eq!(asks_once(&mut programs, 41_010), None);
    assert_eq!(programs.state(SCOPE).in_flight, 1);
}

#[test]
fn connections_over_the_limit_are_refused_and_counted_ones_continue() {
    let mut programs = limited(Limits {
        connections: 1,
        ..no_limits()
    });
    let mut first = another(&mut programs, 41_000);
    first.asks(&mut programs, get("/"));
    first.answers(&mut programs, ok(""));
    let response = asks_once(&mut programs, 41_001).expect("a refusal");
    assert!(response.ends_with("too many connections"), "{response}");
    assert_eq!(programs.counter(counter::REFUSED_CONNECTIONS), 1);
    first.asks(&mut programs, get("/"));
    first.answers(&mut programs, ok(""));
    assert_eq!(programs.state(SCOPE).connections, 1);
    let reset = first.server(b"").with_flags(limiter_tests::program::RST);
    first.run(&mut programs, false, &reset);
    assert_eq!(asks_once(&mut programs, 41_001), None);
}

#[test]
fn a_refusal_charges_nothing() {
    let day = DayCount::new(Day(20_000), 5).0;
    let busy = ScopeState {
        day_count: day,
        in_flight: 2,
        connections: 3,
        ..ScopeState::default()
    };
    let later = ScopeState {
        tat_ns: boot_ns() + LONG,
        ..busy
    };
    let limits = Limits {
        interval_ns: 1_000_000,
        ..no_limits()
    };
    for (what, limits, state, why) in [
        ("rate", limits, later, reason::RATE),
        (
            "concurrency",
            Limits {
                concurrency: 2,
                ..limits
            },
            busy,
            reason::CONCURRENCY,
        ),
        (
            "connections",
            Limits {
                connections: 3,
                ..limits
            },
            busy,
            reason::CONNECTIONS,
        ),
        (
            "quota",
            Limits {
                daily_quota: 5,
                ..limits
            },
            busy,
            reason::DAILY_QUOTA,
        ),
    ] {
        let mut programs = limited(limits);
        set_utc(&mut programs, moment(20_000, 12));
        programs.set_state(SCOPE, state);
        assert!(asks_once(&mut programs, 40_001).is_some(), "{what}");
        let mut expected = state;
        expected.refused[usize::try_from(why).expect("an index")] = 1;
        assert_eq!(programs.state(SCOPE), expected, "{what}");
    }
}

#[test]
fn unlimited_is_no_limit() {
    let mut programs = limited(no_limits());
    let busy = ScopeState {
        in_flight: 1 << 40,
        connections: 1 << 40,
        ..ScopeState::default()
    };
    programs.set_state(SCOPE, busy);
    for _ in 0..100 {
        assert_eq!(asks_once(&mut programs, 40_001), None);
    }
    assert_eq!(programs.state(SCOPE).admitted, 100);
}

#[test]
fn raised_limits_hold_at_once() {
    let mut programs = limited(Limits {
        daily_quota: 1,
        ..no_limits()
    });
    assert_eq!(asks_once(&mut programs, 40_001), None);
    assert!(asks_once(&mut programs, 40_001).is_some());
    programs.limit(
        SCOPE,
        Limits {
            daily_quota: 2,
            ..no_limits()
        },
    );
    assert_eq!(asks_once(&mut programs, 40_001), None);
    assert!(asks_once(&mut programs, 40_001).is_some());
}

#[test]
fn a_refused_client_may_try_again_on_a_new_connection() {
    let mut programs = limited(Limits {
        daily_quota: 0,
        ..no_limits()
    });
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let refusal: RunResult = talk.ask(&mut programs, get("/"));
    assert!(refusal.answer().text().starts_with("HTTP/1.1 429 "));
    programs.limit(SCOPE, no_limits());
    assert_eq!(asks_once(&mut programs, talk.ends.client_port), None);
}
