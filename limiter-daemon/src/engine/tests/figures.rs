// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the numbers on the metrics page.

use limiter_common::{abi::ScopeState, day::DayCount};

use super::{
    host::{Host, TODAY, caller, name, noon},
    plane::MemoryPlane,
};
use crate::{
    domain::refusals::Refusals,
    engine::counts::figures::{Figures, TierFigures},
    kernel::Plane as _,
};

/// Takes the figures, reading two scopes at a time.
pub(crate) fn figures(host: &mut Host) -> Figures {
    let engine = host.engine();
    let mut survey = engine.begin_survey(noon());
    while !engine.survey(&mut survey, 2) {}
    engine.figures(survey).unwrap()
}

/// Returns three numbers for a tier: the admitted requests, the requests refused because of the
/// rate, and the requests that enforcement would have refused because of the quota.
fn sums(figures: &Figures, tier: &str) -> [u64; 3] {
    let TierFigures {
        admitted,
        refused,
        would_refuse,
        ..
    } = figures.tiers[tier];
    [admitted, refused.rate, would_refuse.daily_quota]
}

/// Sets the counters of a scope in the kernel.
fn count(host: &Host, id: u32, admitted: u64, refused: u64, would_refuse: u64) {
    let state = ScopeState {
        day_count: DayCount::new(TODAY, admitted).0,
        admitted,
        refused: [refused, 0, 0, 0],
        would_refuse: [0, 0, 0, would_refuse],
        ..ScopeState::default()
    };
    host.plane.tables().state.insert(id, state);
}

fn remove(host: &mut Host, scope: &str) {
    let engine = host.engine();
    engine
        .remove_scope(&name(scope), true, &caller(noon()))
        .unwrap();
}

fn names(top: &[crate::engine::counts::figures::TopScope]) -> Vec<(&str, f64)> {
    top.iter()
        .map(|top| (top.scope.as_str(), top.value))
        .collect()
}

#[test]
fn removed_scopes_stay_in_the_sums_of_their_tier() {
    let mut host = Host::new("");
    let (web, app) = (host.add("acme/web"), host.add("acme/app"));
    let acme = host.add("acme");
    count(&host, web, 10, 3, 1);
    count(&host, app, 5, 2, 0);
    count(&host, acme, 7, 0, 0);
    let before = figures(&mut host);
    assert_eq!(sums(&before, "profile"), [15, 5, 1]);
    assert_eq!(sums(&before, "master"), [7, 0, 0]);
    assert_eq!(before.tiers["profile"].scopes, 2);
    remove(&mut host, "acme/web");
    let after = figures(&mut host);
    assert_eq!(sums(&after, "profile"), [15, 5, 1]);
    assert_eq!(after.tiers["profile"].scopes, 1);
    // Another scope gets the id, and its counters begin at zero.
    host.plane.clear_state(web);
    let again = host.add("acme/web");
    count(&host, again, 1, 0, 0);
    assert_eq!(sums(&figures(&mut host), "profile"), [16, 5, 1]);
    // The daemon is killed, and another one takes over the maps.
    host.start(noon()).unwrap();
    assert_eq!(sums(&figures(&mut host), "profile"), [16, 5, 1]);
    remove(&mut host, "acme/web");
    remove(&mut host, "acme/app");
    host.start(noon()).unwrap();
    assert_eq!(sums(&figures(&mut host), "profile"), [16, 5, 1]);
    // With new maps, all counters and the sums of removed scopes begin at zero.
    host.stop(noon());
    host.plane = MemoryPlane::new("boot:two");
    host.start(noon()).unwrap();
    assert_eq!(sums(&figures(&mut host), "profile"), [0, 0, 0]);
}

#[test]
fn a_scope_that_is_removed_during_a_survey_counts_once() {
    for looked_at in 0..=3 {
        for removed in ["acme/a", "acme/b", "acme/c"] {
            let mut host = Host::new("");
            for scope in ["acme/a", "acme/b", "acme/c"] {
                let id = host.add(scope);
                count(&host, id, 10, 3, 1);
            }
            let mut survey = host.engine().begin_survey(noon());
            host.engine().survey(&mut survey, looked_at);
            remove(&mut host, removed);
            while !host.engine().survey(&mut survey, 1) {}
            let figures = host.engine().figures(survey).unwrap();
            let counted = sums(&figures, "profile");
            assert_eq!(counted, [30, 9, 3], "{looked_at} {removed}");
            assert_eq!(figures.tiers["profile"].scopes, 2);
        }
    }
}

#[test]
fn a_failed_removal_leaves_the_sums_unchanged() {
    let mut host = Host::new("");
    let web = host.add("acme/web");
    count(&host, web, 10, 3, 1);
    host.engine().flush(noon()).unwrap();
    host.engine().store.refuse_changes();
    let failures = figures(&mut host).writes.failures;
    let removed = host
        .engine()
        .remove_scope(&name("acme/web"), true, &caller(noon()));
    removed.unwrap_err();
    let after = figures(&mut host);
    assert_eq!(sums(&after, "profile"), [10, 3, 1]);
    assert_eq!(after.writes.failures, failures + 1);
}

#[test]
fn tiers_have_figures_before_their_first_scope() {
    let mut host = Host::new("[tiers.gold]\ndaily_quota = 5\n");
    let tiers = figures(&mut host).tiers;
    assert_eq!(
        tiers.keys().collect::<Vec<_>>(),
        ["gold", "master", "profile"]
    );
    assert_eq!(tiers["gold"].refused, Refusals::default());
}

#[test]
fn the_configuration_limits_how_many_scopes_are_named() {
    let mut host = Host::new("[metrics]\ntop_scopes = 2\n[tiers.master]\ndaily_quota = 10\n");
    for (scope, admitted, refused) in [
        ("acme", 9, 1),
        ("acme/a", 500, 0),
        ("acme/b", 500, 4),
        ("acme/c", 20, 2),
        ("acme/idle", 0, 0),
    ] {
        let id = host.add(scope);
        count(&host, id, admitted, refused, 0);
    }
    let top = figures(&mut host);
    assert_eq!(names(&top.nearest_quota), [("acme", 0.9), ("acme/a", 0.5)]);
    assert_eq!(
        names(&top.most_used),
        [("acme/a", 500.0), ("acme/b", 500.0)]
    );
    assert_eq!(names(&top.most_refused), [("acme/b", 4.0), ("acme/c", 2.0)]);
    let mut host = Host::new("[metrics]\ntop_scopes = 0\n");
    let id = host.add("acme");
    count(&host, id, 9, 9, 0);
    let top = figures(&mut host);
    assert!(top.nearest_quota.is_empty() && top.most_used.is_empty());
}

#[test]
fn a_part_is_healthy_until_it_fails() {
    let mut host = Host::new("");
    let well = |host: &mut Host| {
        let parts = figures(host).parts;
        let store = parts.iter().find(|(part, _)| *part == "store");
        store.map(|(_, works)| *works)
    };
    host.engine().tick(noon());
    assert_eq!(well(&mut host), Some(true));
    let web = host.add("acme/web");
    host.engine().store.refuse_changes();
    count(&host, web, 1, 0, 0);
    host.engine().tick(noon());
    assert_eq!(well(&mut host), Some(false));
    let wrong = host.engine().status().unwrap().health;
    assert_eq!(wrong.len(), 1, "{wrong:?}");
}
