// SPDX-License-Identifier: MIT OR Apache-2.0

//! The audit log states who changed an object, when, and why. Entries are never removed.

use std::{thread, time::Duration};

use limiter_tests::{
    Limiter, eventually, eventually_some,
    limiter::{
        exit,
        shape::{assert_fields, is_time},
    },
};
use serde_json::{Value, json};

/// Returns the action and the object of each entry.
fn actions(entries: &Value) -> Vec<(&str, &str)> {
    let entries = entries.as_array().expect("a list");
    entries
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().expect("text");
            (text("action"), text("object"))
        })
        .collect()
}

#[test]
fn audit_lists_every_change_with_who_when_what_and_why() {
    let (mut limiter, lab) = Limiter::idle();
    limiter.scope("acme/web");
    let made = limiter.json(&["key", "create", "acme/web"]);
    let id = made["id"].as_str().expect("an id");
    let import = limiter.cli_with_input(&["key", "import", "acme/web"], "brought-key");
    assert_eq!(import.code, exit::DONE, "{import:?}");
    let keys = limiter.json(&["key", "list"]);
    let brought = keys
        .as_array()
        .and_then(|keys| keys.iter().find(|key| key["id"] != id))
        .and_then(|key| key["id"].as_str())
        .expect("the other key");
    let file = lab.file("keys.csv");
    std::fs::write(&file, "scope,key\nbeta,listed-key\n").expect("the list");
    limiter.done(&["key", "import", "--csv", &file.display().to_string()]);
    for verb in ["disable", "enable", "revoke"] {
        limiter.done(&["key", verb, id]);
    }
    let set = [
        "limits",
        "set",
        "acme/web",
        "--burst",
        "7",
        "--note",
        "many leads",
    ];
    limiter.done(&set);
    limiter.done(&["limits", "clear", "acme/web", "--note", "over"]);
    limiter.done(&["reset", "acme/web", "--note", "a bug of ours"]);
    limiter.done(&["reload"]);
    limiter.done(&["scope", "remove", "acme/web", "--with-keys"]);

    let expected = [
        ("scope add", "acme/web"),
        ("key create", id),
        ("key import", brought),
        ("key import --csv", ""),
        ("key disable", id),
        ("key enable", id),
        ("key revoke", id),
        ("limits set", "acme/web"),
        ("limits clear", "acme/web"),
        ("reset", "acme/web"),
        ("reload", ""),
        ("scope remove", "acme/web"),
    ];
    let entries = limiter.json(&["audit"]);
    assert_eq!(actions(&entries), expected);
    for entry in entries.as_array().expect("a list") {
        assert_fields(entry, &["at", "who", "action", "object", "detail", "note"]);
        assert!(is_time(&entry["at"]), "{entry}");
        assert_eq!(entry["who"], "root (uid 0)");
        assert!(!entry.to_string().contains("-key\""), "{entry}");
    }
    assert_eq!(entries[7]["note"], "many leads");
    assert_eq!(entries[7]["detail"], "burst 1 to 7");
    assert_eq!(entries[0]["note"], Value::Null);

    assert_eq!(
        actions(&limiter.json(&["audit", "--limit", "2"])),
        expected[10..]
    );
    let of_key = limiter.json(&["audit", id]);
    assert_eq!(actions(&of_key).len(), 4, "{of_key}");
    assert_eq!(
        actions(&limiter.json(&["audit", "--since", "1h"])),
        expected
    );
    thread::sleep(Duration::from_millis(5));
    let since = limiter.json(&["audit", "--since", "0m"]);
    assert_eq!(since, json!([]));
    let text = limiter.done(&["audit", "acme/web"]);
    assert!(
        text.contains("many leads") && text.contains("root (uid 0)"),
        "{text}"
    );
    limiter
        .cli(&["audit", "--since", "whenever"])
        .assert_fails(exit::USAGE, &["whenever", "7d"]);

    limiter.kill();
    limiter.run(&[]);
    assert_eq!(limiter.json(&["audit"]), entries, "after a restart");
}

#[test]
fn expired_override_is_recorded_and_no_longer_applies() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme/web");
    let end = moment_in(Duration::from_secs(8));
    let set = [
        "limits", "set", "acme/web", "--burst", "7", "--until", &end, "--note", "x",
    ];
    limiter.done(&set);
    assert_eq!(
        limiter.json(&["scope", "show", "acme/web"])["limits"]["burst"],
        7
    );
    eventually("the override ends", || {
        limiter.json(&["scope", "show", "acme/web"])["override"] == Value::Null
    });
    assert_eq!(
        limiter.json(&["scope", "show", "acme/web"])["limits"]["burst"],
        1
    );
    let ended = eventually_some("the end is on record", || {
        let entries = limiter.json(&["audit", "acme/web"]);
        entries
            .as_array()
            .and_then(|entries| entries.get(2).cloned())
    });
    assert_eq!(
        (&ended["who"], &ended["action"], &ended["note"]),
        (
            &json!("limiter"),
            &json!("limits clear"),
            &json!("its end has passed")
        )
    );
}

/// Returns the time that is `span` after the present time, in the format that `--until` expects.
fn moment_in(span: Duration) -> String {
    let text = format!("now + {} seconds", span.as_secs());
    let date = std::process::Command::new("date")
        .args(["-u", "-d", &text, "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .expect("run date");
    String::from_utf8_lossy(&date.stdout).trim().to_owned()
}
