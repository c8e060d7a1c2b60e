// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the usage of past days.

use limiter_common::{abi::reason, day::Day};

use super::host::{Host, TODAY, TOMORROW, at, caller, name, noon};
use crate::{protocol::error::Kind, store::DayUsage};

const NEXT_NOON: &str = "2026-11-25T12:00:00Z";

fn date(text: &str) -> Option<chrono::NaiveDate> {
    Some(text.parse().unwrap())
}

#[test]
fn a_closed_day_is_shown_by_scope_and_reason_with_removed_scopes() {
    let mut host = Host::new("");
    let (web, app) = (host.add("acme/web"), host.add("acme/app"));
    host.add("acme/idle");
    host.plane.admit(web, TODAY, 7);
    host.plane.refuse(web, reason::RATE, 3);
    host.plane.refuse(web, reason::DAILY_QUOTA, 2);
    host.plane.admit(app, TODAY, 4);
    host.engine().tick(noon());
    let next = at(NEXT_NOON);
    host.plane.admit(web, TOMORROW, 1);
    host.engine().tick(next);
    host.engine()
        .remove_scope(&name("acme/app"), false, &caller(next))
        .unwrap();
    let late = crate::protocol::requests::AddScope {
        scope: name("acme/late"),
        tier: None,
    };
    host.engine().add_scope(late, &caller(next)).unwrap();

    let day = host.engine().usage(date("2026-11-24"), next).unwrap();
    let message: Vec<_> = day
        .iter()
        .map(|view| (view.scope.as_str(), view.used, view.removed))
        .collect();
    // A scope that was added after that day is not listed.
    assert_eq!(
        message,
        [
            ("acme/app", 4, true),
            ("acme/idle", 0, false),
            ("acme/web", 7, false)
        ]
    );
    assert_eq!((day[0].tier.as_deref(), day[0].daily_quota), (None, None));
    let refused = day[2].refused;
    assert_eq!(
        (refused.rate, refused.daily_quota, refused.total()),
        (3, 2, 5)
    );
    assert_eq!(day[2].remaining, Some(993));
    assert_eq!(day[2].resets_at, at("2026-11-25T00:00:00Z"));

    let engine = host.engine();
    let removed = name("acme/app");
    let view = engine.usage_of(&removed, date("2026-11-24"), next).unwrap();
    assert_eq!((view.used, view.removed, view.in_flight), (4, true, None));
    let error = engine.usage_of(&removed, None, next).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    let error = engine
        .usage_of(&removed, date("2026-11-23"), next)
        .unwrap_err();
    assert!(error.message.contains("2026-11-23"), "{}", error.message);
}

#[test]
fn a_scope_that_was_removed_today_is_in_the_usage_of_today() {
    let mut host = Host::new("");
    let id = host.add("acme");
    host.plane.admit(id, TODAY, 7);
    host.engine()
        .remove_scope(&name("acme"), false, &caller(noon()))
        .unwrap();
    let view = host
        .engine()
        .usage_of(&name("acme"), date("2026-11-24"), noon())
        .unwrap();
    assert_eq!((view.used, view.removed), (7, true));
}

#[test]
fn days_that_are_no_longer_kept_are_removed_and_reported_as_such() {
    let mut host = Host::new("[history]\nkeep = \"10d\"\n");
    host.add("acme");
    let usage = DayUsage {
        used: 5,
        ..DayUsage::default()
    };
    for ago in [1, 10, 11, 12] {
        let day = Day(TODAY.0 - ago);
        host.engine().store.set_usage("acme", day, &usage).unwrap();
    }
    let kept = |host: &mut Host| -> Vec<u32> {
        let store = &host.engine().store;
        (0..20)
            .filter(|ago| {
                let row = store.usage_of("acme", Day(TODAY.0 - ago)).unwrap();
                row.is_some_and(|row| row.used > 0)
            })
            .collect()
    };
    host.engine().tick(noon());
    assert_eq!(kept(&mut host), [1, 10]);
    let asked = |host: &mut Host, day: &str| {
        let engine = host.engine();
        let one = engine.usage_of(&name("acme"), date(day), noon());
        let all = engine.usage(date(day), noon());
        assert_eq!(one.is_ok(), all.is_ok());
        one
    };
    assert_eq!(asked(&mut host, "2026-11-14").unwrap().used, 5);
    let error = asked(&mut host, "2026-11-13").unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(
        error
            .message
            .contains("the oldest day is 2026-11-14 (`history.keep = \"10d\"`)"),
        "{}",
        error.message
    );

    // A shorter `history.keep` takes effect without a restart.
    host.configure("[history]\nkeep = \"5d\"\n");
    let report = host.engine().reload(&caller(noon())).unwrap();
    assert!(report.done.contains(&"usage is now kept for 5d".to_owned()));
    host.engine().tick(noon());
    assert_eq!(kept(&mut host), [1]);
}

#[test]
fn a_past_day_of_a_fleet_is_the_sum_over_all_hosts() {
    let mut host = Host::new("[tiers.profile]\ndaily_quota = 50\n");
    let (web, app) = (host.add("acme/web"), host.add("acme/app"));
    host.plane.admit(web, TODAY, 7);
    host.plane.admit(app, TODAY, 4);
    host.engine().tick(noon());
    let next = at(NEXT_NOON);
    host.engine().tick(next);
    // This host has served nothing for the last one.
    for (scope, used) in [("acme/web", 40), ("acme/gone", 5), ("acme/web", 39)] {
        let usage = [(scope.to_owned(), used)];
        host.engine().note_fleet_usage(TODAY, &usage).unwrap();
    }
    let yesterday = date("2026-11-24");
    let views = host.engine().usage(yesterday, next).unwrap();
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            (
                view.scope.as_str(),
                view.used,
                view.host_used,
                view.remaining,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("acme/app", 4, None, Some(46)),
            ("acme/gone", 5, Some(0), None),
            ("acme/web", 40, Some(7), Some(10)),
        ]
    );
    for (scope, used) in [("acme/web", 40), ("acme/gone", 5)] {
        let view = host.engine().usage_of(&name(scope), yesterday, next);
        assert_eq!(view.unwrap().used, used);
    }
}
