// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter explain` predicts the response to the next request.

use limiter_tests::{GUARDED, Nginx, Rig, nginx::hold, request, seconds_to_midnight};
use serde_json::Value;

fn explain(rig: &Rig, object: &str) -> Value {
    rig.limiter.json(&["explain", object])
}

/// Sends a request on a new connection, and asserts that the request gets the response that
/// `limiter explain` has predicted. Returns the verdict and the whole prediction.
#[track_caller]
fn explained(rig: &Rig, object: &str, key: &str) -> (String, Value) {
    let view = explain(rig, object);
    let verdict = view["verdict"].as_str().expect("a verdict").to_owned();
    let wanted = match verdict.as_str() {
        "refused" => view["status"].as_u64().expect("a status"),
        _ => 200,
    };
    let status = rig.lab.connect(GUARDED).ask(&request("/", key)).status;
    assert_eq!(u64::from(status), wanted, "{view:#}");
    (verdict, view)
}

fn limit<'a>(view: &'a Value, name: &str) -> &'a Value {
    let limits = view["limits"].as_array().expect("limits");
    let found = limits.iter().find(|limit| limit["limit"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {view:#}"))
}

#[test]
fn explain_names_each_limit_before_it_refuses() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let set = |arguments: &[&str]| {
        let mut all = vec!["limits", "set", "acme/web", "--note", "a trial"];
        all.extend(arguments);
        rig.limiter.done(&all);
    };
    let (verdict, view) = explained(&rig, "acme/web", &key);
    assert_eq!(
        (verdict.as_str(), &view["reason"]),
        ("passes", &Value::Null)
    );
    assert_eq!(limit(&view, "daily_quota")["from"], "tier");

    // For the rate, the prediction also contains the time of the last admitted request (`since`)
    // and the time at which the next request is permitted (`until`).
    set(&["--rate", "1/min", "--burst", "1"]);
    assert_eq!(explained(&rig, "acme/web", &key).0, "passes");
    let (verdict, view) = explained(&rig, "acme/web", &key);
    assert_eq!(
        (verdict.as_str(), &view["reason"]),
        ("refused", &"rate".into())
    );
    let rate = limit(&view, "rate");
    assert_eq!(
        (&rate["value"], &rate["from"]),
        (&"1/min".into(), &"override".into())
    );
    let moment = |at: &Value| {
        let at = at.as_str().unwrap_or_else(|| panic!("no time in {view:#}"));
        chrono::DateTime::parse_from_rfc3339(at).expect("a time")
    };
    assert_eq!(
        (moment(&view["until"]) - moment(&view["since"])).num_seconds(),
        60
    );
    assert_eq!(view["override"]["note"], "a trial");
    set(&["--rate", "unlimited"]);

    set(&["--concurrency", "2"]);
    let held = hold(&rig.lab, &rig.nginx, &key, 2);
    let (verdict, view) = explained(&rig, "acme/web", &key);
    assert_eq!(
        (verdict.as_str(), &view["reason"]),
        ("refused", &"concurrency".into())
    );
    assert_eq!(limit(&view, "concurrency")["used"], 2);
    assert_eq!(view["until"], Value::Null);
    set(&["--concurrency", "unlimited", "--connections", "2"]);
    let (verdict, view) = explained(&rig, "acme/web", &key);
    assert_eq!(
        (verdict.as_str(), &view["reason"]),
        ("refused", &"connections".into())
    );
    rig.nginx.gate().open();
    drop(held);
    Nginx::wait_until_no_sockets(&rig.lab, GUARDED);
    set(&["--connections", "unlimited"]);
    assert_eq!(explained(&rig, "acme/web", &key).0, "passes");

    let used = rig.limiter.usage("acme/web").used.to_string();
    set(&["--daily-quota", &used]);
    let left = seconds_to_midnight();
    let (verdict, view) = explained(&rig, "acme/web", &key);
    assert_eq!(
        (verdict.as_str(), &view["reason"]),
        ("refused", &"daily_quota".into())
    );
    let until = view["until"].as_str().expect("an end");
    assert!(until.ends_with("T00:00:00Z") || left < 60, "{until}");
    assert!(view["since"].is_string(), "{view:#}");
    // The first line of the text output names the limit that refuses the next request.
    let text = rig.limiter.done(&["explain", "acme/web"]);
    assert!(
        text.starts_with("request      would be refused with 429: daily quota\n"),
        "{text}"
    );

    rig.limiter
        .done(&["scope", "mode", "acme/web", "observe", "--note", "look"]);
    let (verdict, view) = explained(&rig, "acme/web", &key);
    assert_eq!(
        (verdict.as_str(), &view["reason"]),
        ("observed", &"daily_quota".into())
    );
    assert_eq!(
        (&view["mode"], &view["mode_from"]),
        (&"observe".into(), &"scope".into())
    );
}

#[test]
fn explain_covers_disabled_keys_and_removed_scopes() {
    let rig = Rig::veth(|config| config.policy("unknown_key = \"reject\""));
    let key = rig.limiter.key("acme/web");
    let id = rig.limiter.json(&["key", "list"])[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(explained(&rig, &id, &key).0, "passes");
    rig.limiter.done(&["key", "disable", &id]);
    let (verdict, view) = explained(&rig, &id, &key);
    assert_eq!(
        (verdict.as_str(), &view["reason"]),
        ("refused", &"disabled_key".into())
    );
    let audit = rig.limiter.json(&["audit", &id]);
    let disabled = audit
        .as_array()
        .expect("entries")
        .last()
        .expect("an entry")
        .clone();
    assert_eq!(view["since"], disabled["at"]);
    // With the key disabled, `explain` still predicts that the limits of the scope admit a request,
    // but its text output states that the scope has no active key.
    assert_eq!(explain(&rig, "acme/web")["verdict"], "passes");
    let text = rig.limiter.done(&["explain", "acme/web"]);
    assert!(text.contains("no active key"), "{text}");
    rig.limiter.done(&["key", "enable", &id]);
    assert_eq!(explained(&rig, &id, &key).0, "passes");
    rig.limiter.done(&["key", "revoke", &id]);
    let (verdict, view) = explained(&rig, &id, &key);
    assert_eq!(
        (verdict.as_str(), view["key"]["state"].as_str()),
        ("refused", Some("revoked"))
    );

    rig.limiter
        .done(&["scope", "remove", "acme/web", "--with-keys"]);
    for gone in ["acme/web", id.as_str()] {
        let (verdict, view) = explained(&rig, gone, &key);
        assert_eq!(
            (verdict.as_str(), &view["reason"]),
            ("refused", &"disabled_key".into())
        );
        assert!(
            view["notes"][0]
                .as_str()
                .expect("a note")
                .contains("removed"),
            "{view:#}"
        );
    }
    let output = rig.limiter.cli(&["explain", "acme/wbe"]);
    output.assert_fails(1, &["there is no scope `acme/wbe`", "limiter key list"]);
}
