// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the small sections: their settings, and mistakes.

use super::*;

#[test]
fn intervals_of_healing_can_be_set() {
    let text = "[healing]\ncheck_interval = \"500ms\"\nsuspect_after = \"1min\"\n";
    let healing = with_attach(text).unwrap().healing;
    assert_eq!(healing.check_interval.0.as_millis(), 500);
    assert_eq!(healing.suspect_after.0.as_secs(), 60);
    assert_eq!(healing.recount_interval.0.as_secs(), 30);
}

#[test]
fn mistakes_in_metrics_are_reported() {
    assert_each_is_the_only_problem(&[
        (
            "[metrics]\nlisten = \"localhost:9191\"\n",
            "f.toml:5:10: `metrics.listen = \"localhost:9191\"` is not an address and a port: write it like \"127.0.0.1:9191\"",
        ),
        (
            "[metrics]\nlisten = \"0.0.0.0:9191\"\n",
            "f.toml:5:10: `metrics.listen = \"0.0.0.0:9191\"` is reachable from other hosts, and anyone who can connect can read the page: use 127.0.0.1, or add `allow_remote = true`",
        ),
        (
            "[metrics]\nlisten = \"[::]:9191\"\nallow_remote = false\n",
            "is reachable from other hosts",
        ),
        ("[metrics]\nlisten = \"127.0.0.1:0\"\n", "has port 0"),
        (
            "[metrics]\nlisten = \"127.0.0.1:80\"\n",
            "has a port that is guarded (`attach.ports`): use another port",
        ),
        (
            "[metrics]\nallow_remote = \"yes\"\n",
            "`metrics.allow_remote` must be true or false, not a string",
        ),
        (
            "[metrics]\ntop_scopes = 1001\n",
            "`metrics.top_scopes = 1001` is out of range: give a number from 0 to 1000",
        ),
        (
            "[metrics]\nlsten = \"127.0.0.1:9191\"\n",
            "unknown entry `metrics.lsten` (did you mean `listen`?)",
        ),
    ]);
}

#[test]
fn mistakes_in_other_sections_are_reported() {
    assert_each_is_the_only_problem(&[
        (
            "[tables]\nflows = 1\n",
            "`tables.flows = 1` is out of range: give a number from 64 to 16777216",
        ),
        (
            "[healing]\ncheck_interval = \"10h\"\n",
            "f.toml:5:18: `healing.check_interval = \"10h\"` is not a duration: write a number with ms, s or min",
        ),
        (
            "[healing]\nrecount_interval = \"10ms\"\n",
            "`healing.recount_interval = \"10ms\"` is out of range: give a duration from 100ms to 60min",
        ),
        (
            "[healing]\nsuspect_after = 5\n",
            "`healing.suspect_after` must be a string in quotes, not an integer",
        ),
        (
            "[control]\ngroup = \"a b\"\n",
            "f.toml:5:9: `control.group = \"a b\"` is not the name of a group",
        ),
        (
            "[control]\nadmin_group = \"0\"\n",
            "is not the name of a group",
        ),
        ("[control]\ngroup = 100\n", "must be a string in quotes"),
        (
            "[control]\nadmingroup = \"wheel\"\n",
            "unknown entry `control.admingroup` (did you mean `admin_group`?)",
        ),
        (
            "[history]\nkeep = \"1y\"\n",
            "f.toml:5:8: `history.keep = \"1y\"` is not a number of days: write it like \"400d\"",
        ),
        ("[history]\nkeep = \"d\"\n", "is not a number of days"),
        (
            "[history]\nkeep = \"1d\"\n",
            "`history.keep = \"1d\"` is out of range: give a number of days from 2d to 3660d",
        ),
        (
            "[history]\nkeep = \"99999999999d\"\n",
            "is out of range: give a number of days from 2d to 3660d",
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
    ]);
}

#[test]
fn a_fleet_has_defaults() {
    let config = with_attach("[fleet]\nengine = [\"rediss://engine-1\"]\n").unwrap();
    let fleet = config.fleet.unwrap();
    assert_eq!(fleet.engine[0].to_string(), "engine-1:6379");
    assert_eq!(fleet.kind, limiter_fleet::client::Kind::Single);
    assert_eq!(engine_lost_as_str(fleet.engine_lost), "lease");
    assert_eq!((fleet.confirm, fleet.lease.0.as_secs()), (None, 60));
    assert!(config.tables.leases);
    assert_eq!(config.accounting.unattended, Unattended::Reject);
    let alone = with_attach("").unwrap();
    assert!(alone.fleet.is_none() && !alone.tables.leases);
    assert_eq!(alone.accounting.unattended, Unattended::Pass);
}

#[test]
fn the_entries_of_a_fleet_are_read() {
    let text = r#"[accounting]
unattended = "pass"
[fleet]
engine = ["redis://10.0.0.1:26379", "redis://10.0.0.2:26379"]
kind = "sentinel"
master = "limiter"
allow_plain = true
user = "limiter"
password_file = "/etc/limiter/engine.password"
ca_file = "/etc/limiter/ca.pem"
certificate_file = "/etc/limiter/client.pem"
key_file = "/etc/limiter/client.key"
host = "web-17"
engine_lost = "share"
confirm = 2
lease = "10s"
rate = "host"
"#;
    let config = with_attach(text).unwrap();
    // Only "lease" promises that the quota is never exceeded.
    assert_eq!(config.accounting.unattended, Unattended::Pass);
    let fleet = config.fleet.unwrap();
    let primary = "limiter".to_owned();
    assert_eq!(
        fleet.kind,
        limiter_fleet::client::Kind::Sentinel { primary }
    );
    assert_eq!(fleet.engine.len(), 2);
    assert_eq!(fleet.host.as_deref(), Some("web-17"));
    assert_eq!((fleet.confirm, fleet.lease.0.as_secs()), (Some(2), 10));
    let client = fleet.client.unwrap();
    assert_eq!(client.1, Path::new("/etc/limiter/client.key"));
}

#[test]
fn mistakes_in_a_fleet_are_reported() {
    let engine = "[fleet]\nengine = [\"rediss://engine-1\"]\n";
    let with = |rest: &str| format!("{engine}{rest}\n");
    let mistakes = [
        (
            "[fleet]\n".to_owned(),
            "`fleet.engine` is missing: name the engine",
        ),
        (
            "[fleet]\nengine = []\n".to_owned(),
            "`fleet.engine` is empty",
        ),
        (
            "[fleet]\nengine = [\"redis://10.0.0.1\"]\n".to_owned(),
            "f.toml:5:11: `fleet.engine[0] = \"redis://10.0.0.1\"` is a connection without TLS",
        ),
        (
            "[fleet]\nengine = [\"10.0.0.1:6379\"]\n".to_owned(),
            "`fleet.engine[0]`: \"10.0.0.1:6379\" is not an address; write redis://HOST:PORT",
        ),
        (
            "[fleet]\nengine = \"rediss://engine-1\"\n".to_owned(),
            "`fleet.engine` must be an array",
        ),
        (with("kind = \"sentinel\""), "needs `fleet.master`"),
        (
            with("master = \"m\""),
            "`fleet.master` belongs to `kind = \"sentinel\"`",
        ),
        (
            with("kind = \"replica\""),
            "is not one of \"single\", \"sentinel\", \"cluster\"",
        ),
        (with("user = \"a b\""), "is not the name of a user"),
        (
            with("password_file = \"password\""),
            "is not an absolute path",
        ),
        (with("key_file = \"/k\""), "belong together: name both"),
        (with("host = \"web 17\""), "is not the name of a host"),
        (
            with("engine_lost = \"pass\""),
            "is not one of \"lease\", \"share\", \"open\", \"closed\"",
        ),
        (
            with("confirm = 11"),
            "is out of range: give a number from 0 to 10",
        ),
        (with("lease = \"1d\""), "is not a duration"),
        (with("rate = \"fleet\""), "is not one of \"host\""),
        (
            with("engin_lost = \"open\""),
            "(did you mean `engine_lost`?)",
        ),
        (
            with("[accounting]\nunattended = \"pass\""),
            "`accounting.unattended = \"pass\"` contradicts `fleet.engine_lost = \"lease\"`",
        ),
    ];
    for (text, wanted) in &mistakes {
        assert_each_is_the_only_problem(&[(text, wanted)]);
    }
}
