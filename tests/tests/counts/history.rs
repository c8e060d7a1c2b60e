// SPDX-License-Identifier: MIT OR Apache-2.0

//! The usage of past days is reported for the configured number of days, also for scopes that have
//! been removed.

use std::process::Command;

use limiter_tests::{
    Config, Lab, Limiter, avoid_midnight, eventually,
    limiter::{exit, shape::assert_fields},
    process,
};
use rusqlite::Connection;
use serde_json::Value;

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: std::time::Duration = std::time::Duration::from_secs(60);

/// Returns the date `days` days before today, and the number by which the store identifies that
/// day.
fn ago(days: u32) -> (String, i64) {
    let at = format!("{days} days ago");
    let text = process::succeed(Command::new("date").args(["-u", "-d", &at, "+%F %s"]));
    let (date, seconds) = text.trim().split_once(' ').expect("two words");
    let seconds: i64 = seconds.parse().expect("seconds");
    (date.to_owned(), seconds / 86_400)
}

/// Writes the usage of a past day to the store, as a daemon does.
fn put(store: &Connection, scope: &str, days_ago: u32, used: i64) {
    let refused = "1, 2, 3, 4, 0, 0, 0, 0";
    store
        .execute(
            &format!("INSERT INTO usage VALUES (?1, ?2, ?3, {refused}, 0, 0)"),
            (scope, ago(days_ago).1, used),
        )
        .expect("write a day");
}

#[test]
fn past_days_are_shown_until_they_expire() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::loopback();
    let config = Config::published(&lab).small_tables();
    let mut limiter = Limiter::start(&lab, &config.section("history", "keep = \"30d\"\n"));
    limiter.scope("acme/web");
    limiter.terminate();
    let store = Connection::open(limiter.state_dir().join("limiter.db")).expect("the store");
    put(&store, "acme/web", 1, 17);
    put(&store, "acme/gone", 1, 5);
    put(&store, "acme/web", 30, 3);
    put(&store, "acme/web", 31, 2);
    limiter.run(&[]);

    let (yesterday, _) = ago(1);
    let all = limiter.json(&["usage", "--date", &yesterday]);
    let of = |name: &str| -> Value {
        let all = all.as_array().expect("a list");
        let found = all.iter().find(|view| view["scope"] == name);
        found.cloned().unwrap_or(Value::Null)
    };
    let web = of("acme/web");
    assert_fields(
        &web,
        &[
            "tier",
            "day",
            "used",
            "daily_quota",
            "remaining",
            "resets_at",
        ],
    );
    assert_eq!((&web["used"], &web["removed"]), (&17.into(), &false.into()));
    assert_eq!(web["refused"]["daily_quota"], 4);
    assert_eq!(web["day"], *yesterday);
    let gone = of("acme/gone");
    assert_eq!((&gone["used"], &gone["removed"]), (&5.into(), &true.into()));
    assert_eq!(gone["tier"], Value::Null);
    let one = limiter.json(&["usage", "acme/gone", "--date", &yesterday]);
    assert_eq!(one, gone);
    let text = limiter.done(&["usage", "acme/gone", "--date", &yesterday]);
    assert!(
        text.contains("removed") && !text.contains("unlimited"),
        "{text}"
    );
    limiter
        .cli(&["usage", "acme/never", "--date", &yesterday])
        .assert_fails(exit::FAILED, &["acme/never", &yesterday]);

    let (oldest, number) = ago(30);
    let kept = limiter.json(&["usage", "acme/web", "--date", &oldest]);
    assert_eq!(kept["used"], 3);
    let (before, _) = ago(31);
    for arguments in [
        &["usage", "--date", &before][..],
        &["usage", "acme/web", "--date", &before],
    ] {
        limiter
            .cli(arguments)
            .assert_fails(exit::FAILED, &[&before, &oldest, "history.keep"]);
    }
    // The daemon also deletes the rows of the days that it no longer reports.
    eventually("the daemon removes days that are too old", || {
        let days: Vec<i64> = store
            .prepare("SELECT day FROM usage WHERE scope = 'acme/web' AND day < ?1 ORDER BY day")
            .and_then(|mut rows| rows.query_map([ago(0).1], |row| row.get(0))?.collect())
            .expect("read the store");
        days == [number, ago(1).1]
    });
}

#[test]
fn invalid_retention_of_days_is_rejected() {
    let lab = Lab::loopback();
    let check = |keep: &str| {
        let config = Config::published(&lab).section("history", &format!("keep = {keep}\n"));
        let file = lab.file("history.toml");
        std::fs::write(&file, config.to_string()).expect("the configuration");
        Limiter::alone(&["check", "--json", "-c", &file.display().to_string()])
    };
    assert_eq!(check("\"90d\"").json()["history"]["keep"], "90d");
    for (keep, words) in [
        ("\"90\"", ["history.keep", "400d"]),
        ("\"1d\"", ["history.keep", "from 2d to 3660d"]),
        ("90", ["history.keep", "string in quotes"]),
    ] {
        check(keep).assert_fails(exit::USAGE, &words);
    }
}
