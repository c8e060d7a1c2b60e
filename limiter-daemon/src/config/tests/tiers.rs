// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the sections `[tiers.NAME]`: the resulting limits, and mistakes.

use super::*;

#[test]
fn a_built_in_tier_keeps_limits_that_are_not_named() {
    let config = with_attach("[tiers.profile]\ndaily_quota = \"unlimited\"\n").unwrap();
    let base = with_attach("")
        .unwrap()
        .tiers
        .get("profile")
        .unwrap()
        .limits;
    let limits = config.tiers.get("profile").unwrap().limits;
    assert_eq!(
        limits,
        Limits {
            daily_quota: None,
            ..base
        }
    );
}

#[test]
fn any_other_tier_only_has_the_limits_that_it_names() {
    let config = with_attach("[tiers.gold]\ndaily_quota = 5\nmode = \"observe\"\n").unwrap();
    let gold = config.tiers.get("gold").unwrap();
    assert_eq!(
        gold.limits,
        Limits {
            daily_quota: Some(5),
            rate: None,
            burst: 1,
            concurrency: None,
            connections: None,
        }
    );
    assert_eq!(gold.mode, Some(Mode::Observe));
}

#[test]
fn mistakes_in_tiers_are_reported() {
    assert_each_is_the_only_problem(&[
        (
            "[tiers.Gold]\ndaily_quota = 1\nrate = \"1/s\"\n",
            "`Gold` is not the name of a tier: write 1 to 32 lower-case letters",
        ),
        (
            "[tiers.profile]\nrate = \"1/h\"\n",
            "f.toml:5:8: `tiers.profile.rate`: `1/h` is not a valid rate: write requests per window as N/ms, N/s, N/min or N/10ms",
        ),
        (
            "[tiers.profile]\nrate = 5\n",
            "`tiers.profile.rate` must be a string in quotes, not an integer",
        ),
        (
            "[tiers.profile]\nburst = 0\n",
            "`tiers.profile.burst = 0` is out of range: give a number from 1 to",
        ),
        (
            "[tiers.profile]\nconcurrency = 0\n",
            "`tiers.profile.concurrency = 0` is out of range: give a number from 1 to",
        ),
        (
            "[tiers.profile]\nconcurrency = -1\n",
            "`tiers.profile.concurrency = -1` is out of range",
        ),
        (
            "[tiers.profile]\ndaily_quota = \"1000\"\n",
            "a whole number from 0 to 2147483647 without quotes, or \"unlimited\"",
        ),
        (
            "[tiers.profile]\ndaily_quota = 1.5\n",
            "must be a whole number, not a float",
        ),
        (
            "[tiers.profile]\nbust = 2\n",
            "unknown entry `tiers.profile.bust` (did you mean `burst`?)",
        ),
        (
            "[tiers.profile]\nburst = 1\n[tiers.profile]\nburst = 2\n",
            "f.toml:6:",
        ),
        (
            "[tiers]\nprofile = 5\n",
            "`tiers.profile` must be a table, [tiers.profile], not an integer",
        ),
    ]);
}
