// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter events` prints refusals and changes as they happen.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::Instant,
};

use limiter_tests::{GUARDED, Limiter, Rig, eventually, process::Process, request};
use serde_json::Value;

/// The number of requests that are refused in a flood.
const FLOOD: u64 = 1200;
/// The number of clients that send the requests of a flood.
const CLIENTS: u64 = 4;

/// A running `limiter events --follow` whose output goes to a file.
struct Follower {
    _process: Process,
    file: PathBuf,
}

impl Follower {
    fn start(rig: &Rig, arguments: &[&str]) -> Self {
        let file = rig.lab.file("events");
        let mut command = rig.limiter.command(&["events", "--follow"]);
        command.args(arguments);
        Self {
            _process: Process::start("events", &mut command, &file),
            file,
        }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).expect("what it printed")
    }

    /// Returns the events that the command has printed so far.
    fn events(&self) -> Vec<Value> {
        let text = self.text();
        // The last line is ignored as long as it is incomplete.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().filter(|line| line.starts_with('{'));
        lines
            .map(|line| serde_json::from_str(line).expect("an event"))
            .collect()
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn(&[Value]) -> bool) {
        eventually(what, || condition(&self.events()));
    }
}

fn refusals(events: &[Value]) -> Vec<&Value> {
    let refused = events.iter().filter(|event| event["kind"] == "refused");
    refused.collect()
}

fn sum(events: &[&Value]) -> u64 {
    let counts = events.iter().map(|event| event["count"].as_u64());
    counts.map(|count| count.expect("a count")).sum()
}

#[test]
fn refusals_of_a_flood_are_summed_in_few_events() {
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 0"));
    let keys = ["acme/web", "acme/app"].map(|scope| rig.limiter.key(scope));
    let ids = rig.limiter.json(&["key", "list"]);
    let follower = Follower::start(&rig, &["--json", "--limit", "1"]);
    follower.until("it follows", |events| !events.is_empty());
    let start = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (rig, keys) = (&rig, &keys);
            let (address, key) = if client % 2 == 0 {
                (rig.lab.v4(), &keys[0])
            } else {
                (rig.lab.v6(), &keys[usize::from(client > 1)])
            };
            scope.spawn(move || {
                for _ in 0..FLOOD / CLIENTS {
                    let mut conn = rig.lab.connect_to(address, GUARDED);
                    assert_eq!(conn.get("/", key).status, 429);
                }
            });
        }
    });
    assert_eq!(rig.limiter.count("/totals/refused/daily_quota"), FLOOD);
    follower.until("all refusals are reported", |events| {
        sum(&refusals(events)) >= FLOOD
    });
    let seconds = start.elapsed().as_secs() + 3;

    let events = follower.events();
    let refusals = refusals(&events);
    assert_eq!(sum(&refusals), FLOOD);
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    let mut scopes: BTreeMap<&str, u64> = BTreeMap::new();
    for event in &refusals {
        assert_eq!(event["reason"], "daily_quota", "{event}");
        let who = format!("{} {} {}", event["scope"], event["key"], event["client"]);
        *lines.entry(who).or_default() += 1;
        let scope = event["scope"].as_str().expect("a scope");
        *scopes.entry(scope).or_default() += event["count"].as_u64().expect("a count");
        if event["client"] != Value::Null {
            let id = ids
                .as_array()
                .expect("keys")
                .iter()
                .find(|key| key["scope"] == scope);
            assert_eq!(event["key"], id.expect("its key")["id"], "{event}");
        }
    }
    // For each second and each scope, the command prints at most one line per client, and one line
    // for the refusals that the kernel programs counted but did not report.
    assert!(
        lines.values().all(|lines| *lines <= seconds),
        "{lines:#?} in {seconds} s"
    );
    assert!(lines.len() <= 5, "{lines:#?}");
    for address in [rig.lab.client_v4(), rig.lab.client_v6()] {
        assert!(
            lines
                .keys()
                .any(|who| who.contains(&format!("\"{address}\""))),
            "{lines:#?}"
        );
    }
    for (scope, reported) in scopes {
        assert_eq!(
            reported,
            rig.limiter.usage(scope).refused.daily_quota,
            "{scope}"
        );
    }
    assert_eq!(rig.limiter.count("/coverage/events_lost"), 0);
}

#[test]
fn refusals_without_a_valid_key_name_the_client() {
    let rig = Rig::veth(|config| {
        config
            .policy("missing_key = \"reject\"")
            .policy("unknown_key = \"reject\"")
    });
    let key = rig.limiter.key("acme/web");
    let id = rig.limiter.json(&["key", "list"])[0]["id"].clone();
    rig.limiter
        .done(&["key", "disable", id.as_str().expect("an id")]);
    let follower = Follower::start(&rig, &["--json", "--limit", "0"]);
    let ask = |request: &[u8]| rig.lab.connect(GUARDED).ask(request).status;
    assert_eq!(ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 401);
    assert_eq!(ask(&request("/", "nobody")), 401);
    assert_eq!(ask(&request("/", &key)), 401);
    assert_eq!(ask(b"nothing of HTTP\r\n\r\n"), 400);
    follower.until("all of them are reported", |events| {
        sum(&refusals(events)) >= 4
    });
    let events = follower.events();
    let client = rig.lab.client_v4().to_string();
    for (reason, scope, key) in [
        ("missing_key", Value::Null, Value::Null),
        ("unknown_key", Value::Null, Value::Null),
        ("disabled_key", "acme/web".into(), id),
        ("malformed", Value::Null, Value::Null),
    ] {
        let reports: Vec<_> = events
            .iter()
            .filter(|event| event["reason"] == reason)
            .collect();
        assert_eq!(sum(&reports), 1, "{reason}: {events:#?}");
        assert_eq!(reports[0]["client"], client, "{reports:?}");
        assert_eq!(
            (&reports[0]["scope"], &reports[0]["key"]),
            (&scope, &key),
            "{reports:?}"
        );
    }
    // Neither the registered key nor the unknown key may be in the output.
    assert!(!follower.text().contains(&key));
    assert!(!follower.text().contains("nobody"));
}

#[test]
fn changes_are_reported_as_events_and_remembered() {
    let (limiter, _lab) = Limiter::idle();
    let key = limiter.key("acme/web");
    let id = limiter.json(&["key", "list"])[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    limiter.done(&["key", "disable", &id]);
    limiter.done(&[
        "limits",
        "set",
        "acme/web",
        "--daily-quota",
        "5",
        "--note",
        "a trial",
    ]);
    limiter.done(&["limits", "clear", "acme/web", "--note", "over"]);
    limiter.done(&["scope", "mode", "acme/web", "observe", "--note", "look"]);
    limiter.done(&["reset", "acme/web", "--note", "anew"]);
    limiter.done(&["reload"]);
    limiter.done(&["scope", "remove", "acme/web", "--with-keys"]);
    let events = limiter.json(&["events", "--limit", "1000"]);
    let events = events.as_array().expect("a list");
    let actions: Vec<_> = events
        .iter()
        .filter_map(|event| event["action"].as_str())
        .collect();
    assert_eq!(
        actions,
        [
            "scope add",
            "key create",
            "key disable",
            "limits set",
            "limits clear",
            "scope mode",
            "reset",
            "reload",
            "scope remove"
        ]
    );
    let disabled = events
        .iter()
        .find(|event| event["action"] == "key disable")
        .expect("a report");
    assert_eq!(
        (&disabled["key"], &disabled["scope"]),
        (&id.as_str().into(), &"acme/web".into())
    );
    assert!(
        events.iter().any(|event| event["kind"] == "daemon"),
        "{events:#?}"
    );
    let numbers: Vec<_> = events.iter().map(|event| event["id"].as_u64()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");

    let last = limiter.done(&["events", "--limit", "1"]);
    assert_eq!(last.lines().count(), 1);
    assert!(
        last.contains("  change    root (uid 0): scope acme/web removed"),
        "{last}"
    );
    assert!(!last.contains('\x1b'), "colours without a terminal: {last}");
    assert!(!limiter.done(&["events", "--limit", "1000"]).contains(&key));
}

#[test]
fn follower_survives_a_restart_and_reports_it() {
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 0"));
    let key = rig.limiter.key("acme/web");
    let follower = Follower::start(&rig, &["--json", "--limit", "1"]);
    follower.until("it follows", |events| !events.is_empty());
    rig.limiter.terminate();
    eventually("it says that the daemon is gone", || {
        follower.text().contains("limiter: the daemon has stopped")
    });
    // The limits stay in force, so this request is refused while no daemon is running. The next
    // daemon must not report this refusal.
    assert_eq!(rig.get(&key).status, 429);
    rig.limiter.run(&[]);
    eventually("it says that there is another", || {
        follower
            .text()
            .contains("limiter: connected to a daemon again")
    });
    let pid = rig.limiter.pid().to_string();
    let messages_with = |events: &[Value], words: &str| {
        let messages = events.iter().filter_map(|event| event["message"].as_str());
        messages.filter(|message| message.contains(words)).count()
    };
    follower.until("the start of the new daemon is reported", |events| {
        messages_with(events, &pid) == 1
    });
    assert_eq!(rig.get(&key).status, 429);
    follower.until("refusals are reported again", |events| {
        !refusals(events).is_empty()
    });
    let events = follower.events();
    assert_eq!(sum(&refusals(&events)), 1, "{events:#?}");
    assert_eq!(messages_with(&events, "the daemon ends"), 1);
    // A daemon that is killed cannot send a last event, and the follower must still report that the
    // daemon has ended.
    rig.limiter.kill();
    eventually("the follower reports that the daemon is gone again", || {
        follower.text().matches("the daemon has stopped").count() == 2
    });
    rig.limiter.run(&[]);
}

#[test]
fn events_without_a_daemon_fail_immediately() {
    let (mut limiter, _lab) = Limiter::idle();
    limiter.terminate();
    let output = limiter.cli(&["events", "--follow"]);
    output.assert_fails(
        limiter_tests::limiter::exit::UNREACHABLE,
        &["no daemon is listening"],
    );
    limiter.run(&[]);
}

#[test]
fn follower_that_does_not_read_blocks_nobody() {
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 0"));
    let key = rig.limiter.key("acme/web");
    let mut asleep = UnixStream::connect(rig.limiter.socket()).expect("the control socket");
    asleep
        .write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: limiter\r\n\r\n")
        .expect("ask to follow");
    let awake = Follower::start(&rig, &["--json", "--limit", "1"]);
    awake.until("it follows", |events| !events.is_empty());
    for _ in 0..3 {
        assert_eq!(rig.get(&key).status, 429);
    }
    awake.until("the other follower gets the events", |events| {
        sum(&refusals(events)) == 3
    });
    rig.limiter.terminate();
    // The client that has not read until now still gets all events up to the last one.
    let mut text = String::new();
    asleep.read_to_string(&mut text).expect("the events");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(
        text.contains("application/x-ndjson") && text.contains("the daemon ends"),
        "{text}"
    );
    rig.limiter.run(&[]);
}
