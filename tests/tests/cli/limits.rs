// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands that set, reset and show limits and usage.

use limiter_tests::{Limiter, Rig, avoid_midnight, limiter::exit};
use serde_json::{Value, json};

#[test]
fn limits_are_set_shown_and_cleared() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme/web");
    let set = [
        "limits",
        "set",
        "acme/web",
        "--daily-quota",
        "5000",
        "--rate",
        "20/s",
        "--burst",
        "5",
        "--concurrency",
        "40",
        "--connections",
        "8",
        "--until",
        "2999-01-01T00:00:00Z",
        "--note",
        "polls for many leads",
    ];
    limiter.done(&set);
    let shown = limiter.json(&["scope", "show", "acme/web"]);
    let limits = json!({
        "daily_quota": 5000, "rate": "20/s", "burst": 5, "concurrency": 40, "connections": 8
    });
    assert_eq!(shown["limits"], limits);
    for (name, value) in limits.as_object().expect("an object") {
        assert_eq!(&shown["override"][name], value, "{name} in {shown}");
    }
    assert_eq!(shown["override"]["until"], "2999-01-01T00:00:00Z");
    assert_eq!(shown["override"]["note"], "polls for many leads");

    limiter.done(&["limits", "clear", "acme/web", "--note", "done with it"]);
    let shown = limiter.json(&["scope", "show", "acme/web"]);
    assert_eq!(shown["override"], Value::Null);
    assert_eq!(shown["limits"]["daily_quota"], 1000);
}

#[test]
fn each_limit_has_an_end_and_a_note_of_its_own() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme");
    let set = |arguments: &[&str]| limiter.cli(&[&["limits", "set", "acme"], arguments].concat());
    let done = |arguments: &[&str], stderr: &str| {
        let output = set(arguments);
        assert_eq!((output.code, output.stderr.as_str()), (exit::DONE, stderr));
    };
    let terms = || limiter.json(&["scope", "show", "acme"])["override"]["terms"].clone();
    let end = "2999-01-01T00:00:00Z";
    done(
        &["--daily-quota", "5000", "--until", end, "--note", "a sync"],
        "limiter: changed: daily_quota was 10000 and is now 5000\n",
    );
    done(
        &["--rate", "5/s", "--note", "for good"],
        "limiter: changed: rate was 1/ms and is now 5/s\n",
    );
    let quota = json!({"until": end, "note": "a sync"});
    let rate = json!({"until": null, "note": "for good"});
    assert_eq!(terms(), json!({"daily_quota": quota, "rate": rate}));
    let moved = set(&[
        "--rate",
        "5/s",
        "--until",
        "2998-01-01",
        "--note",
        "for good",
        "--json",
    ])
    .json();
    let until = "2998-01-01T00:00:00Z";
    assert_eq!(
        moved["changed"],
        json!([{"what": "rate.until", "from": null, "to": until}])
    );
    assert_eq!(moved["override"]["until"], until);
    // A command without `--until` keeps the end, and its output states that end.
    let kept = set(&["--daily-quota", "7000", "--note", "more"]);
    assert_eq!(kept.code, exit::DONE, "{kept:?}");
    for word in [
        "daily_quota was 5000 and is now 7000",
        "daily_quota.note was `a sync` and is now `more`",
        "daily_quota still ends at 2999-01-01T00:00:00Z",
        "--until never",
    ] {
        assert!(kept.stderr.contains(word), "no {word} in {kept:?}");
    }
    done(
        &[
            "--daily-quota",
            "7000",
            "--until",
            "never",
            "--note",
            "more",
        ],
        "limiter: changed: daily_quota.until was 2999-01-01T00:00:00Z and is now never\n",
    );
    let shown = limiter.cli(&["scope", "show", "acme"]).stdout;
    for line in [
        "override     daily_quota: more\n",
        "             rate, until 2998-01-01T00:00:00Z: for good\n",
    ] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
    let clear = |names: &[&str]| {
        limiter.cli(&[&["limits", "clear", "acme", "--note", "x"], names].concat())
    };
    clear(&["--daily-quota", "--burst"])
        .assert_fails(exit::FAILED, &["no burst of its own", "daily_quota, rate"]);
    let cleared = clear(&["--daily-quota"]);
    assert_eq!(
        (cleared.code, cleared.stderr.as_str()),
        (
            exit::DONE,
            "limiter: changed: daily_quota was 7000 and is now 10000\n"
        )
    );
    assert_eq!(
        terms(),
        json!({"rate": {"until": until, "note": "for good"}})
    );
    let cleared = clear(&[]);
    assert_eq!(
        cleared.stderr,
        "limiter: changed: rate was 5/s and is now 1/ms\n"
    );
    assert_eq!(
        limiter.json(&["scope", "show", "acme"])["override"],
        Value::Null
    );
}

#[test]
fn override_expires_by_itself() {
    /// The duration of the override in seconds, in which several commands have to run.
    const LASTS: u64 = 8;
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme/web");
    let now = limiter_tests::clock::unix_now();
    let until = limiter_tests::process::succeed(std::process::Command::new("date").args([
        "-u",
        "-d",
        &format!("@{}", now + LASTS),
        "+%Y-%m-%dT%H:%M:%SZ",
    ]));
    let set = [
        "limits",
        "set",
        "acme/web",
        "--burst",
        "9",
        "--until",
        until.trim(),
        "--note",
        "x",
    ];
    limiter.done(&set);
    let burst = || limiter.json(&["scope", "show", "acme/web"])["limits"]["burst"].clone();
    assert_eq!(burst(), 9);
    limiter_tests::eventually("the override has ended", || burst() == 1);
    assert!(
        limiter_tests::clock::unix_now() >= now + LASTS,
        "it ended early"
    );
}

#[test]
fn mistakes_about_limits_are_named_and_change_nothing() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme/web");
    for (arguments, word) in [
        (&["--daily-quota", "many"][..], "many"),
        (&["--daily-quota", "-1"], "-1"),
        (&["--rate", "10/h"], "10/h"),
        (&["--burst", "0"], "burst"),
        (&["--concurrency", "0"], "concurrency"),
        (&["--burst", "2", "--until", "tomorrow"], "tomorrow"),
        (&["--burst", "2", "--until", "2001-01-01T00:00:00Z"], "2001"),
        (&[], "acme/web"),
    ] {
        let arguments = [&["limits", "set", "acme/web", "--note", "x"], arguments].concat();
        let output = limiter.cli(&arguments);
        assert!(
            matches!(output.code, exit::FAILED | exit::USAGE),
            "{arguments:?}: {output:?}"
        );
        // The last case has no limit among its arguments, and its error need not name the scope.
        assert!(
            arguments.len() == 5 || output.stderr.contains(word),
            "no {word} in {output:?}"
        );
        assert_eq!(
            limiter.json(&["scope", "show", "acme/web"])["override"],
            Value::Null
        );
    }
    for arguments in [
        &["limits", "set", "acme/web", "--burst", "2"][..],
        &["limits", "clear", "acme/web"],
        &["reset", "acme/web"],
    ] {
        limiter
            .cli(arguments)
            .assert_fails(exit::USAGE, &["--note"]);
    }
}

#[test]
fn usage_shows_one_scope_or_all() {
    avoid_midnight(std::time::Duration::from_secs(60));
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 10"));
    let key = rig.limiter.key("acme/web");
    rig.limiter.scope("acme");
    rig.statuses(&key, 3);
    let usage = rig.limiter.usage("acme/web");
    assert_eq!(
        (usage.scope.as_str(), usage.tier.as_str()),
        ("acme/web", "profile")
    );
    assert_eq!(
        (usage.used, usage.daily_quota, usage.remaining),
        (3, Some(10), Some(7))
    );
    let day =
        limiter_tests::process::succeed(std::process::Command::new("date").args(["-u", "+%F"]));
    assert_eq!(usage.day, day.trim());
    let next = std::process::Command::new("date")
        .args([
            "-u",
            "-d",
            &format!("{} + 1 day", day.trim()),
            "+%FT00:00:00Z",
        ])
        .output()
        .expect("run date");
    assert_eq!(
        usage.resets_at,
        String::from_utf8_lossy(&next.stdout).trim()
    );

    let all = rig.limiter.json(&["usage"]);
    let all: Vec<_> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(limiter_tests::limiter::Usage::parse)
        .collect();
    let scopes: Vec<_> = all
        .iter()
        .map(|usage| (usage.scope.as_str(), usage.used))
        .collect();
    assert_eq!(scopes, [("acme", 0), ("acme/web", 3)]);
    assert_eq!(all[0].daily_quota, None);

    let today = rig
        .limiter
        .json(&["usage", "acme/web", "--date", day.trim()]);
    assert_eq!(today["used"], 3);
    rig.limiter
        .cli(&["usage", "--date", "someday"])
        .assert_fails(exit::USAGE, &["someday"]);
    let text = rig.limiter.done(&["usage", "acme/web"]);
    assert!(text.contains("acme/web") && text.contains('3'), "{text}");
}
