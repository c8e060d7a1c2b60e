// SPDX-License-Identifier: MIT OR Apache-2.0

//! Daily quotas that are tried with the usage of past days.

use limiter_common::day::Day;

use super::host::{Host, TODAY, caller, name, noon};
use crate::{
    domain::refusals::Refusals, engine::counts::trial::Trial, protocol::requests::SetLimits,
    store::DayUsage,
};

fn trial(scope: Option<&str>, tier: Option<&str>, quota: Option<Option<u64>>) -> Trial {
    Trial {
        scope: scope.map(name),
        tier: tier.map(str::to_owned),
        daily_quota: quota,
        days: Some(3),
    }
}

/// Returns a host with the usage of three days.
fn host() -> Host {
    let mut host = Host::new("[tiers.small]\ndaily_quota = 5\n");
    for scope in ["acme", "beta", "gamma/web", "delta"] {
        host.add(scope);
    }
    let own: SetLimits =
        serde_json::from_str(r#"{"limits":{"daily_quota":9},"note":"own"}"#).unwrap();
    host.engine()
        .set_limits(&name("delta"), own, &caller(noon()))
        .unwrap();
    let store = &mut host.engine().store;
    for (scope, before, used, refused) in [
        ("acme", 1, 10, 0),
        ("acme", 2, 4, 3),
        ("acme", 3, 5, 0),
        ("acme", 4, 1_000, 0),
        ("beta", 3, 2, 0),
        ("gamma/web", 1, 50, 0),
        ("delta", 1, 50, 0),
    ] {
        let usage = DayUsage {
            used,
            refused: Refusals {
                daily_quota: refused,
                rate: 7,
                ..Refusals::default()
            },
            ..DayUsage::default()
        };
        let day = Day(TODAY.0 - before);
        store
            .change(|store| store.set_usage(scope, day, &usage))
            .unwrap();
    }
    // The other hosts of a fleet have admitted requests of `beta`, too.
    store
        .raise_fleet_usage("beta", Day(TODAY.0 - 2), 8)
        .unwrap();
    store
        .raise_fleet_usage("beta", Day(TODAY.0 - 3), 5)
        .unwrap();
    host
}

fn over(host: &mut Host, trial: Trial) -> Vec<(String, [u64; 5])> {
    let view = host.engine().try_quota(trial, noon()).unwrap();
    let scopes = view.scopes.into_iter();
    scopes
        .map(|one| {
            let numbers = [
                one.days,
                one.days_over,
                one.would_refuse,
                one.refused,
                one.most,
            ];
            (one.scope.to_string(), numbers)
        })
        .collect()
}

#[test]
fn scopes_with_more_requests_than_the_quota_are_found() {
    let mut host = host();
    let row = |name: &str, numbers| (name.to_owned(), numbers);
    assert_eq!(
        over(&mut host, trial(None, Some("master"), Some(Some(5)))),
        [row("acme", [3, 2, 7, 3, 10]), row("beta", [2, 1, 3, 0, 8])]
    );
    let acme = row("acme", [3, 1, 1, 3, 10]);
    for (scope, tier, quota, expected) in [
        (Some("acme"), None, Some(Some(9)), vec![acme]),
        (Some("acme"), None, Some(None), vec![]),
        (
            Some("gamma/web"),
            Some("small"),
            None,
            vec![row("gamma/web", [1, 1, 45, 0, 50])],
        ),
        (
            Some("delta"),
            None,
            Some(Some(49)),
            vec![row("delta", [1, 1, 1, 0, 50])],
        ),
        (None, Some("small"), None, vec![]),
        (
            None,
            Some("profile"),
            Some(Some(0)),
            vec![row("gamma/web", [1, 1, 50, 0, 50])],
        ),
    ] {
        let found = over(&mut host, trial(scope, tier, quota));
        assert_eq!(found, expected, "{scope:?} {tier:?} {quota:?}");
    }
    let view = host
        .engine()
        .try_quota(trial(None, Some("master"), Some(Some(9))), noon())
        .unwrap();
    assert_eq!(
        (
            view.scopes_tried,
            view.from.to_string(),
            view.to.to_string()
        ),
        (2, "2026-11-21".to_owned(), "2026-11-23".to_owned())
    );
    assert_eq!(view.scopes[0].most_on.to_string(), "2026-11-23");
}

#[test]
fn a_trial_needs_scopes_and_a_quota() {
    let mut host = host();
    for (wrong, word) in [
        (trial(None, None, Some(Some(5))), "a scope or a tier"),
        (trial(Some("acme"), None, None), "name the daily quota"),
        (trial(Some("acem"), None, Some(None)), "did you mean `acme`"),
        (trial(None, Some("smal"), None), "did you mean `small`"),
        (
            Trial {
                days: Some(0),
                ..trial(None, Some("small"), None)
            },
            "from 1 to",
        ),
        (
            Trial {
                days: Some(100_000),
                ..trial(None, Some("small"), None)
            },
            "history.keep",
        ),
    ] {
        let error = host.engine().try_quota(wrong, noon()).unwrap_err();
        assert!(error.message.contains(word), "{word}: {error}");
    }
}
