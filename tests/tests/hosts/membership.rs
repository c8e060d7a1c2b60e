// SPDX-License-Identifier: MIT OR Apache-2.0

//! The hosts that may be parts of a fleet, and the view that each of them has of it.

use std::{collections::BTreeSet, process::Command, thread, time::Duration};

use limiter_tests::{
    Hosts, Limiter,
    engine::{Engine, Program},
    eventually,
    hosts::{self, SECRET, Verdict},
    limiter::exit,
    process,
};
use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::support::{HOSTS, QUOTA, SCOPE, admit, begin, fleet, use_up, with_quota};

/// The hash of the hosts in the engine.
const MEMBERS: &str = "limiter:{fleet}:m";

/// The words with which a daemon reports that its start has ended.
const READY: &str = "ready: control socket";

/// The time for which a stopped thread goes on at once.
const SLICE: Duration = Duration::from_millis(2);

/// Returns the health problems of the daemon that concern its fleet.
#[track_caller]
fn problems(limiter: &Limiter) -> Vec<String> {
    let status = limiter.status();
    let health = status["health"].as_array();
    let health = health.unwrap_or_else(|| panic!("no health in {status}"));
    health
        .iter()
        .filter(|problem| problem["part"] == "fleet")
        .map(|problem| problem["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Starts a daemon that must end by itself, with a message that contains `reason`.
#[track_caller]
fn assert_does_not_start(limiter: &mut Limiter, reason: &str) {
    limiter.launch(&[]);
    assert_eq!(
        limiter.wait_for_end(),
        Some(exit::FAILED),
        "{}",
        limiter.log()
    );
    assert!(limiter.log().contains(reason), "{}", limiter.log());
}

#[test]
fn the_status_shows_all_hosts_and_whether_the_engine_is_up() {
    let (mut hosts, key) = fleet();
    for rig in &hosts.rigs {
        admit(rig, &key, 1);
    }
    let names = |status: &Value| {
        let hosts = status["hosts"].as_array().cloned().unwrap_or_default();
        let name = |host: &Value| host["name"].as_str().unwrap_or_default().to_owned();
        hosts.iter().map(name).collect::<Vec<_>>()
    };
    let mut ids = BTreeSet::new();
    for (number, rig) in (1..).zip(&hosts.rigs) {
        let status = hosts::status(rig);
        assert_eq!(names(&status), ["web-1", "web-2", "web-3"], "{status}");
        assert_eq!(status["name"], format!("web-{number}"), "{status}");
        for host in status["hosts"].as_array().expect("hosts") {
            assert_eq!(
                (&host["silent"], &host["differs"]),
                (&false.into(), &false.into())
            );
        }
        ids.insert(status["host"].to_string());
        assert_eq!(status["engine"]["up"], true, "{status}");
        assert_eq!(
            status["engine"]["servers"][0]["append_only_file"], true,
            "{status}"
        );
        assert_eq!(status["leases"]["scopes"], 1, "{status}");
        assert_eq!(status["problems"], serde_json::json!([]), "{status}");
        assert_eq!(problems(&rig.limiter), [""; 0]);
    }
    assert_eq!(ids.len(), HOSTS, "each host has an id of its own");
    hosts.engine.kill();
    for rig in &hosts.rigs {
        eventually("the engine is seen to be away", || {
            hosts::status(rig)["engine"]["up"] == false
        });
        let status = hosts::status(rig);
        // The hosts are those of the last answer.
        assert_eq!(names(&status), ["web-1", "web-2", "web-3"], "{status}");
        assert_ne!(status["engine"]["problem"], Value::Null, "{status}");
        eventually("the problem is one of the daemon's health", || {
            !problems(&rig.limiter).is_empty()
        });
    }
    hosts.engine.restart();
    for rig in &hosts.rigs {
        eventually("the engine is up again", || {
            hosts::status(rig)["engine"]["up"] == true && problems(&rig.limiter).is_empty()
        });
    }
}

#[test]
fn a_host_that_stops_is_shown_as_silent() {
    let (mut hosts, _) = fleet();
    hosts.rigs[2].limiter.kill();
    eventually("the host is silent", || {
        let status = hosts::status(&hosts.rigs[0]);
        let silent = |name: &str| {
            let hosts = status["hosts"].as_array().expect("hosts");
            let host = hosts.iter().find(|host| host["name"] == name);
            host.is_some_and(|host| host["silent"] == true)
        };
        silent("web-3") && !silent("web-2")
    });
}

#[test]
fn a_copy_of_a_host_does_not_start() {
    begin();
    let mut hosts = Hosts::in_fleet(Program::Redis7, 1, with_quota);
    let key = hosts.key(SCOPE);
    admit(&hosts.rigs[0], &key, 10);
    hosts.rigs[0].limiter.terminate();
    let state = hosts.rigs[0].limiter.state_dir();
    let copy = hosts.add(&SECRET, with_quota).limiter.state_dir();
    process::succeed(Command::new("cp").arg("-a").arg(state.join(".")).arg(copy));
    let (original, copies) = hosts.rigs.split_first_mut().expect("there is a host");
    original.limiter.run(&[]);
    assert_does_not_start(
        &mut copies[0].limiter,
        "another machine uses the identity of this host",
    );
    // The original has not been disturbed.
    assert_eq!(problems(&original.limiter), [""; 0]);
    assert_eq!(use_up([&*original], &key), QUOTA - 10);
}

/// Returns the last heartbeat of the only host: its time in milliseconds, and the session.
#[track_caller]
fn last_heartbeat(engine: &Engine) -> (u64, String) {
    let entry = engine.cli(&["HVALS", MEMBERS]);
    let mut words = entry.split_whitespace();
    let time = words.next().and_then(|word| word.parse().ok());
    let time = time.unwrap_or_else(|| panic!("no time in {entry:?}"));
    (time, words.next().unwrap_or_default().to_owned())
}

/// Starts a daemon and stops its main thread, which loads and attaches the programs, before the end
/// of the start. The main thread sends the first heartbeat, and has to wait for its answer, so it
/// is stopped when another one has been sent. Returns the thread.
#[track_caller]
fn start_halfway(limiter: &mut Limiter, engine: &Engine) -> Pid {
    let (_, before) = last_heartbeat(engine);
    let starts = |limiter: &Limiter| limiter.log().matches(READY).count();
    let earlier = starts(limiter);
    limiter.launch(&[]);
    let main = Pid::from_raw(limiter.pid().cast_signed());
    ptrace::seize(main, ptrace::Options::empty()).expect("the daemon is traced");
    let mut first = None;
    loop {
        ptrace::interrupt(main).expect("the main thread is interrupted");
        while let WaitStatus::Stopped(_, signal) =
            waitpid(main, Some(WaitPidFlag::__WALL)).expect("the main thread stops")
        {
            ptrace::cont(main, signal).expect("the signal is delivered");
        }
        let (time, session) = last_heartbeat(engine);
        if session != before && *first.get_or_insert(time) != time {
            break;
        }
        ptrace::cont(main, None).expect("the main thread goes on");
        // A start takes many of these slices.
        thread::sleep(SLICE);
    }
    assert_eq!(starts(limiter), earlier, "the start has ended already");
    main
}

#[test]
fn a_host_that_starts_slowly_keeps_its_identity() {
    begin();
    let mut hosts = Hosts::in_fleet(Program::Redis7, 1, with_quota);
    let limiter = &mut hosts.rigs[0].limiter;
    limiter.terminate();
    let main = start_halfway(limiter, &hosts.engine);
    let (stopped_at, session) = last_heartbeat(&hosts.engine);
    // A copy may take over the identity of a host that is silent for five seconds.
    eventually("the host has sent heartbeats for five seconds", || {
        last_heartbeat(&hosts.engine).0 > stopped_at + 5_000
    });
    ptrace::detach(main, None).expect("the main thread goes on");
    limiter.wait_until_ready();
    assert_eq!(problems(limiter), [""; 0]);
    assert_eq!(last_heartbeat(&hosts.engine).1, session);
}

#[test]
fn a_host_with_another_hash_secret_does_not_start() {
    begin();
    let mut hosts = Hosts::in_fleet(Program::Redis7, 1, with_quota);
    let other = hosts.add(b"a different one!", with_quota);
    assert_does_not_start(&mut other.limiter, "another hash secret");
    let status = hosts::status(&hosts.rigs[0]);
    assert_eq!(
        status["hosts"].as_array().map(Vec::len),
        Some(1),
        "{status}"
    );
}

#[test]
fn a_host_outside_of_a_fleet_enforces_its_limits_alone() {
    begin();
    let mut hosts = Hosts::alone(Program::Redis7);
    hosts.add(&SECRET, with_quota).limiter.run(&[]);
    let key = hosts.key(SCOPE);
    let rig = &hosts.rigs[0];
    eventually("the missing fleet is a problem", || {
        let problems = problems(&rig.limiter);
        problems
            .iter()
            .any(|problem| problem.contains("`limiter fleet init` creates one"))
    });
    assert_eq!(hosts::status(rig)["fleet"], Value::Null);
    let other = "acme/other";
    let other_key = rig.limiter.key(other);
    assert_eq!(use_up([rig], &other_key), QUOTA);
    admit(rig, &key, 100);
    hosts.engine.kill();
    admit(rig, &key, 100);
    assert_eq!(hosts::ask(&rig.lab, &other_key), Verdict::UsedUp);
    // When the host becomes a part of a fleet, the requests of today count.
    hosts.engine.restart();
    eventually("the fleet is created", || {
        rig.limiter.cli(&["fleet", "init"]).code == exit::DONE
    });
    assert_eq!(use_up([rig], &key), QUOTA - 200);
    assert_eq!(hosts::ask(&rig.lab, &other_key), Verdict::UsedUp);
    hosts.assert_charged_as_served(SCOPE, &key, QUOTA);
    hosts.assert_charged_as_served(other, &other_key, QUOTA);
    eventually("there is no problem", || problems(&rig.limiter).is_empty());
}
