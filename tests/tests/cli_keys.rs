//! The commands about keys: made, imported, listed, disabled, revoked.

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
