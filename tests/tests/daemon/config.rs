// SPDX-License-Identifier: MIT OR Apache-2.0

//! Each mistake in the configuration file is reported with its line before the daemon changes
//! anything.

use std::fs;

use limiter_tests::{Config, Lab, Limiter, Rig, limiter::exit};

/// Runs `limiter check` on the configuration `text`. The lab provides the interfaces and a
/// directory for the file.
fn check(lab: &Lab, text: &str) -> limiter_tests::limiter::Output {
    let path = lab.file("checked.toml");
    fs::write(&path, text).expect("write the configuration");
    let mut command = lab.server().command(limiter_tests::limiter::binary());
    limiter_tests::process::output(command.args(["check", "-c"]).arg(&path)).into()
}

/// A mistake in a configuration: a description, the number of the line with the mistake, the text
/// that contains it, and the words that the error message must contain. Usually, these words are
/// the wrong text and the valid alternatives.
struct Mistake(&'static str, usize, &'static str, &'static [&'static str]);

const ATTACH: &str = "[attach]\ninterfaces = [\"lo\"]\nports = [80]\n";

/// Mistakes in text that follows [`ATTACH`]. The line numbers include the three lines of
/// [`ATTACH`].
const BAD: &[Mistake] = &[
    Mistake(
        "an unknown section",
        4,
        "[polizy]\nmode = \"enforce\"\n",
        &["polizy", "policy"],
    ),
    Mistake(
        "an unknown entry",
        5,
        "[policy]\nmissing_keys = \"pass\"\n",
        &["missing_keys", "missing_key"],
    ),
    Mistake(
        "an unknown tier entry",
        5,
        "[tiers.gold]\ndaily_qouta = 5\n",
        &["daily_qouta", "daily_quota"],
    ),
    Mistake(
        "an unknown mode",
        5,
        "[policy]\nmode = \"lenient\"\n",
        &["lenient", "enforce", "observe"],
    ),
    Mistake(
        "an unknown policy",
        5,
        "[policy]\nmissing_key = \"drop\"\n",
        &["drop", "pass", "reject"],
    ),
    Mistake(
        "an unknown tier",
        5,
        "[policy]\nunknown_key = \"tier:gold\"\n",
        &["gold", "profile", "master"],
    ),
    Mistake(
        "an unknown action",
        5,
        "[policy]\non_limit = \"shut\"\n",
        &["shut", "keepalive", "close", "reset", "drop"],
    ),
    Mistake(
        "a rate without a time",
        5,
        "[tiers.gold]\nrate = \"10\"\n",
        &["10", "N/s"],
    ),
    Mistake(
        "a rate of an unknown unit",
        5,
        "[tiers.gold]\nrate = \"10/h\"\n",
        &["10/h", "N/min"],
    ),
    Mistake(
        "a rate of zero",
        5,
        "[tiers.gold]\nrate = \"0/s\"\n",
        &["0/s"],
    ),
    Mistake(
        "a rate that is a number",
        5,
        "[tiers.gold]\nrate = 10\n",
        &["rate"],
    ),
    Mistake(
        "a burst of zero",
        5,
        "[tiers.gold]\nburst = 0\n",
        &["burst", "1"],
    ),
    Mistake(
        "a negative quota",
        5,
        "[tiers.gold]\ndaily_quota = -1\n",
        &["daily_quota", "-1"],
    ),
    Mistake(
        "a quota in words",
        5,
        "[tiers.gold]\ndaily_quota = \"many\"\n",
        &["daily_quota", "many", "unlimited"],
    ),
    Mistake(
        "a concurrency of zero",
        5,
        "[tiers.gold]\nconcurrency = 0\n",
        &["concurrency"],
    ),
    Mistake(
        "a tier's name in capitals",
        4,
        "[tiers.Gold]\nburst = 1\n",
        &["Gold"],
    ),
    Mistake(
        "a tier given twice",
        6,
        "[tiers.gold]\nburst = 1\n[tiers.gold]\nburst = 2\n",
        &["gold"],
    ),
    Mistake(
        "an entry given twice",
        6,
        "[policy]\nmode = \"enforce\"\nmode = \"observe\"\n",
        &["mode"],
    ),
    Mistake(
        "an unknown source",
        5,
        "[identify]\nsources = [\"cookie:id\"]\n",
        &["cookie:id", "header:"],
    ),
    Mistake("no source", 4, "[identify]\nsources = []\n", &["sources"]),
    Mistake(
        "a source given twice",
        5,
        "[identify]\nsources = [\"bearer\", \"bearer\"]\n",
        &["bearer"],
    ),
    Mistake(
        "too many headers",
        5,
        "[identify]\nsources = [\"header:a\", \"header:b\", \"header:c\", \"header:d\", \"header:e\"]\n",
        &["4"],
    ),
    Mistake(
        "an invalid header name",
        5,
        "[identify]\nsources = [\"header:x key\"]\n",
        &["x key"],
    ),
    Mistake("no TOML", 4, "[policy\n", &[]),
    Mistake(
        "a section that is a value",
        4,
        "policy = \"pass\"\n",
        &["policy"],
    ),
];

#[test]
fn every_mistake_is_reported_with_file_line_and_correction() {
    let lab = Lab::loopback();
    let path = lab.file("checked.toml").display().to_string();
    for Mistake(what, line, text, words) in BAD {
        // A top-level key must come before the first table.
        let (text, line) = if text.starts_with("policy =") {
            (format!("{text}{ATTACH}"), 1)
        } else {
            (format!("{ATTACH}{text}"), *line)
        };
        let output = check(&lab, &text);
        assert_eq!(output.code, exit::USAGE, "{what}: {output:?}");
        let place = format!("{path}:{line}");
        for word in [place.as_str()].iter().chain(*words) {
            assert!(
                output.stderr.contains(word),
                "{what}: no {word:?} in {output:?}"
            );
        }
    }
}

#[test]
fn invalid_attach_settings_are_reported() {
    let lab = Lab::loopback();
    let path = lab.file("checked.toml").display().to_string();
    let bad: [(&str, usize, &str); 8] = [
        ("interfaces = [\"lo\"]\nports = [0]\n", 3, "0"),
        ("interfaces = [\"lo\"]\nports = [65536]\n", 3, "65536"),
        ("interfaces = [\"lo\"]\nports = [80, 80]\n", 3, "80"),
        ("interfaces = [\"lo\"]\nports = []\n", 1, "ports"),
        ("interfaces = []\nports = [80]\n", 1, "interfaces"),
        ("interfaces = [\"nosuch0\"]\nports = [80]\n", 2, "nosuch0"),
        ("interfaces = [\"lo\", \"lo\"]\nports = [80]\n", 2, "lo"),
        ("interfaces = \"lo\"\nports = [80]\n", 2, "interfaces"),
    ];
    for (lines, line, word) in bad {
        let output = check(&lab, &format!("[attach]\n{lines}"));
        output.assert_fails(exit::USAGE, &[&format!("{path}:{line}"), word]);
    }
}

#[test]
fn all_mistakes_of_a_file_are_reported_together() {
    let lab = Lab::loopback();
    let text =
        format!("{ATTACH}[policy]\nmode = \"lenient\"\n[tiers.gold]\nrate = \"fast\"\nburst = 0\n");
    let output = check(&lab, &text);
    output.assert_fails(
        exit::USAGE,
        &["checked.toml:5", "checked.toml:7", "checked.toml:8"],
    );
}

#[test]
fn check_accepts_a_valid_file_and_prints_its_settings() {
    let lab = Lab::loopback();
    let text = format!("{ATTACH}[tiers.gold]\ndaily_quota = 50000\nrate = \"5/s\"\n");
    let output = check(&lab, &text);
    assert_eq!(output.code, exit::DONE, "{output:?}");
    for word in [
        "lo", "80", "gold", "50000", "5/s", "profile", "1000", "master", "10000",
    ] {
        assert!(output.stdout.contains(word), "no {word} in {output:?}");
    }
}

#[test]
fn documented_example_is_valid() {
    let text = r#"
[attach]
interfaces = ["lo"]
ports      = [80]

[identify]
sources    = ["header:x-api-key", "bearer", "basic"]

[policy]
mode        = "enforce"
missing_key = "pass"
unknown_key = "pass"
malformed   = "reject"
on_limit    = "keepalive"
untracked   = "pass"
table_full  = "reject"
connect     = "reject"
http2       = "reject"
preflight   = "pass"

[tiers.profile]
daily_quota = 1000
rate        = "1/ms"
burst       = 1
concurrency = 20
connections = "unlimited"

[tiers.master]
daily_quota = 10000
rate        = "1/ms"
burst       = 1
concurrency = 20
"#;
    let output = check(&Lab::loopback(), text);
    assert_eq!(output.code, exit::DONE, "{output:?}");
}

#[test]
fn missing_file_is_named() {
    let lab = Lab::loopback();
    let path = lab.file("absent.toml").display().to_string();
    for command in ["check", "run"] {
        let output = Limiter::alone(&[command, "-c", &path]);
        output.assert_fails(exit::USAGE, &[&path]);
    }
}

#[test]
fn run_with_an_invalid_file_changes_nothing() {
    let lab = Lab::veth();
    let config = Config::new(&lab).policy("mode = \"lenient\"");
    let mut limiter = Limiter::prepare(&lab, "limiter", &config);
    limiter.launch(&[]);
    assert_eq!(limiter.wait_for_end(), Some(exit::USAGE));
    assert!(limiter.log().contains("lenient"), "{}", limiter.log());
    assert!(!limiter.pin_dir().exists());
    assert!(!limiter.state_dir().exists());
}

#[test]
fn interfaces_and_ports_can_be_given_on_the_command_line() {
    let lab = Lab::veth();
    let _nginx = limiter_tests::Nginx::start(&lab, &[80, 81]);
    let config = Config::new(&lab)
        .attach_lines("interfaces = [\"lo\"]\nports = [80]\n")
        .tier("profile", "rate = \"1/min\"\nburst = 1");
    let mut limiter = Limiter::prepare(&lab, "limiter", &config);
    limiter.run(&["--interface", "s0", "--port", "81"]);
    let key = limiter.key("acme/web");
    let status = |port| lab.connect(port).get("/", &key).status;
    assert_eq!([status(80), status(80)], [200, 200]);
    assert_eq!([status(81), status(81)], [200, 429]);
}

#[test]
fn check_needs_no_daemon_and_changes_nothing() {
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 5"));
    rig.limiter.key("acme/web");
    let text = Config::new(&rig.lab)
        .tier("profile", "daily_quota = 6")
        .to_string();
    assert_eq!(check(&rig.lab, &text).code, exit::DONE);
    assert_eq!(rig.limiter.usage("acme/web").daily_quota, Some(5));
}
