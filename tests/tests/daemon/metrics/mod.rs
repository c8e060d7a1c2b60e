// SPDX-License-Identifier: MIT OR Apache-2.0

//! The metrics page has correct values, clients can parse it, its size is limited, and the packaged
//! files work with it.

mod packaged;
mod page;

use std::{fs, path::Path, time::Duration};

use limiter_tests::{
    Config, GUARDED, Limiter, Rig, avoid_midnight, eventually,
    limiter::{Usage, exit},
    metrics::{Page, on_page},
    nginx,
};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(120);

const DISABLED: &str = "disabled-key-0cc175b9c0f1b6a8";

/// Adds a tier for each limit that can be the reason for a refusal.
fn every_reason(config: Config) -> Config {
    let config = on_page(config, "program_time = true").section(
        "policy",
        "missing_key = \"reject\"\nunknown_key = \"reject\"\n",
    );
    [
        ("rate", "rate = \"1/min\"\nburst = 1"),
        ("concurrency", "concurrency = 2"),
        ("connections", "connections = 1"),
        ("daily_quota", "daily_quota = 3"),
    ]
    .into_iter()
    .fold(config, |config, (reason, lines)| {
        config.tier(&tier(reason), lines)
    })
}

const REASONS: [&str; 4] = ["rate", "concurrency", "connections", "daily_quota"];

fn tier(reason: &str) -> String {
    format!("by_{reason}")
}

/// The name of each scope, its key, and the limit that its tier has. Each tier has two scopes, and
/// the second of them is in observe mode.
struct Scopes(Vec<(String, String, &'static str)>);

impl Scopes {
    fn make(limiter: &Limiter) -> Self {
        let mut scopes = Vec::new();
        for reason in REASONS {
            for account in ["acme", "observed"] {
                let scope = format!("{account}/{reason}");
                let key = limiter.key_of_tier(&scope, &tier(reason));
                if account == "observed" {
                    limiter.done(&["scope", "mode", &scope, "observe", "--note", "trial"]);
                }
                scopes.push((scope, key, reason));
            }
        }
        Self(scopes)
    }

    /// Sends more requests with the key of each scope than the tier of the scope permits. Scopes in
    /// observe mode admit all of these requests.
    fn ask_too_much(&self, rig: &Rig) {
        for (scope, key, reason) in &self.0 {
            let expected = if scope.starts_with("observed") {
                200
            } else {
                429
            };
            let already = rig.nginx.gate().waiting();
            let held = match *reason {
                "concurrency" => nginx::hold(&rig.lab, &rig.nginx, key, 2),
                "connections" => nginx::hold(&rig.lab, &rig.nginx, key, 1),
                "daily_quota" => {
                    assert_eq!(rig.statuses(key, 3), [200; 3]);
                    Vec::new()
                }
                _ => {
                    assert_eq!(rig.get(key).status, 200);
                    Vec::new()
                }
            };
            assert_eq!(rig.statuses(key, 2), [expected; 2], "{scope}");
            assert_eq!(rig.nginx.gate().waiting(), already + held.len());
            rig.nginx.gate().release(held.len());
            for mut conn in held {
                assert_eq!(conn.response().status, 200);
            }
            rig.assert_nothing_left(scope);
        }
    }
}

/// Sends requests that are counted for no scope. One request has no key, two have an unknown key,
/// three have a disabled key, and four are malformed.
fn ask_without_scope(rig: &Rig) {
    rig.limiter.scope("acme/off");
    let import = ["key", "import", "acme/off"];
    let imported = rig.limiter.cli_with_input(&import, DISABLED);
    assert_eq!(imported.code, exit::DONE, "{imported:?}");
    let listed = rig.limiter.json(&["key", "list", "acme/off"]);
    let id = listed[0]["id"].as_str().expect("an id");
    rig.limiter.done(&["key", "disable", id]);
    let none = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n";
    assert_eq!(rig.lab.connect(GUARDED).ask(none).status, 401);
    assert_eq!(rig.statuses("nobodys", 2), [401; 2]);
    assert_eq!(rig.statuses(DISABLED, 3), [401; 3]);
    for _ in 0..4 {
        let two = b"GET / HTTP/1.1\r\nX-Api-Key: a\r\nX-Api-Key: b\r\n\r\n";
        assert_eq!(rig.lab.connect(GUARDED).ask(two).status, 400);
    }
}

fn usages(limiter: &Limiter) -> Vec<Usage> {
    let all = limiter.json(&["usage"]);
    let all = all.as_array().expect("all scopes");
    all.iter().map(Usage::parse).collect()
}

#[test]
fn metrics_agree_with_the_server_and_with_usage() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(every_reason);
    let scopes = Scopes::make(&rig.limiter);
    scopes.ask_too_much(&rig);
    ask_without_scope(&rig);
    let page = Page::read(&rig.lab);
    let usages = usages(&rig.limiter);
    for reason in REASONS {
        let tier = tier(reason);
        let of_tier = || usages.iter().filter(|usage| usage.tier == tier);
        let keys = scopes.0.iter().filter(|(_, _, of)| *of == reason);
        let served: u64 = keys.map(|(_, key, _)| rig.nginx.served(key)).sum();
        let used: u64 = of_tier().map(|usage| usage.used).sum();
        assert_eq!(page.requests(&tier, "admitted", ""), served, "{tier}");
        assert_eq!(served, used, "{tier}");
        for other in REASONS {
            let of = |refused: limiter_tests::limiter::RefusalCounts| match other {
                "rate" => refused.rate,
                "concurrency" => refused.concurrency,
                "connections" => refused.connections,
                _ => refused.daily_quota,
            };
            let refused: u64 = of_tier().map(|usage| of(usage.refused)).sum();
            let would: u64 = of_tier().map(|usage| of(usage.would_refuse)).sum();
            let wanted = if other == reason { 2 } else { 0 };
            assert_eq!((refused, would), (wanted, wanted), "{tier} {other}");
            assert_eq!(page.requests(&tier, "refused", other), refused);
            let sample = format!(
                "limiter_would_refuse_requests_total{{tier=\"{tier}\",reason=\"{other}\"}}"
            );
            assert_eq!(page.count(&sample), would);
        }
        assert_eq!(page.count(&format!("limiter_scopes{{tier=\"{tier}\"}}")), 2);
    }
    for (reason, count) in [
        ("missing_key", 1),
        ("unknown_key", 2),
        ("disabled_key", 3),
        ("malformed", 4),
    ] {
        assert_eq!(page.requests("", "refused", reason), count, "{reason}");
    }
    // These counters are read from the kernel. They must agree with the counts above, which the
    // daemon adds up for each tier.
    let admitted: u64 = usages.iter().map(|usage| usage.used).sum();
    assert_eq!(page.count("limiter_admitted_total"), admitted);
    assert_eq!(
        page.count("limiter_responses_sent_total"),
        2 * REASONS.len() as u64 + 10
    );
    // The page must have a metric for every counter that `limiter status` shows.
    let status = rig.limiter.status();
    for name in status["coverage"].as_object().expect("counters").keys() {
        page.count(&format!("limiter_{name}_total"));
    }
    assert_eq!(page.value("limiter_health{part=\"store\"}"), 1.0);
}

#[test]
fn gauges_show_the_present_state() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| {
        on_page(config, "top_scopes = 3").tier("profile", "daily_quota = 10\nconcurrency = 5")
    });
    let key = rig.limiter.key("acme/web");
    let held = nginx::hold(&rig.lab, &rig.nginx, &key, 4);
    for (scope, requests) in [("acme/a", 10), ("acme/b", 1), ("acme/c", 6), ("acme/d", 0)] {
        let key = rig.limiter.key(scope);
        assert_eq!(rig.statuses(&key, requests), vec![200; requests]);
    }
    let page = Page::read(&rig.lab);
    assert_eq!(
        page.count("limiter_requests_in_flight{tier=\"profile\"}"),
        4
    );
    assert_eq!(page.count("limiter_connections{tier=\"profile\"}"), 4);
    let bucket = |le: &str| {
        page.count(&format!(
            "limiter_quota_used_ratio_bucket{{tier=\"profile\",le=\"{le}\"}}"
        ))
    };
    assert_eq!(
        ["0", "0.1", "0.25", "0.5", "0.75", "0.99", "1", "+Inf"].map(bucket),
        [1, 2, 2, 3, 4, 4, 5, 5]
    );
    let shown: Vec<_> = page
        .samples
        .iter()
        .filter(|(sample, _)| sample.starts_with("limiter_top_scope_quota_used_ratio"))
        .map(|(sample, value)| (sample.split('"').nth(1).expect("a scope"), *value))
        .collect();
    assert_eq!(shown, [("acme/a", 1.0), ("acme/c", 0.6), ("acme/web", 0.4)]);
    for (table, entries, capacity) in [
        ("scopes", 5, 1024),
        ("keys", 5, 4096),
        ("unknown_keys", 0, 256),
    ] {
        let of = |name: &str| page.count(&format!("limiter_{name}{{table=\"{table}\"}}"));
        assert_eq!(
            (of("table_entries"), of("table_capacity_entries")),
            (entries, capacity)
        );
    }
    let attached: f64 = page
        .samples
        .iter()
        .filter(|(sample, _)| sample.starts_with("limiter_attached"))
        .map(|(_, value)| value)
        .sum();
    assert_eq!(attached, 2.0);
    rig.nginx.gate().release(4);
    drop(held);
    rig.assert_nothing_left("acme/web");
    let page = Page::read(&rig.lab);
    assert_eq!(
        page.count("limiter_requests_in_flight{tier=\"profile\"}"),
        0
    );
    assert_eq!(page.count("limiter_connections{tier=\"profile\"}"), 0);
    rig.limiter.terminate();
}

/// Returns whether the daemon itself counts the metric `sample`. Such a metric starts at zero with
/// each daemon. All other metrics are counted in the maps, and start at zero with new maps.
fn is_of_the_daemon(sample: &str) -> bool {
    [
        "limiter_healing",
        "limiter_healed",
        "limiter_store_write",
        "limiter_program_run",
    ]
    .iter()
    .any(|name| sample.starts_with(name))
}

#[test]
fn counters_decrease_only_if_the_maps_are_removed() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| {
        every_reason(config).section("policy", "unknown_key = \"tier:by_daily_quota\"\n")
    });
    let key = rig.limiter.key_of_tier("acme/web", "by_rate");
    let other = rig.limiter.key_of_tier("acme/app", "by_rate");
    rig.statuses(&key, 3);
    rig.statuses(&other, 2);
    rig.statuses("unknown-key", 5);
    let first = Page::read(&rig.lab);
    assert_eq!(first.requests("by_rate", "refused", "rate"), 3);
    assert_eq!(first.requests("by_rate", "admitted", ""), 2);
    eventually("the scope of the unknown key is known", || {
        Page::read(&rig.lab).requests("by_daily_quota", "refused", "daily_quota") == 2
    });

    // The counters of a tier do not decrease when a scope is removed or added again.
    rig.limiter
        .done(&["scope", "remove", "acme/web", "--with-keys"]);
    let second = Page::read(&rig.lab);
    second.assert_after(&first, |_| false);
    assert_eq!(second.requests("by_rate", "refused", "rate"), 3);
    let key = rig.limiter.key_of_tier("acme/web", "by_rate");
    rig.statuses(&key, 2);
    let third = Page::read(&rig.lab);
    third.assert_after(&second, |_| false);
    assert_eq!(third.requests("by_rate", "refused", "rate"), 4);
    assert_eq!(third.requests("by_rate", "admitted", ""), 3);

    // Requests that are refused while no daemon is running are counted as well.
    rig.limiter.kill();
    rig.statuses(&key, 2);
    rig.limiter.run(&[]);
    let fourth = Page::read(&rig.lab);
    fourth.assert_after(&third, is_of_the_daemon);
    assert_eq!(fourth.requests("by_rate", "refused", "rate"), 6);
    // When the unknown key is registered, the counts of its former scope are kept.
    rig.limiter.scope("acme/new");
    let imported = rig
        .limiter
        .cli_with_input(&["key", "import", "acme/new"], "unknown-key");
    assert_eq!(imported.code, exit::DONE, "{imported:?}");
    let fifth = Page::read(&rig.lab);
    fifth.assert_after(&fourth, |_| false);
    assert_eq!(fifth.requests("by_daily_quota", "admitted", ""), 3);

    // Without the pinned maps, as after a reboot, all counters start at zero.
    rig.limiter.terminate();
    remove_pins(rig.limiter.pin_dir());
    rig.limiter.run(&[]);
    let last = Page::read(&rig.lab);
    assert_eq!(last.requests("by_rate", "refused", "rate"), 0);
    assert_eq!(last.requests("by_daily_quota", "admitted", ""), 0);
    assert_eq!(last.count("limiter_admitted_total"), 0);
}

fn remove_pins(directory: &Path) {
    for layout in fs::read_dir(directory).expect("the pin directory") {
        let layout = layout.expect("an entry").path();
        for pin in fs::read_dir(layout).expect("pins") {
            fs::remove_file(pin.expect("a pin").path()).expect("remove a pin");
        }
    }
}
