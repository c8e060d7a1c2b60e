// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands that create, import, list, disable and revoke keys.

use limiter_tests::{
    Limiter, Rig,
    limiter::{
        exit,
        shape::{assert_fields, is_time},
    },
};
use serde_json::{Value, json};

#[test]
fn keys_are_made_listed_disabled_enabled_and_revoked() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme/web");
    limiter.scope("acme/app");
    let made = limiter.json(&["key", "create", "acme/web", "--label", "the shop"]);
    assert_eq!(
        (&made["scope"], &made["label"]),
        (&json!("acme/web"), &json!("the shop"))
    );
    let (id, key) = (
        made["id"].as_str().expect("an id"),
        made["key"].as_str().expect("a key"),
    );
    assert!(key.len() >= 32, "a short key: {}", key.len());
    assert_ne!(limiter.another_key("acme/web"), key);
    limiter.another_key("acme/app");

    let all = limiter.json(&["key", "list"]);
    assert_eq!(all.as_array().map(Vec::len), Some(3));
    let of_web = limiter.json(&["key", "list", "acme/web"]);
    assert_eq!(of_web.as_array().map(Vec::len), Some(2));
    let listed = |limiter: &Limiter| {
        let keys = limiter.json(&["key", "list", "acme/web"]);
        let keys = keys.as_array().expect("a list").clone();
        keys.into_iter()
            .find(|key| key["id"] == id)
            .expect("the key")
    };
    let entry = listed(&limiter);
    assert_fields(
        &entry,
        &[
            "id",
            "scope",
            "label",
            "state",
            "created_at",
            "last_used_at",
        ],
    );
    assert_eq!(
        (&entry["label"], &entry["state"]),
        (&json!("the shop"), &json!("active"))
    );
    assert!(is_time(&entry["created_at"]), "{entry}");
    assert_eq!(entry["last_used_at"], Value::Null);

    for (command, state) in [
        ("disable", "disabled"),
        ("enable", "active"),
        ("revoke", "revoked"),
    ] {
        limiter.done(&["key", command, id]);
        assert_eq!(listed(&limiter)["state"], state);
    }
    limiter
        .cli(&["key", "enable", id])
        .assert_fails(exit::FAILED, &[id, "revoked"]);
    limiter
        .cli(&["key", "disable", "k_nosuch"])
        .assert_fails(exit::FAILED, &["k_nosuch"]);
}

#[test]
fn a_key_that_was_used_says_when() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    rig.get(&key);
    let keys = rig.limiter.json(&["key", "list", "acme/web"]);
    assert!(is_time(&keys[0]["last_used_at"]), "{keys}");
}

#[test]
fn an_existing_key_is_imported_from_standard_input() {
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 1"));
    rig.limiter.scope("acme/web");
    let import = ["key", "import", "acme/web", "--label", "old"];
    let output = rig.limiter.cli_with_input(&import, "customer-key-0001\n");
    assert_eq!(output.code, exit::DONE, "{output:?}");
    assert!(!output.stdout.contains("customer-key-0001"), "{output:?}");
    assert_eq!(rig.statuses("customer-key-0001", 2), [200, 429]);
    let again = rig.limiter.cli_with_input(&import, "customer-key-0001\n");
    again.assert_fails(exit::FAILED, &["acme/web"]);
    assert!(!again.stderr.contains("customer-key-0001"), "{again:?}");
    for (input, word) in [
        ("", "empty"),
        ("two words\n", "word"),
        (&*"k".repeat(129), "128"),
    ] {
        let output = rig.limiter.cli_with_input(&import, input);
        assert!(
            matches!(output.code, exit::FAILED | exit::USAGE),
            "{output:?}"
        );
        assert!(output.stderr.contains(word), "no {word} in {output:?}");
    }
}

#[test]
fn a_csv_of_keys_is_imported_as_a_whole_or_not_at_all() {
    let rig = Rig::veth(|config| config.tier("gold", "rate = \"1/min\"\nburst = 1"));
    rig.limiter.scope("acme/web");
    let file = rig.lab.file("keys.csv");
    let path = file.display().to_string();
    let import = |text: &str| {
        std::fs::write(&file, text).expect("the file");
        rig.limiter.cli(&["key", "import", "--csv", &path])
    };
    let bad = [
        ("scope,key\nacme/web,key-a\nacme/web,key-a\n", 3),
        ("scope,key\nacme/web,key-a\nnot a scope,key-b\n", 3),
        ("scope,key\nacme/web,key-a\nacme/new,\n", 3),
        (
            "scope,key,tier\nacme/web,key-a,\nacme/new,key-b,platinum\n",
            3,
        ),
        ("scope,key\nacme/web,key-a,more,than,that\n", 2),
        ("scope,secret\nacme/web,key-a\n", 1),
    ];
    for (text, line) in bad {
        let output = import(text);
        assert!(
            matches!(output.code, exit::FAILED | exit::USAGE),
            "{text}: {output:?}"
        );
        assert!(
            output.stderr.contains(&format!("{line}")),
            "no line {line} in {output:?}"
        );
        assert!(
            !output.stderr.contains("key-a"),
            "a key is shown: {output:?}"
        );
        assert_eq!(rig.limiter.json(&["key", "list"]), json!([]), "{text}");
        let scopes = rig.limiter.json(&["scope", "list"]);
        assert_eq!(scopes.as_array().map(Vec::len), Some(1), "{text}");
    }
    let good =
        "scope,key,label,tier\nacme/web,key-a,\"the, shop\",\nacme/new,key-b,,gold\nbeta,key-c,,\n";
    let output = import(good);
    assert_eq!(output.code, exit::DONE, "{output:?}");
    assert_eq!(
        rig.limiter.json(&["key", "list"]).as_array().map(Vec::len),
        Some(3)
    );
    let keys = rig.limiter.json(&["key", "list", "acme/web"]);
    assert_eq!(keys[0]["label"], "the, shop");
    for (scope, tier) in [
        ("acme/web", "profile"),
        ("acme/new", "gold"),
        ("beta", "master"),
    ] {
        assert_eq!(rig.limiter.json(&["scope", "show", scope])["tier"], tier);
    }
    assert_eq!(rig.statuses("key-b", 2), [200, 429]);
    assert_eq!(rig.statuses("key-c", 2), [200, 200]);
}

/// Returns `key` with another character at the index `place`.
fn mistyped(key: &str, place: usize) -> String {
    let other = if key.as_bytes()[place] == b'x' {
        "y"
    } else {
        "x"
    };
    let mut typed = key.to_owned();
    typed.replace_range(place..=place, other);
    typed
}

#[test]
fn a_made_key_is_a_prefix_a_secret_and_a_checksum() {
    let (limiter, _lab) = Limiter::idle();
    let key = limiter.key("acme/web");
    let digits = key.strip_prefix("lmt_").expect("the prefix");
    assert_eq!(digits.len(), 43 + 6);
    assert!(digits.bytes().all(|byte| byte.is_ascii_alphanumeric()));
}

#[test]
fn a_key_is_checked_without_being_shown() {
    let (limiter, _lab) = Limiter::idle();
    let key = limiter.key("acme/web");
    let id = limiter.json(&["key", "list"])[0]["id"].clone();
    let check = |input: &str| -> Value {
        let output = limiter.cli_with_input(&["key", "check", "--json"], input);
        assert!(!output.stdout.contains(input), "the key is shown");
        output.json()
    };
    let known = check(&key);
    assert_fields(
        &known,
        &["well_formed", "form", "problem", "known", "registered"],
    );
    assert_eq!(
        (&known["well_formed"], &known["form"], &known["known"]),
        (&json!(true), &json!("limiter"), &json!(true))
    );
    let registered = &known["registered"];
    assert_eq!(
        (
            &registered["id"],
            &registered["scope"],
            &registered["state"]
        ),
        (&id, &json!("acme/web"), &json!("active"))
    );
    limiter.done(&["key", "revoke", id.as_str().expect("an id")]);
    assert_eq!(check(&format!("{key}\n"))["registered"]["state"], "revoked");

    // `key check` distinguishes keys with a typing error, keys of another installation, and keys
    // that are not in the limiter's format.
    for typed in [mistyped(&key, 20), mistyped(&key, 52), key[..50].to_owned()] {
        let checked = check(&typed);
        assert_eq!(
            (&checked["well_formed"], &checked["form"], &checked["known"]),
            (&json!(false), &Value::Null, &json!(false)),
            "{checked}"
        );
        let problem = checked["problem"].as_str().expect("a problem");
        assert!(problem.contains("typing error"), "{problem}");
    }
    let (elsewhere, _another) = Limiter::idle();
    let checked = check(&elsewhere.key("beta"));
    assert_eq!(
        (&checked["well_formed"], &checked["form"], &checked["known"]),
        (&json!(true), &json!("limiter"), &json!(false))
    );
    let checked = check("a-key-of-theirs");
    assert_eq!(
        (&checked["well_formed"], &checked["form"], &checked["known"]),
        (&json!(true), &json!("other"), &json!(false))
    );
    assert_eq!(check("two words")["well_formed"], false);

    let output = limiter.cli_with_input(&["key", "check"], &key);
    let text = output.stdout;
    assert!(
        text.contains("revoked") && text.contains("acme/web"),
        "{text}"
    );
    assert!(!text.contains(&key), "the key is shown");
    // A key as an argument is refused, because every user of the host can read the arguments of a
    // command.
    for arguments in [
        &["key", "check", &*key][..],
        &["key", "import", "acme/web", &key],
    ] {
        assert_eq!(limiter.cli(arguments).code, exit::USAGE);
    }
    // `key check` changes nothing, so it adds no entry to the audit log.
    let entries = limiter.json(&["audit"]);
    assert_eq!(entries.as_array().map(Vec::len), Some(3), "{entries}");
}

#[test]
fn a_mistyped_key_of_ours_is_not_imported() {
    let (limiter, lab) = Limiter::idle();
    let (elsewhere, _another) = Limiter::idle();
    limiter.scope("acme/web");
    let key = elsewhere.key("acme/web");
    let import = ["key", "import", "acme/web"];
    for typed in [mistyped(&key, 9), key[..52].to_owned(), format!("{key}0")] {
        let output = limiter.cli_with_input(&import, &typed);
        output.assert_fails(exit::FAILED, &["lmt_", "a typing error is likely"]);
        assert!(!output.stderr.contains(&typed), "the key is shown");
        let file = lab.file("keys.csv");
        std::fs::write(&file, format!("scope,key\nacme/web,{typed}\n")).expect("the list");
        let output = limiter.cli(&["key", "import", "--csv", &file.display().to_string()]);
        output.assert_fails(exit::FAILED, &["line 2", "a typing error is likely"]);
        assert!(!output.stderr.contains(&typed), "the key is shown");
    }
    assert_eq!(limiter.json(&["key", "list"]), json!([]));
    assert_eq!(limiter.cli_with_input(&import, &key).code, exit::DONE);
}

#[test]
fn keys_get_ends_and_notes() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme");
    let made = limiter.cli(&[
        "key",
        "create",
        "acme",
        "--until",
        "2999-01-01",
        "--note",
        "a trial",
    ]);
    assert_eq!(made.code, exit::DONE, "{made:?}");
    let end = "2999-01-01T00:00:00Z";
    assert!(
        made.stderr
            .contains(&format!("and will be revoked at {end}")),
        "{made:?}"
    );
    let keys = || limiter.json(&["key", "list", "acme"]);
    assert_eq!(keys()[0]["until"], end);
    assert!(limiter.done(&["key", "list"]).contains(end));
    let id = keys()[0]["id"].as_str().expect("an id").to_owned();
    let at = |at: &str| limiter.cli(&["key", "revoke", &id, "--at", at, "--note", "rotated"]);
    let later = at("2998-01-01");
    assert!(
        later
            .stdout
            .contains("is active, and will be revoked at 2998-01-01T00:00:00Z"),
        "{later:?}"
    );
    at("2020-01-01").assert_fails(exit::USAGE, &["2020-01-01", "in the past"]);
    at("soon").assert_fails(exit::USAGE, &["soon"]);
    assert_eq!(at("never").code, exit::DONE);
    assert_eq!(keys()[0]["until"], Value::Null);
    for verb in ["disable", "enable", "revoke"] {
        limiter.done(&["key", verb, &id, "--note", verb]);
    }
    at("never").assert_fails(exit::FAILED, &["revoked already"]);
    let entries = limiter.json(&["audit", &id]);
    let entries = entries.as_array().expect("a list").iter();
    let entries: Vec<_> = entries
        .map(|entry| format!("{}: {}", entry["detail"], entry["note"]).replace('"', ""))
        .collect();
    assert_eq!(
        entries,
        [
            format!("of acme, until {end}: a trial").as_str(),
            "of acme, at 2998-01-01T00:00:00Z: rotated",
            "of acme, end removed: rotated",
            "of acme, was active: disable",
            "of acme, was disabled: enable",
            "of acme, was active: revoke",
        ]
    );
}
