// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the modes of single scopes, and of overrides that end.

use chrono::TimeDelta;
use limiter_common::abi::LIMITS_OBSERVE;

use super::host::{Host, caller, name, noon};
use crate::{
    domain::limits::Changes,
    protocol::requests::{End, ScopeMode, SetLimits, SetMode},
    store::AuditFilter,
};

fn set(host: &mut Host, scope: &str, mode: ScopeMode) -> String {
    let request = SetMode {
        mode,
        note: "trial".to_owned(),
    };
    let view = host
        .engine()
        .set_mode(&name(scope), &request, &caller(noon()))
        .unwrap();
    view.scope.mode
}

#[test]
fn the_mode_of_a_scope_overrides_its_tiers_and_survives_a_restart() {
    let mut host = Host::new("[policy]\nmode = \"observe\"\n[tiers.profile]\nmode = \"enforce\"\n");
    let (acme, web) = (host.add("acme"), host.add("acme/web"));
    let observes =
        |host: &Host, id: u32| host.plane.tables().limits[&id].flags & LIMITS_OBSERVE != 0;
    assert!(observes(&host, acme) && !observes(&host, web));
    assert_eq!(set(&mut host, "acme", ScopeMode::Enforce), "enforce");
    assert_eq!(set(&mut host, "acme/web", ScopeMode::Observe), "observe");
    assert!(!observes(&host, acme) && observes(&host, web));
    host.start(noon()).unwrap();
    assert!(!observes(&host, acme) && observes(&host, web));
    let shown = host.engine().show_scope(&name("acme/web")).unwrap().scope;
    assert_eq!(
        (&*shown.mode, shown.own_mode.as_deref()),
        ("observe", Some("observe"))
    );
    assert_eq!(set(&mut host, "acme/web", ScopeMode::Tier), "enforce");
    assert!(!observes(&host, web));
    let shown = host.engine().show_scope(&name("acme/web")).unwrap().scope;
    assert_eq!(shown.own_mode, None);
    let filter = AuditFilter {
        object: Some("acme/web".to_owned()),
        since: None,
        limit: 9,
    };
    let message: Vec<_> = host
        .engine()
        .audit_trail(&filter)
        .unwrap()
        .into_iter()
        .filter(|entry| entry.action == "scope mode")
        .map(|entry| (entry.detail, entry.note))
        .collect();
    let trial = || Some("trial".to_owned());
    assert_eq!(
        message,
        [
            ("observe, was tier".to_owned(), trial()),
            ("tier, was observe".to_owned(), trial())
        ]
    );
}

#[test]
fn an_override_that_ended_while_no_daemon_ran_does_not_come_back() {
    let mut host = Host::new("");
    let id = host.add("acme");
    let other = host.add("beta");
    let request = |until| SetLimits {
        limits: Changes {
            burst: Some(5),
            ..Changes::default()
        },
        until: Some(End::At(noon() + until)),
        note: "syncs".to_owned(),
    };
    for (scope, until) in [("acme", TimeDelta::hours(1)), ("beta", TimeDelta::hours(9))] {
        host.engine()
            .set_limits(&name(scope), request(until), &caller(noon()))
            .unwrap();
    }
    let burst = |host: &Host, id: u32| host.plane.tables().limits[&id].tolerance_ns > 0;
    assert!(burst(&host, id) && burst(&host, other));
    host.plane.tables().published.clear();
    host.start(noon() + TimeDelta::hours(2)).unwrap();
    assert!(!burst(&host, id) && burst(&host, other));
    // The start did not publish the ended override at any time.
    let published = host.plane.tables().published.clone();
    assert!(published.iter().any(|(scope, _)| *scope == id));
    assert!(
        published
            .iter()
            .all(|(scope, limits)| *scope != id || limits.tolerance_ns == 0)
    );
    let shown = host.engine().show_scope(&name("acme")).unwrap().scope;
    assert_eq!((shown.limits_override, shown.limits.burst), (None, 1));
}
