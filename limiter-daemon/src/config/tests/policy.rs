// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the section `[policy]`: its words, and mistakes.

use super::*;

#[test]
fn policies_are_read_and_http2_accepts_its_earlier_word() {
    let policy =
        |line: &str| with_attach(&format!("[policy]\n{line}\n")).map(|config| config.policy);
    let default = policy("").unwrap();
    for line in [
        "http2 = \"reject\"",
        "http2 = \"reset\"",
        "connect = \"reject\"",
        "preflight = \"pass\"",
    ] {
        assert_eq!(policy(line).unwrap(), default, "{line}");
    }
    assert_eq!(policy("http2 = \"pass\"").unwrap().http2, Http2::Pass);
    assert_eq!(policy("connect = \"pass\"").unwrap().connect, Connect::Pass);
    let preflight = policy("preflight = \"as missing_key\"").unwrap().preflight;
    assert_eq!(preflight, Preflight::AsMissingKey);
    for (line, word) in [
        ("http2 = \"drop\"", "\"reject\", \"pass\""),
        ("connect = \"tunnel\"", "\"reject\", \"pass\""),
        ("preflight = \"reject\"", "\"pass\", \"as missing_key\""),
    ] {
        let error = policy(line).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn unknown_keys_can_have_a_tier() {
    let text =
        "[policy]\nunknown_key = \"tier:gold\"\n[tiers.gold]\ndaily_quota = 5\nrate = \"1/s\"\n";
    let config = with_attach(text).unwrap();
    let UnknownKey::Tier(tier) = config.policy.unknown_key else {
        panic!("not a tier")
    };
    assert_eq!(tier.as_str(), "gold");
}

#[test]
fn each_entry_is_listed_with_the_word_that_was_read() {
    let text = "[policy]\nmissing_key = \"reject\"\non_limit = \"drop\"\n\
        unknown_key = \"tier:profile\"\ndefer_for = \"90s\"\n";
    let entries = with_attach(text).unwrap().policy.entries();
    for (name, word) in [
        ("mode", "enforce"),
        ("missing_key", "reject"),
        ("on_limit", "drop"),
        ("unknown_key", "tier:profile"),
        ("preflight", "pass"),
        ("handshake", "auto"),
        ("defer_for", "90s"),
    ] {
        assert!(entries.contains(&(name, word.to_owned())), "{entries:?}");
    }
    assert_eq!(entries.len(), 12);
}

#[test]
fn mistakes_in_policy_are_reported() {
    assert_each_is_the_only_problem(&[
        (
            "[polcy]\n",
            "f.toml:4:2: unknown section `polcy` (did you mean `policy`?)",
        ),
        (
            "[policy]\ndefer_for = \"2h\"\n",
            "f.toml:5:13: `policy.defer_for = \"2h\"` is not a duration: write a number with ms, s \
             or min, like \"10s\"",
        ),
        (
            "[policy]\ndefer_for = \"61min\"\n",
            "f.toml:5:13: `policy.defer_for = \"61min\"` is out of range: give a duration from \
             100ms to 60min",
        ),
        (
            "[policy]\nmod = \"x\"\n",
            "f.toml:5:1: unknown entry `policy.mod` (did you mean `mode`?)",
        ),
        (
            "[policy]\nzzzzzzzz = 1\n",
            "f.toml:5:1: unknown entry `policy.zzzzzzzz`: the known ones here are mode, missing_key",
        ),
        (
            "[policy]\nmode = \"off\"\n",
            "f.toml:5:8: `policy.mode = \"off\"` is not one of \"enforce\", \"observe\"",
        ),
        (
            "[policy]\nmode = 1\n",
            "f.toml:5:8: `policy.mode` must be a string in quotes, not an integer",
        ),
        (
            "[policy]\non_limit = \"keep\"\n",
            "f.toml:5:12: `policy.on_limit = \"keep\"` is not one of \"keepalive\", \"close\"",
        ),
        (
            "[policy]\nunknown_key = \"tier:glod\"\n[tiers.gold]\ndaily_quota = 1\nrate = \"1/s\"\n",
            "there is no tier `glod` (did you mean `gold`?); the tiers are gold, master, profile",
        ),
        (
            "[policy]\nunknown_key = \"drop\"\n",
            "is not one of \"pass\", \"reject\", \"tier:NAME\"",
        ),
        ("policy = 3\n", "`attach.policy`"),
    ]);
}
