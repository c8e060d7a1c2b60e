// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the explanations of why requests pass or are refused.

use chrono::{DateTime, TimeDelta, Utc};
use limiter_common::day::DayCount;

use super::host::{Host, TODAY, at, caller, name, noon};
use crate::{
    domain::{bound::Bound, limits::Changes},
    kernel::boot_ns,
    protocol::{
        insight::{ExplainView, Verdict},
        requests::{End, SetLimits},
    },
};

/// Returns a host whose clock shows noon.
fn host(config: &str) -> Host {
    let mut host = Host::new(config);
    set_utc(&mut host, noon());
    host
}

pub(super) fn set_utc(host: &mut Host, utc: DateTime<Utc>) {
    let utc_ns = utc.timestamp_nanos_opt().unwrap().unsigned_abs();
    let offset = utc_ns.wrapping_sub(boot_ns());
    host.engine().clock.words().set_utc_offset_ns(offset);
}

fn explain(host: &mut Host) -> ExplainView {
    host.engine().explain("acme").unwrap()
}

fn verdict(host: &mut Host) -> (Verdict, Option<String>) {
    let view = explain(host);
    (view.verdict, view.reason)
}

fn refused(reason: &str) -> (Verdict, Option<String>) {
    (Verdict::Refused, Some(reason.to_owned()))
}

const PASSES: (Verdict, Option<String>) = (Verdict::Passes, None);

#[test]
fn limits_are_checked_in_the_programs_order() {
    let mut host = host("[tiers.master]\ndaily_quota = 10\nconnections = 3\nconcurrency = 2\n");
    let id = host.add("acme");
    host.engine().tick(noon());
    assert_eq!(verdict(&mut host), PASSES);
    let set = |host: &Host, change: fn(&mut limiter_common::abi::ScopeState)| {
        change(host.plane.tables().state.entry(id).or_default());
    };
    let later = boot_ns() + 3_600_000_000_000;
    host.plane.tables().state.entry(id).or_default().tat_ns = later;
    assert_eq!(verdict(&mut host), refused("rate"));
    let view = explain(&mut host);
    let wait = view.until.unwrap() - view.at;
    assert!(
        (TimeDelta::minutes(59)..TimeDelta::minutes(61)).contains(&wait),
        "{wait}"
    );
    // The rate is one request per millisecond, so the next request can pass one millisecond after
    // the last one.
    let rate = view.limits.last().unwrap();
    assert_eq!(
        rate.until.unwrap() - rate.since.unwrap(),
        TimeDelta::milliseconds(1)
    );

    set(&host, |state| state.in_flight = 2);
    assert_eq!(verdict(&mut host), refused("concurrency"));
    set(&host, |state| state.connections = 3);
    assert_eq!(verdict(&mut host), refused("connections"));
    set(&host, |state| state.day_count = DayCount::new(TODAY, 10).0);
    let view = explain(&mut host);
    assert_eq!(view.reason.as_deref(), Some("daily_quota"));
    assert_eq!(view.until, Some(at("2026-11-25T00:00:00Z")));
    assert!(view.limits.iter().all(|limit| limit.reached), "{view:#?}");
    // On the next day, the count is zero even before the first request.
    set_utc(&mut host, at("2026-11-25T00:00:01Z"));
    assert_eq!(verdict(&mut host), refused("connections"));
}

#[test]
fn since_is_the_time_that_the_daemon_has_seen() {
    let mut host = host("[tiers.master]\ndaily_quota = 10\n");
    let id = host.add("acme");
    host.engine().tick(noon());
    host.plane.admit(id, TODAY, 10);
    let then = noon() + TimeDelta::seconds(5);
    host.engine().tick(then);
    host.engine().tick(then + TimeDelta::seconds(5));
    assert_eq!(explain(&mut host).since, Some(then));
    // A daemon that started after the quota was used up does not know the time at which this
    // happened.
    host.start(noon()).unwrap();
    set_utc(&mut host, noon());
    let view = explain(&mut host);
    assert_eq!((view.verdict, view.since), (Verdict::Refused, None));
}

#[test]
fn a_request_that_waits_for_the_store_is_refused_only_when_the_store_fails() {
    for (unattended, then) in [("pass", PASSES), ("reject", refused("daily_quota"))] {
        let mut host = host(&format!("[accounting]\nunattended = \"{unattended}\"\n"));
        let id = host.add("acme");
        host.engine().tick(noon());
        host.plane.admit(id, TODAY, 5);
        host.plane
            .tables()
            .allowed
            .insert(id, DayCount::new(TODAY, 5));
        assert_eq!(verdict(&mut host), (Verdict::Held, None));
        host.engine().clock.words().leave();
        assert_eq!(verdict(&mut host), then, "{unattended}");
    }
}

#[test]
fn an_override_ends_before_the_daemon_notices() {
    let mut host = host("");
    let id = host.add("acme");
    let until = noon() + TimeDelta::hours(1);
    let limits_override = SetLimits {
        limits: Changes {
            daily_quota: Some(Bound::At(5)),
            ..Changes::default()
        },
        until: Some(End::At(until)),
        note: "a trial".to_owned(),
    };
    host.engine()
        .set_limits(&name("acme"), limits_override, &caller(noon()))
        .unwrap();
    host.plane.admit(id, TODAY, 5);
    let view = explain(&mut host);
    // Requests pass again at the end of the override, which is earlier than the end of the day.
    assert_eq!((view.verdict, view.until), (Verdict::Refused, Some(until)));
    assert_eq!(view.limits[0].from, "override");
    set_utc(&mut host, until);
    // The allowance is used up, so the next request waits for the store.
    assert_eq!(verdict(&mut host), (Verdict::Held, None));
    host.plane
        .tables()
        .allowed
        .insert(id, DayCount::new(TODAY, 50));
    let view = explain(&mut host);
    assert_eq!(
        (view.verdict, view.limits_override),
        (Verdict::Passes, None)
    );
    assert_eq!(
        (view.limits[0].value.as_u64(), view.limits[0].from.as_str()),
        (Some(10_000), "tier")
    );
}

#[test]
fn requests_of_observed_scopes_are_not_refused() {
    for (config, from) in [
        (
            "[policy]\nmode = \"observe\"\n[tiers.master]\ndaily_quota = 0\n",
            "policy",
        ),
        (
            "[tiers.master]\ndaily_quota = 0\nmode = \"observe\"\n",
            "tier",
        ),
    ] {
        let mut host = host(config);
        host.add("acme");
        let view = explain(&mut host);
        assert_eq!((view.verdict, view.status), (Verdict::Observed, None));
        assert_eq!(view.reason.as_deref(), Some("daily_quota"));
        assert_eq!(view.mode_from.as_deref(), Some(from));
    }
}

#[test]
fn an_unknown_object_is_answered_with_a_similar_name() {
    let mut host = host("");
    host.add("acme");
    for (object, words) in [
        ("acem", "did you mean `acme`?"),
        ("a b", "there is no key with that id either"),
    ] {
        let error = host.engine().explain(object).unwrap_err();
        assert!(error.message.contains(words), "{}", error.message);
    }
}
