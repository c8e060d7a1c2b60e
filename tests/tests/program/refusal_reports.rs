// SPDX-License-Identifier: MIT OR Apache-2.0

//! The reports about refusals that the programs send to the daemon, and the limit on the number of
//! these reports during a flood of refusals.

use std::{net::IpAddr, time::Instant};

use aya::util::nr_cpus;
use limiter_common::abi::{
    KEY_DISABLED, KeyEntry, Limits, NO_SCOPE, REFUSAL_RECORD_RATE, RefusalRecord, counter, policy,
    reason,
};
use limiter_tests::{
    clock::eventually_some,
    program::{Programs, Shape, Talk, digest, no_limits},
};

use crate::support::{KEY, SCOPE, boot_ns, get, get_as, limited};

/// The size in bytes of a [`RefusalRecord`] in the ring buffer, including a header of
/// `BPF_RINGBUF_HDR_SZ` bytes (kernel/bpf/ringbuf.c).
const RECORD: u64 = 64;
/// The size of the ring buffer in these tests, in bytes.
const RING: u64 = 4096;

fn limited_to_no_requests() -> Programs {
    limited(Limits {
        daily_quota: 0,
        ..no_limits()
    })
}

fn ask(programs: &mut Programs, shape: &Shape, request: &str) -> Talk {
    let mut talk = Talk::open(programs, shape.clone());
    let segment = talk.client(request.as_bytes());
    talk.run(programs, true, &segment);
    talk
}

/// Sends requests until the programs report a refusal. It may take several requests, because a CPU
/// that has reported many refusals reports none for a short time.
fn refusal_report(programs: &mut Programs, shape: &Shape, request: &str) -> (RefusalRecord, Talk) {
    eventually_some("a refusal is reported", || {
        programs.object_mut().maps.refusal_records();
        let talk = ask(programs, shape, request);
        let reports = programs.object_mut().maps.refusal_records();
        assert!(reports.len() <= 1, "{reports:?}");
        reports.first().map(|report| (*report, talk.clone()))
    })
}

/// Returns an address in the form in which the programs store it.
fn words(address: IpAddr) -> [u32; 4] {
    let bytes = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    [word(0), word(4), word(8), word(12)]
}

#[test]
fn refusal_record_names_scope_key_client_and_reason() {
    let mut programs = limited_to_no_requests();
    programs.configure(|config| {
        config.missing_key = policy::REJECT;
        config.unknown_key = policy::REJECT;
    });
    let disabled = KeyEntry {
        scope: SCOPE,
        flags: KEY_DISABLED,
        last_used_ns: 0,
    };
    programs.key("disabled", disabled);
    let none = [0; 2];
    for shape in [Shape::v4(), Shape::v6()] {
        for (request, scope, why, key) in [
            (get("/"), SCOPE, reason::DAILY_QUOTA, digest(KEY)),
            // This request has no key, so its record must not contain the key of the request before
            // it, which is still in the scratch memory.
            (
                "GET / HTTP/1.1\r\n\r\n".to_owned(),
                NO_SCOPE,
                reason::MISSING_KEY,
                none,
            ),
            (
                get_as("nobody", "/"),
                NO_SCOPE,
                reason::UNKNOWN_KEY,
                digest("nobody"),
            ),
            (
                "GET  / HTTP/1.1\n \r\n\r\n".to_owned(),
                NO_SCOPE,
                reason::MALFORMED,
                none,
            ),
            (
                get_as("disabled", "/"),
                NO_SCOPE,
                reason::DISABLED_KEY,
                digest("disabled"),
            ),
        ] {
            let before = boot_ns();
            let (refused, talk) = refusal_report(&mut programs, &shape, &request);
            assert_eq!(
                (refused.scope, refused.reason, refused.key),
                (scope, why, key),
                "{request}"
            );
            assert_eq!(refused.client, words(talk.ends.client), "{request}");
            assert_eq!(u16::from_be(refused.client_port), talk.ends.client_port);
            assert!(refused.at_ns >= before, "{refused:?}");
        }
    }
}

#[test]
fn admitted_and_observed_requests_are_not_reported() {
    let mut programs = limited(Limits {
        daily_quota: 1,
        flags: no_limits().flags | limiter_common::abi::LIMITS_OBSERVE,
        ..no_limits()
    });
    for _ in 0..3 {
        ask(&mut programs, &Shape::v4(), &get("/"));
    }
    assert_eq!(programs.object_mut().maps.refusal_records(), []);
}

#[test]
fn flood_is_counted_completely_and_reported_in_part() {
    const FLOOD: u64 = 3000;
    let mut programs = limited_to_no_requests();
    let start = Instant::now();
    let mut reported = 0;
    for _ in 0..FLOOD {
        ask(&mut programs, &Shape::v4(), &get("/"));
        reported += programs.object_mut().maps.refusal_records().len() as u64;
    }
    let interval = u128::from(REFUSAL_RECORD_RATE.interval_ns);
    let since = u64::try_from(start.elapsed().as_nanos() / interval).expect("a short time");
    let at_once = REFUSAL_RECORD_RATE.tolerance_ns / REFUSAL_RECORD_RATE.interval_ns + 1;
    // Ten more are allowed, because the programs use a coarse clock, which can be one tick late.
    let bound = (at_once + since + 10) * nr_cpus().expect("the number of CPUs") as u64;
    assert!(
        (1..=bound).contains(&reported),
        "{reported} were reported, at most {bound} expected"
    );
    // On a very slow machine, the requests may arrive too slowly for a flood, and then all refusals
    // may be reported.
    assert!(
        reported < FLOOD || bound >= FLOOD,
        "all {reported} were reported"
    );
    assert_eq!(programs.state(SCOPE).refused, [0, 0, 0, FLOOD]);
    assert_eq!(programs.counter(counter::REFUSED_DAILY_QUOTA), FLOOD);
    assert_eq!(programs.counter(counter::EVENTS_LOST), 0);
}

#[test]
fn reports_without_room_are_counted_as_lost_and_affect_no_other_events() {
    let mut programs = limited_to_no_requests();
    let room = RING / RECORD;
    eventually_some("the ring is full", || {
        ask(&mut programs, &Shape::v4(), &get("/"));
        (programs.counter(counter::EVENTS_LOST) > 0).then_some(())
    });
    let lost = programs.counter(counter::EVENTS_LOST);
    assert_eq!(lost, 1);
    // Events that affect counts have a ring buffer of their own, so a full ring of refusals does
    // not suppress them.
    programs.attend_until(u64::MAX);
    programs.limit(
        SCOPE,
        Limits {
            daily_quota: 5,
            allowed: 0,
            ahead: 1,
            ..no_limits()
        },
    );
    ask(&mut programs, &Shape::v4(), &get("/"));
    assert_eq!(programs.object_mut().maps.take_events().len(), 1);
    let reported = programs.object_mut().maps.refusal_records().len() as u64;
    // The last bytes of the ring buffer always stay free.
    assert!(
        (room - 1..=room).contains(&reported),
        "{reported} of {room}"
    );
    let refused = programs.state(SCOPE).refused[3];
    assert!(
        reported + lost <= refused,
        "{reported} and {lost} of {refused}"
    );
}
