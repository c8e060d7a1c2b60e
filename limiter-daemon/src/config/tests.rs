//! What the file may say, and how each mistake is answered.

use std::path::Path;

use super::*;
use crate::limits::Limits;

const ATTACH: &str = "[attach]\ninterfaces = [\"eth0\"]\nports = [80]\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Some(Path::new("f.toml")), &Overlay::default())
}

fn with_attach(text: &str) -> Result<Config, ConfigError> {
    parse(&format!("{ATTACH}{text}"))
}

fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(ToOwned::to_owned).collect(),
    }
}

#[test]
fn the_file_of_design_is_valid_and_means_the_defaults() {
    let text = r#"[attach]
interfaces = ["eth0"]
ports      = [80]
[identify]
sources    = ["header:x-api-key", "bearer", "basic"]
[policy]
mode        = "enforce"
missing_key = "pass"
unknown_key = "pass"
malformed   = "reject"
on_limit    = "close"
untracked   = "pass"
table_full  = "reject"
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
    assert_eq!(parse(text).unwrap(), with_attach("").unwrap());
}

#[test]
fn healing_can_be_quicker() {
    let text = "[healing]\ncheck_interval = \"500ms\"\nsuspect_after = \"1min\"\n";
    let healing = with_attach(text).unwrap().healing;
    assert_eq!(healing.check_interval.0.as_millis(), 500);
    assert_eq!(healing.suspect_after.0.as_secs(), 60);
    assert_eq!(healing.recount_interval.0.as_secs(), 30);
}

#[test]
fn a_built_in_tier_keeps_what_is_not_said() {
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
fn a_tier_of_ones_own_limits_only_what_it_names() {
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
fn unknown_keys_can_have_a_tier() {
    let text =
        "[policy]\nunknown_key = \"tier:gold\"\n[tiers.gold]\ndaily_quota = 5\nrate = \"1/s\"\n";
    let config = with_attach(text).unwrap();
    let UnknownKey::Tier(tier) = config.policy.unknown_key else {
        panic!("not a tier")
    };
    assert_eq!(tier.as_str(), "gold");
}

/// Each mistake, after three lines of `[attach]`, and what the one complaint about it says.
#[test]
fn mistakes_are_told_with_place_and_remedy() {
    for (text, wanted) in [
        (
            "[polcy]\n",
            "f.toml:4:2: unknown section `polcy` (did you mean `policy`?)",
        ),
        (
            "[policy]\nmod = \"x\"\n",
            "f.toml:5:1: unknown entry `policy.mod` (did you mean `mode`?)",
        ),
        (
            "[policy]\nzzzzzzzz = 1\n",
            "f.toml:5:1: unknown entry `policy.zzzzzzzz`: known here are mode, missing_key",
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
            "[policy]\non_limit = \"keepalive\"\n",
            "f.toml:5:12: `policy.on_limit = \"keepalive\"` is not available yet: use \"close\"",
        ),
        (
            "[policy]\nunknown_key = \"tier:glod\"\n[tiers.gold]\ndaily_quota = 1\nrate = \"1/s\"\n",
            "there is no tier `glod` (did you mean `gold`?); tiers are gold, master, profile",
        ),
        (
            "[policy]\nunknown_key = \"drop\"\n",
            "is not one of \"pass\", \"reject\", \"tier:NAME\"",
        ),
        ("policy = 3\n", "`attach.policy`"),
        (
            "[tiers.Gold]\ndaily_quota = 1\nrate = \"1/s\"\n",
            "`Gold` is not a tier's name: 1 to 32 lower-case letters",
        ),
        (
            "[tiers.profile]\nrate = \"1/h\"\n",
            "f.toml:5:8: `tiers.profile.rate`: `1/h` is not a rate: write requests a window as N/ms, N/s, N/min or N/10ms",
        ),
        (
            "[tiers.profile]\nrate = 5\n",
            "`tiers.profile.rate` must be a string in quotes, not an integer",
        ),
        (
            "[tiers.profile]\nburst = 0\n",
            "`tiers.profile.burst = 0` is out of range: from 1 to",
        ),
        (
            "[tiers.profile]\nconcurrency = 0\n",
            "`tiers.profile.concurrency = 0` is out of range: from 1 to",
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
        ("[identify]\nsources = []\n", "`identify.sources` is empty"),
        (
            "[identify]\nsources = [\"bearer\", \"bearer\"]\n",
            "f.toml:5:22: `identify.sources[1]`: the source bearer is given twice",
        ),
        (
            "[identify]\nsources = [\"header:X-Key\", \"header:x_key\"]\n",
            "is given twice",
        ),
        (
            "[identify]\nsources = [\"header:a\", \"header:b\", \"header:c\", \"header:d\", \"header:e\"]\n",
            "`identify.sources[4]`: at most 4 header sources",
        ),
        (
            "[identify]\nsources = [\"header:x y\"]\n",
            "`x y` is not a header's name",
        ),
        (
            "[identify]\nsources = [\"header:authorization\"]\n",
            "is read as \"bearer\" or \"basic\"",
        ),
        (
            "[identify]\nsources = [\"header:content-length\"]\n",
            "frames the message",
        ),
        (
            "[identify]\nsources = [\"baerer\"]\n",
            "is not a source: \"header:NAME\", \"bearer\" or \"basic\" (did you mean `bearer`?)",
        ),
        (
            "[tables]\nflows = 1\n",
            "`tables.flows = 1` is out of range: from 64 to 16777216",
        ),
        (
            "[healing]\ncheck_interval = \"10h\"\n",
            "f.toml:5:18: `healing.check_interval = \"10h\"` is not a time: a number and ms, s or min",
        ),
        (
            "[healing]\nrecount_interval = \"10ms\"\n",
            "`healing.recount_interval = \"10ms\"` is out of range: from 100ms to 60min",
        ),
        (
            "[healing]\nsuspect_after = 5\n",
            "`healing.suspect_after` must be a string in quotes, not an integer",
        ),
        (
            "[control]\ngroup = \"a b\"\n",
            "f.toml:5:9: `control.group = \"a b\"` is not a group's name",
        ),
        ("[control]\nadmin_group = \"0\"\n", "is not a group's name"),
        ("[control]\ngroup = 100\n", "must be a string in quotes"),
        (
            "[control]\nadmingroup = \"wheel\"\n",
            "unknown entry `control.admingroup` (did you mean `admin_group`?)",
        ),
        (
            "[metrics]\nlisten = \"localhost:9191\"\n",
            "f.toml:5:10: `metrics.listen = \"localhost:9191\"` is not an address and a port: write it like \"127.0.0.1:9191\"",
        ),
        (
            "[metrics]\nlisten = \"0.0.0.0:9191\"\n",
            "f.toml:5:10: `metrics.listen = \"0.0.0.0:9191\"` is open to other hosts, and whoever can connect reads it: use 127.0.0.1, or say `allow_remote = true` beside it",
        ),
        (
            "[metrics]\nlisten = \"[::]:9191\"\nallow_remote = false\n",
            "is open to other hosts",
        ),
        ("[metrics]\nlisten = \"127.0.0.1:0\"\n", "has port 0"),
        (
            "[metrics]\nlisten = \"127.0.0.1:80\"\n",
            "has a port that is guarded (`attach.ports`): use another one",
        ),
        (
            "[metrics]\nallow_remote = \"yes\"\n",
            "`metrics.allow_remote` must be true or false, not a string",
        ),
        (
            "[metrics]\ntop_scopes = 1001\n",
            "`metrics.top_scopes = 1001` is out of range: from 0 to 1000",
        ),
        (
            "[metrics]\nlsten = \"127.0.0.1:9191\"\n",
            "unknown entry `metrics.lsten` (did you mean `listen`?)",
        ),
        (
            "[history]\nkeep = \"1y\"\n",
            "f.toml:5:8: `history.keep = \"1y\"` is not a number of days: write it like \"400d\"",
        ),
        ("[history]\nkeep = \"d\"\n", "is not a number of days"),
        (
            "[history]\nkeep = \"1d\"\n",
            "`history.keep = \"1d\"` is out of range: from 2d to 3660d",
        ),
        (
            "[history]\nkeep = \"99999999999d\"\n",
            "is out of range: from 2d to 3660d",
        ),
        (
            "[history]\nkeep = 400\n",
            "`history.keep` must be a string in quotes, not an integer",
        ),
        (
            "[history]\nkep = \"400d\"\n",
            "unknown entry `history.kep` (did you mean `keep`?)",
        ),
        (
            "[healing]\nchek_interval = \"10s\"\n",
            "unknown entry `healing.chek_interval` (did you mean `check_interval`?)",
        ),
    ] {
        let told = problems(&format!("{ATTACH}{text}"));
        assert!(
            told.iter().any(|line| line.contains(wanted)),
            "{text}\nwanted {wanted}\ntold {told:#?}"
        );
        assert_eq!(told.len(), 1, "{text}\n{told:#?}");
    }
}

#[test]
fn mistakes_in_attach_are_told() {
    for (text, wanted) in [
        ("", "f.toml: `attach.interfaces` names none"),
        (
            "[attach]\nports = [80]\n",
            "f.toml:1:1: `attach.interfaces` names none: give at least one, like `interfaces = [\"eth0\"]`",
        ),
        (
            "[attach]\ninterfaces = []\nports = [80]\n",
            "`attach.interfaces` names none",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\n",
            "`attach.ports` names none",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\nports = [0]\n",
            "f.toml:3:10: `attach.ports[0] = 0` is not a port: from 1 to 65535",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\nports = [65536]\n",
            "`attach.ports[0] = 65536` is not a port",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\nports = [80, 80]\n",
            "f.toml:3:14: `attach.ports[1]`: the port 80 is given twice",
        ),
        (
            "[attach]\ninterfaces = [\"lo\"]\nports = [\"80\"]\n",
            "must be a whole number, not a string",
        ),
        (
            "[attach]\ninterfaces = \"lo\"\nports = [80]\n",
            "`attach.interfaces` must be an array",
        ),
        (
            "[attach]\ninterfaces = [\"\"]\nports = [80]\n",
            "an interface's name is empty",
        ),
        (
            "[attach]\ninterfaces = [\"lo\", \"lo\"]\nports = [80]\n",
            "the interface lo is given twice",
        ),
        (
            "[attach]\ninterfaces = [\"a-name-that-is-too-long\"]\nports = [80]\n",
            "at most 15 bytes",
        ),
        (
            "[attach]\ninterfaces = [\"e[0\"]\nports = [80]\n",
            "`e[0` is not a glob",
        ),
        ("[attach\n", "f.toml:1:"),
        (
            "[attach]\nports = [80]\nports = [81]\n",
            "`ports` is given twice: keep one of them",
        ),
    ] {
        let told = problems(text);
        assert!(
            told.iter().any(|line| line.contains(wanted)),
            "{text}\nwanted {wanted}\ntold {told:#?}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let told = problems(
        "[attach]\ninterfaces = [\"lo\"]\nports = [0]\n[policy]\nmode = \"x\"\n[tabels]\n",
    );
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].starts_with("f.toml:3:") && told[1].starts_with("f.toml:5:"));
}

#[test]
fn the_command_line_goes_before_the_file() {
    let overlay = Overlay {
        interfaces: vec!["lo".to_owned(), "veth*".to_owned()],
        ports: vec![8080],
        ..Overlay::default()
    };
    let config = Config::parse(ATTACH, None, &overlay).unwrap();
    assert_eq!(config.attach.ports, [8080]);
    assert!(config.attach.interfaces[1].matches("veth7"));
    let alone = Config::parse("", None, &overlay).unwrap();
    assert_eq!(alone.attach, config.attach);
}

#[test]
fn a_missing_file_that_was_named_is_an_error() {
    let overlay = Overlay {
        file: Some("/nonexistent/limiter.toml".into()),
        interfaces: vec!["lo".to_owned()],
        ports: vec![80],
    };
    let error = Config::load(&overlay).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error}");
}

#[test]
fn names_must_exist_and_globs_may_match_nothing() {
    let interface = |name: &str, index| crate::kernel::netdev::Interface {
        name: name.to_owned(),
        index,
        link_layer: crate::kernel::netdev::LinkLayer::Ethernet,
    };
    let present = [interface("eth0", 2), interface("lo", 1)];
    let text = "[attach]\ninterfaces = [\"lo\", \"eth*\", \"veth*\", \"eht0\"]\nports = [80]\n";
    let config = parse(text).unwrap();
    let found = resolve(&config.attach, &present);
    assert_eq!(found.interfaces, present);
    assert_eq!(
        found.warnings[0].to_string(),
        "f.toml:2:29: no interface matches `veth*` now"
    );
    assert_eq!(
        found.problems[0].to_string(),
        "f.toml:2:38: there is no interface `eht0` (did you mean `eth0`?); interfaces here are eth0, lo"
    );
}
