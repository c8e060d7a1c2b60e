// SPDX-License-Identifier: MIT OR Apache-2.0

//! Limits of scopes' own, each with an end of its own, and scopes that move to another tier.

use chrono::TimeDelta;
use limiter_common::{abi, day::DayCount};
use serde_json::json;

use super::{
    explain::set_utc,
    host::{Host, TODAY, caller, clear, name, noon},
};
use crate::{
    domain::limits::LimitName,
    protocol::{
        error::Kind,
        requests::{ClearLimits, SetLimits, SetTier},
        views::ChangedScope,
    },
    store::AuditFilter,
};

const GOLD: &str =
    "[tiers.gold]\ndaily_quota = 50000\nrate = \"1/ms\"\nburst = 7\nconcurrency = 20\n";

fn set(host: &mut Host, limits: serde_json::Value, hours: Option<i64>, note: &str) -> ChangedScope {
    let mut request = json!({"limits": limits, "note": note});
    if let Some(hours) = hours {
        request["until"] = json!(noon() + TimeDelta::hours(hours));
    }
    let request: SetLimits = serde_json::from_value(request).unwrap();
    let acme = name("acme");
    host.engine()
        .set_limits(&acme, request, &caller(noon()))
        .unwrap()
}

fn limits(host: &Host, id: u32) -> abi::Limits {
    host.plane.tables().limits[&id]
}

fn changed(view: &ChangedScope) -> Vec<String> {
    let changed = view.changed.iter();
    changed
        .map(|one| format!("{} {} {}", one.what, one.from, one.to))
        .collect()
}

fn details(host: &mut Host) -> Vec<String> {
    let everything = AuditFilter {
        object: Some("acme".to_owned()),
        since: None,
        limit: 100,
    };
    let trail = host.engine().store.audit_trail(&everything).unwrap();
    let entries = trail.into_iter();
    entries
        .map(|entry| {
            let note = entry.note.unwrap_or_default();
            format!("{}: {}: {note}", entry.action, entry.detail)
        })
        .collect()
}

#[test]
fn each_limit_ends_at_its_own_time() {
    let mut host = Host::new("");
    let id = host.add("acme");
    set(&mut host, json!({"daily_quota": 20000}), Some(3), "a sync");
    set(&mut host, json!({"burst": 5}), Some(1), "a test");
    set(&mut host, json!({"concurrency": 40}), None, "for good");
    set(&mut host, json!({"connections": 9}), Some(3), "a sync");

    // The kernel programs know all ends, so that no daemon is needed.
    let hour = |hours| u32::try_from((noon() + TimeDelta::hours(hours)).timestamp()).unwrap();
    let ended = host.plane.tables().ended[&id];
    let words = |limits: &abi::Limits| {
        let burst = limits.tolerance_ns / 1_000_000;
        (
            limits.until_s,
            limits.daily_quota,
            burst,
            limits.concurrency,
        )
    };
    let now = limits(&host, id);
    let stages: Vec<_> = [&now].into_iter().chain(&ended.stages).map(words).collect();
    let unused = words(&abi::Limits::default());
    assert_eq!(
        stages,
        [
            (hour(1), 20_000, 4, 40),
            (hour(3), 20_000, 0, 40),
            (0, 10_000, 0, 40),
            unused,
            unused,
            unused
        ]
    );

    host.engine().tick(noon() + TimeDelta::hours(1));
    assert_eq!(words(&limits(&host, id)), (hour(3), 20_000, 0, 40));
    host.start(noon() + TimeDelta::hours(2)).unwrap();
    let shown = host.engine().show_scope(&name("acme")).unwrap().scope;
    let view = serde_json::to_value(shown.limits_override.unwrap()).unwrap();
    let end = "2026-11-24T15:00:00Z";
    assert_eq!(
        view,
        json!({
            "daily_quota": 20000, "concurrency": 40, "connections": 9, "until": end,
            "note": "a sync; for good",
            "terms": {
                "daily_quota": {"until": end, "note": "a sync"},
                "concurrency": {"until": null, "note": "for good"},
                "connections": {"until": end, "note": "a sync"},
            },
        })
    );
    host.engine().tick(noon() + TimeDelta::hours(3));
    assert_eq!(words(&limits(&host, id)), (0, 10_000, 0, 40));
    assert!(!host.plane.tables().ended.contains_key(&id));
    assert_eq!(
        details(&mut host)[5..],
        [
            "limits clear: burst 5 to 1, as the tier: its end has passed",
            "limits clear: daily_quota 20000 to 10000, as the tier; \
             connections 9 to unlimited, as the tier: its end has passed",
        ]
    );
}

#[test]
fn an_explanation_knows_which_limits_have_ended() {
    let mut host = Host::new("");
    let id = host.add("acme");
    set(&mut host, json!({"daily_quota": 5}), Some(2), "a sync");
    set(&mut host, json!({"burst": 5}), Some(1), "a test");
    host.plane.admit(id, TODAY, 5);
    for (hours, names) in [(0, 2), (1, 1), (2, 0)] {
        set_utc(&mut host, noon() + TimeDelta::hours(hours));
        let allowed = DayCount::new(TODAY, 50);
        host.plane.tables().allowed.insert(id, allowed);
        let view = host.engine().explain("acme").unwrap();
        let own = view.limits_override;
        assert_eq!(own.map_or(0, |own| own.terms.len()), names, "{hours}");
        let quota = if hours < 2 { 5 } else { 10_000 };
        assert_eq!(view.limits[0].value, quota, "{hours}");
    }
}

#[test]
fn a_change_names_the_old_and_the_new_values() {
    let mut host = Host::new("");
    host.add("acme");
    let view = set(&mut host, json!({"daily_quota": 20000}), Some(3), "a sync");
    assert_eq!(changed(&view), ["daily_quota 10000 20000"]);
    let view = set(
        &mut host,
        json!({"burst": 5, "daily_quota": 30000}),
        None,
        "more",
    );
    assert_eq!(
        changed(&view),
        [
            "daily_quota 20000 30000",
            "daily_quota.note \"a sync\" \"more\"",
            "burst 1 5"
        ]
    );
    let [warning] = &view.warnings[..] else {
        panic!("{:?}", view.warnings)
    };
    assert!(warning.contains("daily_quota still ends at 2026-11-24T15:00:00Z"));
    assert_eq!(
        details(&mut host)[1..],
        [
            "limits set: daily_quota 10000 to 20000, until 2026-11-24T15:00:00Z: a sync",
            "limits set: daily_quota 20000 to 30000, until 2026-11-24T15:00:00Z; \
             burst 1 to 5: more",
        ]
    );
}

#[test]
fn one_limit_can_be_ended_alone() {
    let mut host = Host::new("");
    let id = host.add("acme");
    set(
        &mut host,
        json!({"daily_quota": 20000, "burst": 5}),
        Some(3),
        "a sync",
    );
    let acme = name("acme");
    let end = |host: &mut Host, names: &[LimitName]| {
        let request = ClearLimits {
            limits: names.to_vec(),
            ..clear("over")
        };
        host.engine().clear_limits(&acme, &request, &caller(noon()))
    };
    let error = end(&mut host, &[LimitName::DailyQuota, LimitName::Rate]).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(
        error
            .message
            .contains("no rate of its own, only daily_quota, burst")
    );
    let view = end(&mut host, &[LimitName::DailyQuota]).unwrap();
    assert_eq!(changed(&view), ["daily_quota 20000 10000"]);
    let now = limits(&host, id);
    assert_eq!((now.daily_quota, now.tolerance_ns), (10_000, 4_000_000));
    assert_ne!(now.until_s, 0);
    let view = end(&mut host, &[LimitName::Burst]).unwrap();
    assert_eq!(view.scope.limits_override, None);
    assert_eq!(limits(&host, id).until_s, 0);
    assert!(end(&mut host, &[]).is_err());
}

#[test]
fn a_scope_in_another_tier_keeps_its_count_and_its_own_limits() {
    let mut host = Host::new(GOLD);
    let id = host.add("acme");
    set(&mut host, json!({"burst": 5}), Some(3), "a test");
    host.plane.admit(id, TODAY, 7);
    let request = |tier: &str| SetTier {
        tier: tier.to_owned(),
        note: "contract 17".to_owned(),
    };
    let acme = name("acme");
    let by = caller(noon());
    let error = host.engine().set_tier(&acme, &request("golf"), &by);
    assert!(error.unwrap_err().message.contains("did you mean `gold`"));
    let view = host
        .engine()
        .set_tier(&acme, &request("gold"), &by)
        .unwrap();
    assert_eq!(
        changed(&view),
        ["tier \"master\" \"gold\"", "daily_quota 10000 50000"]
    );
    for _ in 0..2 {
        let now = limits(&host, id);
        assert_eq!((now.daily_quota, now.tolerance_ns), (50_000, 4_000_000));
        assert_eq!(
            host.plane.tables().ended[&id].stages[0].tolerance_ns,
            6_000_000
        );
        let usage = host.engine().usage_of(&acme, None, noon()).unwrap();
        assert_eq!(usage.used, 7);
        host.start(noon()).unwrap();
    }
    assert_eq!(
        details(&mut host).last().unwrap(),
        "scope set: tier master to gold: contract 17"
    );
}
