// SPDX-License-Identifier: MIT OR Apache-2.0

//! Input with common mistakes, on the command line, over HTTP and in key files. Each error names
//! the mistake, its position and the correct form.

use std::process::Command;

use limiter_tests::{
    Lab, Limiter,
    limiter::{Output, exit},
};
use serde_json::{Value, json};

/// Sends a request to the control socket, and returns the status and the body of the response.
fn ask(limiter: &Limiter, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args(["-q", "-sS", "-X", method, "-w", "\n%{http_code}"])
        .arg("--unix-socket")
        .arg(limiter.socket())
        .arg(format!("http://limiter{path}"));
    if let Some(body) = body {
        curl.args(["-H", "Content-Type: application/json", "-d", body]);
    }
    let output: Output = curl.output().expect("run curl").into();
    let (answer, status) = output.stdout.rsplit_once('\n').expect("a status");
    let answer = serde_json::from_str(answer).expect("JSON");
    (status.parse().expect("a number"), answer)
}

/// Asserts that a response has status 400 and a message that contains all of `words`.
#[track_caller]
fn assert_invalid((status, answer): (u16, Value), words: &[&str]) {
    let detail = answer["detail"].as_str().expect("what is wrong");
    assert_eq!(status, 400, "{answer}");
    for word in words {
        assert!(detail.contains(word), "no {word:?} in {detail}");
    }
}

#[test]
fn invalid_limit_is_answered_with_field_value_and_range() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme");
    let before = limiter.json(&["audit"]);
    let quota =
        "is not a valid daily_quota: give a whole number from 0 to 2147483647, or `unlimited`";
    for (option, value, wanted) in [
        ("--daily-quota", "-1", quota),
        ("--daily-quota", "1.5", quota),
        ("--daily-quota", "99999999999999999999", quota),
        ("--daily-quota", "3000000000", "from 0 to 2147483647"),
        (
            "--burst",
            "-1",
            "is not a valid burst: give a whole number from 1 to 1000000",
        ),
        ("--burst", "0", "from 1 to 1000000"),
        ("--concurrency", "0", "from 1 to 1000000"),
        (
            "--connections",
            "-.5",
            "is not a valid connections: give a whole number from 1",
        ),
        (
            "--rate",
            "0/s",
            "in a window: give a number from 1 to 1000000",
        ),
        ("--rate", "1/0ms", "from 1ms to 1440min"),
        ("--rate", "-1/s", "is not a valid rate: write"),
    ] {
        let set = ["limits", "set", "acme", option, value, "--note", "x"];
        limiter.cli(&set).assert_fails(exit::USAGE, &[wanted]);
        limiter
            .cli(&set)
            .assert_fails(exit::USAGE, &[value.trim_start_matches('-')]);
    }
    let put = |limits: &str| {
        let body = format!(r#"{{"limits":{limits},"note":"x"}}"#);
        ask(&limiter, "PUT", "/v1/scopes/acme/limits", Some(&body))
    };
    for (name, right) in [
        ("daily_quota", "from 0 to 2147483647, or `unlimited`"),
        ("concurrency", "from 1 to 1000000, or `unlimited`"),
        ("connections", "from 1 to 1000000, or `unlimited`"),
        ("burst", "from 1 to 1000000"),
        ("rate", "like \"1/ms\""),
    ] {
        for value in ["-1", "1.5", "null", "true", "\"-1\"", "\"many\""] {
            let given = format!(
                "limits.{name}: `{}` is not a valid {name}",
                value.trim_matches('"')
            );
            let answer = put(&format!(r#"{{"{name}":{value}}}"#));
            assert_invalid(answer, &[&given, right, "(line 1 column "]);
        }
    }
    for number in ["99999999999999999999", "1e30"] {
        let answer = put(&format!(r#"{{"daily_quota":{number}}}"#));
        assert_invalid(answer, &["limits.daily_quota: `1", quota]);
    }
    assert_invalid(
        put(r#"{"burst":0}"#),
        &["burst = 0 is out of range: give a number from 1 to 1000000"],
    );
    assert_invalid(
        put(r#"{"rate":"0/s"}"#),
        &["limits.rate: the rate `0/s` has 0 requests"],
    );
    assert_eq!(limiter.json(&["audit"]), before, "nothing was changed");
}

#[test]
fn invalid_time_is_answered_with_a_correction() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme");
    let before = limiter.json(&["audit"]);
    for (until, wanted) in [
        ("2020", "write 2026-12-31"),
        ("2020-01-01", "is in the past"),
        ("-1d", "is in the past"),
        ("3000000d", "after the year 9999"),
        ("9999-12-31T23:59:59-00:01", "after the year 9999"),
        ("+10000-01-01", "write 2026-12-31"),
        ("2026-02-30", "write 2026-12-31"),
    ] {
        let set = [
            "limits", "set", "acme", "--burst", "2", "--note", "x", "--until", until,
        ];
        limiter
            .cli(&set)
            .assert_fails(exit::USAGE, &[until, wanted]);
    }
    let end = "is not a valid end: write a time in the form of RFC 3339";
    for (until, wanted) in [
        ("\"+10000-01-01T00:00:00Z\"", end),
        ("\"9999-12-31T23:59:59-00:01\"", end),
        ("\"soon\"", end),
        ("5", "until: `5` is not a valid end"),
        (
            "\"2020-01-01T00:00:00Z\"",
            "the end 2020-01-01T00:00:00Z has passed already",
        ),
    ] {
        let body = format!(r#"{{"limits":{{"burst":2}},"until":{until},"note":"x"}}"#);
        let answer = ask(&limiter, "PUT", "/v1/scopes/acme/limits", Some(&body));
        assert_invalid(answer, &[wanted]);
    }
    for (query, wanted) in [
        (
            "usage?date=yesterday",
            "date: `yesterday` is not a day of the calendar: write it like 2026-11-24",
        ),
        (
            "usage?date=2026-02-30",
            "date: `2026-02-30` is not a day of the calendar",
        ),
        ("usage?date=2999-01-01", "2999-01-01 has not begun"),
        (
            "scopes/acme/usage?date=1",
            "date: `1` is not a day of the calendar",
        ),
        (
            "audit?since=soon",
            "since: `soon` is not a time: write it in the form of RFC 3339",
        ),
        (
            "audit?limit=-1",
            "limit: `-1` is not a whole number from 0 to 4294967295",
        ),
        (
            "events?limit=1.5",
            "limit: `1.5` is not a whole number from 0 to",
        ),
        (
            "events?after=-1",
            "after: `-1` is not a whole number from 0 to 18446744073709551615",
        ),
        ("top?limit=many", "limit: `many` is not a whole number"),
    ] {
        assert_invalid(
            ask(&limiter, "GET", &format!("/v1/{query}"), None),
            &[wanted],
        );
    }
    assert_eq!(limiter.json(&["audit"]), before, "nothing was changed");

    assert_eq!(
        limiter.json(&["usage", "--date", "today"])[0]["scope"],
        "acme"
    );
    assert_eq!(limiter.json(&["usage", "--date", "yesterday"]), json!([]));
    for (arguments, wanted) in [
        (
            &["usage", "--date", "2026-02-30"][..],
            "write it like 2026-11-24, or write today or yesterday",
        ),
        (&["usage", "--date", "2999-01-01"], "has not begun"),
        (
            &["events", "--limit", "0"],
            "`--limit 0` would show no event: give a number from 1 to 1000",
        ),
        (&["events", "--limit", "-1"], "0..=1000"),
        (&["audit", "--limit", "0"], "1..=1000000"),
    ] {
        limiter.cli(arguments).assert_fails(exit::USAGE, &[wanted]);
    }
    assert_eq!(limiter.cli(&["audit", "--since", "-1d"]).code, exit::DONE);
    assert_eq!(limiter.json(&["audit", "--since", "4000000d"]), before);
}

/// Invisible characters that are refused in every text, each with its code point.
const UNSEEN: [(&str, &str); 8] = [
    ("\u{202e}", "U+202E"),
    ("\u{2066}", "U+2066"),
    ("\u{200b}", "U+200B"),
    ("\u{2028}", "U+2028"),
    ("\u{feff}", "U+FEFF"),
    ("\u{ad}", "U+00AD"),
    ("\u{9b}", "U+009B"),
    ("\u{e0041}", "U+E0041"),
];

#[test]
fn text_with_invisible_characters_is_refused_everywhere() {
    let (limiter, lab) = Limiter::idle();
    limiter.scope("acme");
    let before = limiter.json(&["audit"]);
    let file = lab.file("keys.csv");
    for (character, number) in UNSEEN {
        let text = format!("ac{character}me");
        let named = format!("has {number} as its character 3");
        for arguments in [
            &["key", "create", "acme", "--label", &text][..],
            &["key", "import", "acme", "--label", &text],
            &["limits", "set", "acme", "--burst", "2", "--note", &text],
            &["limits", "clear", "acme", "--note", &text],
            &["reset", "acme", "--note", &text],
            &["scope", "mode", "acme", "observe", "--note", &text],
            &["scope", "add", &text],
            &["key", "create", &text],
        ] {
            let output = limiter.cli(arguments);
            output.assert_fails(exit::USAGE, &[&named]);
            assert!(!output.stderr.contains(character), "{output:?}");
        }
        let output = limiter.cli(&["scope", "add", "x", "--tier", &text]);
        output.assert_fails(exit::FAILED, &["there is no tier `ac\\u{"]);
        assert!(!output.stderr.contains(character), "{output:?}");
        for (method, path, body) in [
            ("POST", "keys", json!({"scope": "acme", "label": text})),
            (
                "POST",
                "keys/import",
                json!({"scope": "acme", "label": text, "key": "k"}),
            ),
            (
                "PUT",
                "scopes/acme/limits",
                json!({"limits": {"burst": 2}, "note": text}),
            ),
            ("DELETE", "scopes/acme/limits", json!({"note": text})),
            ("POST", "scopes/acme/reset", json!({"note": text})),
            (
                "PUT",
                "scopes/acme/mode",
                json!({"mode": "observe", "note": text}),
            ),
            ("POST", "scopes", json!({"scope": text})),
        ] {
            let body = body.to_string();
            assert_invalid(
                ask(&limiter, method, &format!("/v1/{path}"), Some(&body)),
                &[&named],
            );
        }
        for line in [format!("acme,k,{text}"), format!("{text},k,")] {
            std::fs::write(&file, format!("scope,key,label\n{line}\n")).expect("the file");
            let output = limiter.cli(&["key", "import", "--csv", &file.display().to_string()]);
            output.assert_fails(exit::FAILED, &["line 2: the ", &named]);
        }
    }
    assert_eq!(limiter.json(&["audit"]), before, "nothing was changed");
    // A tier name in the configuration is checked in the same way.
    let config = std::fs::read_to_string(limiter.config_path()).expect("the configuration");
    limiter.write_config(&format!("{config}\n[tiers.\"go\u{202e}ld\"]\nburst = 2\n"));
    let output = limiter.cli(&["reload"]);
    output.assert_fails(
        exit::USAGE,
        &[r"`go\u{202e}ld` has U+202E as its character 3"],
    );
    assert!(!output.stderr.contains('\u{202e}'), "{output:?}");
}

#[test]
fn invisible_characters_in_the_store_are_shown_by_number() {
    let (mut limiter, _lab) = Limiter::idle();
    limiter.scope("acme");
    limiter.done(&["key", "create", "acme", "--label", "a label"]);
    limiter.done(&["limits", "set", "acme", "--burst", "2", "--note", "a note"]);
    limiter.terminate();
    let python = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        db.execute('UPDATE keys SET label = ?', ('x\\u202ey\\nz',))\n\
        db.execute('UPDATE overrides SET note = ?', ('\\x1b[8mhidden\\u2066',))\n\
        db.commit()\n";
    let store = limiter.state_dir().join("limiter.db");
    limiter_tests::process::succeed(Command::new("python3").args(["-c", python]).arg(store));
    limiter.run(&[]);
    let keys = limiter.done(&["key", "list"]);
    assert!(keys.contains(r"x\u{202e}y\nz"), "{keys}");
    for arguments in [
        &["scope", "show", "acme"][..],
        &["explain", "acme"],
        &["scope", "list"],
    ] {
        let output = limiter.done(arguments);
        assert!(output.contains(r"\u{1b}[8mhidden\u{2066}"), "{output}");
    }
    let again = limiter.cli(&["limits", "set", "acme", "--burst", "2", "--note", "x"]);
    assert!(
        again.stderr.contains(r"\u{1b}[8mhidden\u{2066}"),
        "{again:?}"
    );
    let events = limiter.done(&["events"]);
    assert!(!events.contains(['\u{1b}', '\u{2066}']), "{events}");
    let json = limiter.done(&["key", "list", "--json"]);
    assert!(json.contains(r"x\u202ey\nz"), "{json}");
    assert_eq!(limiter.json(&["key", "list"])[0]["label"], "x\u{202e}y\nz");
}

#[test]
fn key_that_is_not_a_string_is_not_shown() {
    let (limiter, _lab) = Limiter::idle();
    limiter.scope("acme");
    for key in ["1234567890", "[\"1234567890\"]", "{\"1234567890\":1}"] {
        for (path, body) in [
            ("import", format!(r#"{{"scope":"acme","key":{key}}}"#)),
            ("check", format!(r#"{{"key":{key}}}"#)),
        ] {
            let answer = ask(&limiter, "POST", &format!("/v1/keys/{path}"), Some(&body));
            assert!(!answer.1.to_string().contains("1234567890"), "{answer:?}");
            assert_invalid(answer, &["key: a key must be a string in quotation marks"]);
        }
    }
}

#[test]
fn scope_that_differs_only_in_case_is_made_with_a_warning() {
    let (limiter, lab) = Limiter::idle();
    limiter.scope("acme/web");
    for (scope, wanted) in [
        (
            "ACME/web",
            "the scope ACME/web differs from acme/web only in letter case",
        ),
        (
            "Acme",
            "the account Acme of the scope Acme differs from ACME only in letter case",
        ),
        ("beta/x", ""),
    ] {
        let output = limiter.cli(&["scope", "add", scope]);
        assert_eq!(output.code, exit::DONE, "{output:?}");
        assert!(output.stderr.contains(wanted), "{output:?}");
        assert_eq!(output.stderr.is_empty(), wanted.is_empty(), "{output:?}");
    }
    let made = limiter.json(&["scope", "add", "BETA/y"]);
    let warning = made["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.contains("account BETA") && warning.contains("beta"),
        "{made}"
    );
    let file = lab.file("keys.csv");
    std::fs::write(&file, "scope,key\nbeta/X,k1\nnew/a,k2\nNEW/b,k3\n").expect("the file");
    let path = file.display().to_string();
    let output = limiter.cli(&["key", "import", "--csv", &path]);
    assert_eq!(output.code, exit::DONE, "{output:?}");
    for word in [
        "beta/X differs from beta/x only",
        "account NEW of the scope NEW/b",
    ] {
        assert!(output.stderr.contains(word), "no {word} in {output:?}");
    }
}

/// Imports the keys in the CSV text `text`, which the command reads from standard input.
fn import(limiter: &Limiter, text: &str) -> Output {
    limiter.cli_with_input(&["key", "import", "--csv", "-"], text)
}

fn key_count(limiter: &Limiter) -> usize {
    let keys = limiter.json(&["key", "list"]);
    keys.as_array().map_or(0, Vec::len)
}

#[test]
fn import_accepts_csv_files_of_common_programs() {
    let (limiter, _lab): (Limiter, Lab) = Limiter::idle();
    for (number, text) in [
        "\u{feff}Scope,Key\r\nacme,#\r\n",
        " SCOPE , key ,Label,\nacme,#,\"a, b\",\n,,,\n  \n",
        "sep=,\nkey,scope\n#,acme\n\n",
        "scope,key\racme,#\r",
    ]
    .into_iter()
    .enumerate()
    {
        let output = import(&limiter, &text.replace('#', &format!("SECRET-{number}")));
        assert_eq!(output.code, exit::DONE, "{text:?}: {output:?}");
        assert!(output.stdout.contains("1 key imported"), "{output:?}");
        assert_eq!(key_count(&limiter), number + 1, "{text:?}");
    }
    for (text, words) in [
        (
            "scope;key\nacme;SECRET\n",
            &["line 1", "semicolons", "comma"][..],
        ),
        ("scope\tkey\nacme\tSECRET\n", &["line 1", "tabs", "comma"]),
        ("sep=;\nscope;key\nacme;SECRET\n", &["line 1", "comma"]),
        (
            "scope,key\n\nacme;SECRET\n",
            &["line 3", "semicolons", "comma"],
        ),
        ("Scope,scope,key\n", &["line 1", "`scope` is there twice"]),
        (
            "scope,key,lable\n",
            &["line 1", "`lable` is none of them", "did you mean `label`?"],
        ),
        ("scope,key,\nacme,k,SECRET\n", &["line 2", "3 columns"]),
        ("acme,SECRET\n", &["line 1", "names its columns"]),
        ("s\0c\0o\0p\0e\0,\0k\0e\0y\0\n\0", &["UTF-16", "UTF-8"]),
    ] {
        let output = import(&limiter, text);
        output.assert_fails(exit::FAILED, words);
        assert!(!output.stderr.contains("SECRET"), "{output:?}");
    }
    assert_eq!(key_count(&limiter), 4);
}

#[test]
fn second_import_of_a_file_skips_and_counts_existing_keys() {
    let (limiter, _lab) = Limiter::idle();
    let file = "scope,key,label\nacme,SECRET-1,one\nacme,SECRET-2,\nbeta/x,SECRET-3,\n";
    assert_eq!(import(&limiter, file).code, exit::DONE);
    let id = limiter.json(&["key", "list", "beta/x"])[0]["id"].clone();
    let id = id.as_str().expect("an id");
    limiter.done(&["key", "disable", id]);
    let before = (limiter.json(&["key", "list"]), limiter.json(&["audit"]));

    let again = import(&limiter, file);
    assert_eq!(again.code, exit::DONE, "{again:?}");
    assert_eq!(
        again.stdout,
        "0 keys imported, 0 scopes added, 3 keys registered already\n"
    );
    assert_eq!(
        (limiter.json(&["key", "list"]), limiter.json(&["audit"])),
        before
    );

    let more = format!("{file}acme,SECRET-4,\n");
    let arguments = ["key", "import", "--csv", "-", "--json"];
    let output = limiter.cli_with_input(&arguments, &more).json();
    assert_eq!(
        output,
        json!({"keys": 1, "scopes": 0, "already_there": 3, "warnings": []})
    );
    assert_eq!(key_count(&limiter), 4);
    assert_eq!(
        limiter.json(&["key", "list", "beta/x"])[0]["state"],
        "disabled"
    );

    // If a file contains a key that belongs to another scope or is revoked, no key of the file is
    // imported.
    let elsewhere = import(&limiter, "scope,key\nacme,SECRET-5\nzeta,SECRET-3\n");
    elsewhere.assert_fails(exit::FAILED, &["line 3", "beta/x"]);
    limiter.done(&["key", "revoke", id]);
    let revoked = import(&limiter, &format!("{more}acme,SECRET-5,\n"));
    revoked.assert_fails(exit::FAILED, &["line 4", "beta/x", "revoked"]);
    for output in [elsewhere, revoked] {
        assert!(!output.stderr.contains("SECRET"), "{output:?}");
    }
    assert_eq!(key_count(&limiter), 4);
}
