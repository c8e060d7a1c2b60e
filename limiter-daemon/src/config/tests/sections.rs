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
