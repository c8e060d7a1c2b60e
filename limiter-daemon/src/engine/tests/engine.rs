// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the effects of operators' commands on the store and the kernel.

use limiter_common::abi::{
    KEY_DISABLED, KeyEntry, LIMITS_IN_USE, LIMITS_OBSERVE, UNLIMITED, reason,
};

use super::{
    host::{Host, at, caller, clear, name, noon},
    plane::NoLarger,
};
use crate::{
    config::Tables,
    domain::{bound::Bound, limits::Changes},
    protocol::{
        error::Kind,
        requests::{AddScope, CreateKey, End, SetLimits},
    },
};

fn set(changes: Changes) -> SetLimits {
    SetLimits {
        limits: changes,
        until: None,
        note: "why".to_owned(),
    }
}

#[test]
fn a_scope_gets_its_tiers_limits_and_texts() {
    let mut host = Host::new("");
    let id = host.add("acme/web");
    let limits = host.plane.tables().limits[&id];
    assert_eq!(limits.flags, LIMITS_IN_USE);
    assert_eq!(
        (limits.daily_quota, limits.concurrency, limits.connections),
        (1000, 20, UNLIMITED)
    );
    assert_eq!((limits.interval_ns, limits.tolerance_ns), (1_000_000, 0));
    let tables = host.plane.tables();
    for reason in 0..reason::LIMITS {
        assert!(
            tables.texts[&(limits.text_set, reason)].contains("\"daily-quota\";q=1000;w=86400")
        );
    }
    let common = tables.config.unwrap().common_texts;
    assert!(tables.texts[&(common, reason::MISSING_KEY)].starts_with("HTTP/1.1 401"));
}

#[test]
fn a_reload_changes_the_texts_with_the_way_of_refusing() {
    let mut host = Host::new("");
    let id = host.add("acme/web");
    let connections = |host: &Host| {
        let tables = host.plane.tables();
        let (scope, common) = (
            tables.limits[&id].text_set,
            tables.config.unwrap().common_texts,
        );
        [
            (scope, reason::RATE),
            (common, reason::MISSING_KEY),
            (common, reason::MALFORMED),
        ]
        .map(|key| tables.texts[&key].contains("\r\nConnection: keep-alive\r\n"))
    };
    assert_eq!(connections(&host), [true, true, false]);
    for (on_limit, keeps) in [("close", false), ("keepalive", true), ("reset", false)] {
        host.configure(&format!("[policy]\non_limit = \"{on_limit}\"\n"));
        host.engine().reload(&caller(noon())).unwrap();
        // The end of a malformed request is unknown, so its connection never goes on.
        assert_eq!(connections(&host), [keeps, keeps, false], "{on_limit}");
    }
}

#[test]
fn scopes_of_one_tier_share_a_text_set_and_unused_sets_go() {
    let mut host = Host::new("");
    let (one, other) = (host.add("a/x"), host.add("a/y"));
    let set_of = |host: &Host, id: u32| host.plane.tables().limits[&id].text_set;
    assert_eq!(set_of(&host, one), set_of(&host, other));
    let texts = host.plane.tables().texts.len();
    let more = Changes {
        daily_quota: Some(Bound::At(5000)),
        ..Changes::default()
    };
    host.engine()
        .set_limits(&name("a/x"), set(more), &caller(noon()))
        .unwrap();
    assert_ne!(set_of(&host, one), set_of(&host, other));
    assert_eq!(host.plane.tables().texts.len(), texts + 4);
    host.engine()
        .clear_limits(&name("a/x"), &clear("done"), &caller(noon()))
        .unwrap();
    assert_eq!(host.plane.tables().texts.len(), texts);
}

#[test]
fn a_new_daemon_gives_scopes_the_text_sets_they_have() {
    let mut host = Host::new("");
    let ids = [host.add("acme"), host.add("acme/web")];
    let sets = |host: &Host| ids.map(|id| host.plane.tables().limits[&id].text_set);
    let before = sets(&host);
    host.start(noon()).unwrap();
    assert_eq!(sets(&host), before);
}

#[test]
fn unknown_scopes_and_tiers_are_answered_with_the_nearest_names() {
    let mut host = Host::new("");
    host.add("acme/web");
    let error = host.engine().show_scope(&name("acme/wbe")).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(
        error.message.contains("did you mean `acme/web`?"),
        "{}",
        error.message
    );
    let request = AddScope {
        scope: name("b"),
        tier: Some("mastr".to_owned()),
    };
    let error = host
        .engine()
        .add_scope(request, &caller(noon()))
        .unwrap_err();
    assert!(
        error.message.contains("did you mean `master`?"),
        "{}",
        error.message
    );
    let request = AddScope {
        scope: name("acme/web"),
        tier: None,
    };
    let error = host
        .engine()
        .add_scope(request, &caller(noon()))
        .unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
}

#[test]
fn overrides_take_effect_and_end_by_themselves() {
    let mut host = Host::new("");
    let id = host.add("acme/web");
    let changes = Changes {
        daily_quota: Some(Bound::At(5000)),
        rate: Some(Bound::Unlimited),
        ..Changes::default()
    };
    let request = SetLimits {
        until: Some(End::At(at("2026-11-24T13:00:00Z"))),
        ..set(changes)
    };
    let view = host
        .engine()
        .set_limits(&name("acme/web"), request, &caller(noon()))
        .unwrap();
    let limits_override = serde_json::to_value(view.scope.limits_override.unwrap()).unwrap();
    assert_eq!(
        limits_override,
        serde_json::json!({
            "daily_quota": 5000, "rate": null, "until": "2026-11-24T13:00:00Z", "note": "why",
            "terms": {
                "daily_quota": {"until": "2026-11-24T13:00:00Z", "note": "why"},
                "rate": {"until": "2026-11-24T13:00:00Z", "note": "why"},
            },
        })
    );
    let limits = |host: &Host| host.plane.tables().limits[&id];
    assert_eq!(
        (limits(&host).daily_quota, limits(&host).interval_ns),
        (5000, 0)
    );
    host.engine().tick(at("2026-11-24T12:59:59Z"));
    assert_eq!(limits(&host).daily_quota, 5000);
    host.engine().tick(at("2026-11-24T13:00:00Z"));
    assert_eq!(
        (limits(&host).daily_quota, limits(&host).interval_ns),
        (1000, 1_000_000)
    );
    host.start(noon()).unwrap();
    assert_eq!(limits(&host).daily_quota, 1000);
}

#[test]
fn bad_overrides_change_nothing() {
    let mut host = Host::new("");
    host.add("acme");
    let past = SetLimits {
        until: Some(End::At(at("2026-11-24T11:00:00Z"))),
        ..set(Changes {
            burst: Some(2),
            ..Changes::default()
        })
    };
    for request in [
        set(Changes::default()),
        set(Changes {
            burst: Some(0),
            ..Changes::default()
        }),
        set(Changes {
            concurrency: Some(Bound::At(0)),
            ..Changes::default()
        }),
        past,
    ] {
        let error = host
            .engine()
            .set_limits(&name("acme"), request, &caller(noon()))
            .unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{}", error.message);
        assert_eq!(
            host.engine()
                .show_scope(&name("acme"))
                .unwrap()
                .scope
                .limits_override,
            None
        );
    }
}

#[test]
fn a_scope_with_active_keys_is_removed_only_on_demand() {
    let mut host = Host::new("");
    host.add("acme");
    let request = CreateKey {
        scope: name("acme"),
        label: None,
        until: None,
        note: None,
    };
    host.engine().create_key(request, &caller(noon())).unwrap();
    let error = host
        .engine()
        .remove_scope(&name("acme"), false, &caller(noon()))
        .unwrap_err();
    assert!(error.message.contains("--with-keys"), "{}", error.message);
    host.engine()
        .remove_scope(&name("acme"), true, &caller(noon()))
        .unwrap();
    let keys: Vec<KeyEntry> = host.plane.tables().keys.values().copied().collect();
    assert_eq!((keys.len(), keys[0].flags), (1, KEY_DISABLED));
}

#[test]
fn ids_of_removed_scopes_come_back_when_nothing_holds_them() {
    let mut host = Host::new("[tables]\nscopes = 64\n");
    let ids: Vec<u32> = (0..64).map(|n| host.add(&format!("s{n}"))).collect();
    assert_eq!(ids, (0..64).collect::<Vec<u32>>());
    let request = AddScope {
        scope: name("more"),
        tier: None,
    };
    let error = host
        .engine()
        .add_scope(request, &caller(noon()))
        .unwrap_err();
    assert!(error.message.contains("tables.scopes"), "{}", error.message);
    host.plane.tables().state.entry(5).or_default().in_flight = 1;
    host.engine()
        .remove_scope(&name("s5"), false, &caller(noon()))
        .unwrap();
    let request = AddScope {
        scope: name("more"),
        tier: None,
    };
    assert!(host.engine().add_scope(request, &caller(noon())).is_err());
    host.plane.tables().state.entry(5).or_default().in_flight = 0;
    assert_eq!(host.add("more"), 5);
}

#[test]
fn a_reload_applies_and_a_bad_one_changes_nothing() {
    let mut host = Host::new("[tiers.gold]\ndaily_quota = 5\nrate = \"1/s\"\n");
    let request = AddScope {
        scope: name("acme"),
        tier: Some("gold".to_owned()),
    };
    host.engine().add_scope(request, &caller(noon())).unwrap();
    let quota = |host: &Host| host.plane.tables().limits[&0].daily_quota;
    host.configure("[policy]\nmode = \"observe\"\n[tiers.gold]\ndaily_quota = 6\nrate = \"1/s\"\n");
    let report = host.engine().reload(&caller(noon())).unwrap();
    assert!(
        report.done.contains(&"tier gold has changed".to_owned()),
        "{:?}",
        report.done
    );
    assert_eq!(quota(&host), 6);
    assert_eq!(
        host.plane.tables().limits[&0].flags,
        LIMITS_IN_USE | LIMITS_OBSERVE
    );
    for bad in [
        "[policy]\nmode = \"x\"\n[tiers.gold]\ndaily_quota = 7\nrate = \"1/s\"\n",
        "",
    ] {
        host.configure(bad);
        let error = host.engine().reload(&caller(noon())).unwrap_err();
        assert_eq!(error.kind, Kind::InvalidConfiguration);
        assert_eq!(quota(&host), 6);
    }
    assert!(
        host.start(noon())
            .is_err_and(|error| error.kind == Kind::InvalidConfiguration),
        "a tier that scopes have is missing"
    );
    host.configure("[tables]\nflows = 100\n[tiers.gold]\ndaily_quota = 8\nrate = \"1/s\"\n");
    host.start(noon()).unwrap();
    host.configure("[tables]\nflows = 200\n[tiers.gold]\ndaily_quota = 9\nrate = \"1/s\"\n");
    let report = host.engine().reload(&caller(noon())).unwrap();
    assert!(
        report.warnings[0].contains("`tables.flows` from 100 to 200"),
        "{:?}",
        report.warnings
    );
    assert_eq!(quota(&host), 9);
}

#[test]
fn tables_that_cannot_be_made_larger_stay_as_they_are_and_are_reported() {
    let mut host = Host::new("[tables]\nflows = 100\n");
    let wanted = Tables {
        flows: 200,
        ..host.engine().setup.config().tables
    };
    let problem = |host: &mut Host| {
        let health = host.engine().health();
        let tables = health.iter().find(|health| health.part == "tables");
        tables.map(|health| health.message.clone())
    };
    for (fails, prepared) in [(NoLarger::Prepared, false), (NoLarger::Made, true)] {
        host.plane.tables().no_larger = Some(fails);
        assert_eq!(host.engine().prepare_tables(&wanted), prepared);
        if prepared {
            host.engine().make_tables_larger(&wanted).unwrap();
        }
        let message = problem(&mut host).unwrap();
        assert!(
            message.contains("`tables.flows` from 100 to 200"),
            "{message}"
        );
        assert_eq!(host.engine().setup.config().tables.flows, 100);
        // After a reload, the health still reports the problem.
        host.configure("[tables]\nflows = 200\n");
        let report = host.engine().reload(&caller(noon())).unwrap();
        assert!(report.warnings[0].contains("a restart"), "{report:?}");
        assert_eq!(problem(&mut host), Some(message));
    }
    host.plane.tables().no_larger = None;
    assert!(host.engine().prepare_tables(&wanted));
    host.engine().make_tables_larger(&wanted).unwrap();
    assert_eq!(host.engine().setup.config().tables, wanted);
    assert_eq!(problem(&mut host), None);
    // A smaller size is reported as long as it differs from the size in force.
    host.configure("[tables]\nflows = 64\n");
    let report = host.engine().reload(&caller(noon())).unwrap();
    assert!(report.warnings[0].contains("stays 200"), "{report:?}");
    assert!(problem(&mut host).is_some_and(|message| message.contains("limiter detach")));
    host.configure("[tables]\nflows = 200\n");
    assert_eq!(
        host.engine()
            .reload(&caller(noon()))
            .unwrap()
            .warnings
            .len(),
        0
    );
    assert_eq!(problem(&mut host), None);
}
