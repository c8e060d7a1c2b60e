// SPDX-License-Identifier: MIT OR Apache-2.0

//! Daemons start and stop while the limits stay in force.

use std::{
    fs,
    io::ErrorKind,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Net, Nginx, Rig, UNGUARDED, avoid_midnight, eventually,
    kernel, limiter::exit, nginx, process, request,
};
use nix::sys::signal::Signal;

const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

/// Returns all filters of the server's interface, as `tc` lists them.
fn filters(lab: &Lab) -> String {
    ["ingress", "egress"]
        .map(|hook| {
            process::succeed(lab.server().command("tc").args([
                "filter",
                "show",
                "dev",
                lab.interface(),
                hook,
            ]))
        })
        .concat()
}

/// A guard that stops the other threads when it is dropped, even if the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn limits_hold_without_a_daemon_and_the_next_one_continues_the_counts() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    for net in [Net::Veth, Net::Loopback] {
        let mut rig = Rig::on(net, |config| config.tier("profile", "daily_quota = 6"));
        let key = rig.limiter.key("acme/web");
        let mut open = rig.lab.connect(GUARDED);
        assert_eq!(
            [open.get("/", &key).status, open.get("/", &key).status],
            [200, 200]
        );
        rig.limiter.kill();
        assert_eq!(
            [open.get("/", &key).status, rig.get(&key).status],
            [200, 200]
        );
        rig.limiter.run(&[]);
        assert_eq!(rig.limiter.usage("acme/web").used, 4);
        assert_eq!(
            [open.get("/", &key).status, rig.get(&key).status],
            [200, 200]
        );
        rig.limiter.kill();
        assert_eq!(rig.get(&key).status, 429);
        assert_eq!(open.get("/", &key).status, 429);
        rig.limiter.run(&[]);
        assert_eq!(
            [open.get("/", &key).status, rig.get(&key).status],
            [429, 429]
        );
        rig.assert_charged_as_served("acme/web", &key, 6);
        assert_eq!(rig.limiter.usage("acme/web").refused.daily_quota, 4);
        drop(open);
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn requests_in_flight_stay_counted_across_a_restart() {
    let mut rig = Rig::veth(|config| config.tier("profile", "concurrency = 3"));
    let key = rig.limiter.key("acme/web");
    let mut held = nginx::hold(&rig.lab, &rig.nginx, &key, 2);
    rig.limiter.kill();
    held.extend(nginx::hold(&rig.lab, &rig.nginx, &key, 1));
    assert_eq!(rig.get(&key).status, 429);
    rig.limiter.run(&[]);
    assert_eq!(rig.limiter.usage("acme/web").in_flight, 3);
    assert_eq!(rig.get(&key).status, 429);
    rig.nginx.gate().open();
    for conn in &mut held {
        assert_eq!(conn.response().status, 200);
    }
    drop(held);
    rig.assert_nothing_left("acme/web");
}

#[test]
fn daemon_is_replaced_under_load_without_losing_requests_or_counts() {
    let mut rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _ends_also_when_this_fails = SetOnDrop(&stop);
        for _ in 0..3 {
            scope.spawn(|| {
                let mut conn = rig.lab.connect(GUARDED);
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(conn.get("/", &key).status, 200);
                    let number = asked.fetch_add(1, Ordering::SeqCst);
                    if number.is_multiple_of(7) {
                        conn = rig.lab.connect(GUARDED);
                    }
                }
            });
        }
        let progress = || {
            let before = asked.load(Ordering::SeqCst);
            eventually("clients go on", || {
                asked.load(Ordering::SeqCst) > before + 50
            });
        };
        let limiter = &mut rig.limiter;
        for round in 0..6 {
            progress();
            if round % 2 == 0 {
                limiter.kill();
            } else {
                limiter.terminate();
            }
            progress();
            limiter.run(&[]);
        }
        progress();
    });
    let asked = asked.into_inner();
    rig.assert_charged_as_served("acme/web", &key, asked);
    assert_eq!(rig.limiter.usage("acme/web").refused.total(), 0);
    rig.assert_nothing_left("acme/web");
}

#[test]
fn sigterm_leaves_the_limits_in_force() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 1"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 2), [200, 429]);
    rig.limiter.terminate();
    assert_eq!(rig.get(&key).status, 429);
    assert!(rig.limiter.pin_dir().exists());
    rig.limiter.run(&[]);
    assert_eq!(rig.get(&key).status, 429);
    assert_eq!(rig.limiter.usage("acme/web").used, 1);
}

#[test]
fn detach_on_exit_removes_everything_at_sigterm() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);
    let config = Config::new(&lab).tier("profile", "daily_quota = 1");
    let mut limiter = Limiter::prepare(&lab, "limiter", &config);
    limiter.run(&["--detach-on-exit"]);
    let key = limiter.key("acme/web");
    let mut conn = lab.connect(GUARDED);
    assert_eq!(conn.get("/", &key).status, 200);
    assert_eq!(lab.connect(GUARDED).get("/", &key).status, 429);
    limiter.terminate();
    assert_eq!(conn.get("/", &key).status, 200);
    assert_eq!(lab.connect(GUARDED).get("/", &key).status, 200);
    assert!(!limiter.pin_dir().exists(), "pins are left");
    assert_eq!(filters(&lab), "");
}

#[test]
fn the_day_s_count_outlives_detach_and_start() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 3"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 2), [200, 200]);
    rig.limiter.terminate();
    assert_eq!(rig.limiter.detach().code, exit::DONE);
    assert_eq!(rig.statuses(&key, 3), [200; 3]);
    rig.limiter.run(&[]);
    assert_eq!(rig.limiter.usage("acme/web").used, 2);
    assert_eq!(rig.statuses(&key, 2), [200, 429]);
}

#[test]
fn detach_removes_everything_with_a_daemon_and_without_one() {
    for running in [true, false] {
        let mut rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 1"));
        let key = rig.limiter.key("acme/web");
        let mut open = rig.lab.connect(GUARDED);
        assert_eq!(open.get("/", &key).status, 200);
        assert_eq!(rig.get(&key).status, 429);
        if !running {
            rig.limiter.kill();
        }
        let output = rig.limiter.detach();
        assert_eq!(output.code, exit::DONE, "{output:?}");
        assert_eq!(open.get("/", &key).status, 200, "running: {running}");
        assert_eq!(rig.statuses(&key, 3), [200; 3], "running: {running}");
        assert!(
            !rig.limiter.pin_dir().exists(),
            "pins are left, running: {running}"
        );
        assert_eq!(filters(&rig.lab), "", "running: {running}");
        // A second detach succeeds although there is nothing to remove.
        assert_eq!(rig.limiter.detach().code, exit::DONE);
    }
}

/// Asserts that the server's host has reset the connection.
#[track_caller]
fn assert_reset(conn: &mut Conn) {
    let error = conn.rest().expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn detach_resets_connections_that_went_on_after_refusals() {
    for running in [true, false] {
        let mut rig = Rig::veth(|config| {
            config
                .tier("profile", "daily_quota = 1")
                .policy("on_limit = \"keepalive\"")
        });
        let key = rig.limiter.key("acme/web");
        let other = rig.limiter.key_of_tier("roomy", "master");
        let addresses = rig.lab.addresses();
        let mut kept = addresses.map(|address| rig.lab.connect_to(address, GUARDED));
        let mut plain = rig.lab.connect(GUARDED);
        assert_eq!(plain.get("/", &key).status, 200);
        for conn in &mut kept {
            assert_eq!(conn.get("/", &key).status, 429);
            assert_eq!(conn.get("/", &other).status, 200);
        }
        if !running {
            rig.limiter.kill();
        }
        let output = rig.limiter.detach();
        assert_eq!(output.code, exit::DONE, "{output:?}");
        let report = "reset 2 connections that went on after refusals";
        assert!(output.stdout.contains(report), "{output:?}");
        for conn in &mut kept {
            assert_reset(conn);
        }
        assert_eq!(plain.get("/", &key).status, 200, "running: {running}");
        drop(plain);
        Nginx::wait_until_no_sockets(&rig.lab, GUARDED);
    }
}

/// A change of the configuration after which limiter guards less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Less {
    Ports,
    Interfaces,
}

/// Asserts that kept connections are reset where `change`, which puts the new configuration into
/// force, ends the limits, and that all other connections go on.
fn assert_resets_what_is_dropped(less: Less, hook: &str, change: impl FnOnce(&mut Limiter)) {
    let lab = Lab::veth();
    let lines = |interfaces: &str, ports: &str| {
        format!("interfaces = {interfaces}\nports = {ports}\nhook = {hook:?}\n")
    };
    let all = Config::new(&lab)
        .attach_lines(&lines("[\"s0\", \"lo\"]", "[80, 81]"))
        .tier("profile", "daily_quota = 1");
    let dropped = all.clone().attach_lines(&match less {
        Less::Ports => lines("[\"s0\", \"lo\"]", "[80]"),
        Less::Interfaces => lines("[\"s0\"]", "[80, 81]"),
    });
    let mut rig = Rig::of(lab, |_| all);
    let key = rig.limiter.key("acme/web");
    let other = rig.limiter.key_of_tier("roomy", "master");
    let (namespace, port) = match less {
        Less::Ports => (rig.lab.client(), UNGUARDED),
        Less::Interfaces => (rig.lab.server(), GUARDED),
    };
    let connect = || Conn::open(namespace, (rig.lab.v4(), port).into());
    let (mut kept, mut plain) = (connect(), connect());
    let mut still_guarded = rig.lab.connect(GUARDED);
    assert_eq!(plain.get("/", &key).status, 200);
    for conn in [&mut kept, &mut still_guarded] {
        assert_eq!(conn.get("/", &key).status, 429);
        assert_eq!(conn.get("/", &other).status, 200);
    }
    rig.limiter.write_config(&dropped.to_string());
    change(&mut rig.limiter);
    assert_reset(&mut kept);
    assert_eq!(plain.get("/", &key).status, 200, "{less:?}, {hook}");
    assert_eq!(still_guarded.get("/", &key).status, 429, "{less:?}, {hook}");
    assert_eq!(still_guarded.get("/", &other).status, 200);
}

#[test]
fn kept_connections_are_reset_where_a_reload_ends_the_limits() {
    for less in [Less::Ports, Less::Interfaces] {
        assert_resets_what_is_dropped(less, "auto", |limiter| {
            limiter.done(&["reload"]);
        });
    }
}

#[test]
fn kept_connections_are_reset_where_a_restart_ends_the_limits() {
    for (less, hook) in kernel::hooks()
        .iter()
        .map(|hook| (Less::Interfaces, *hook))
        .chain([(Less::Ports, "auto")])
    {
        assert_resets_what_is_dropped(less, hook, |limiter| {
            limiter.kill();
            limiter.run(&[]);
        });
    }
}

#[test]
fn clsact_hook_limits_and_detaches() {
    let mut rig = Rig::veth(|config| {
        let interfaces = "interfaces = [\"s0\"]\nports = [80]\nhook = \"clsact\"\n";
        config
            .attach_lines(interfaces)
            .tier("profile", "rate = \"1/min\"\nburst = 2")
    });
    assert!(filters(&rig.lab).contains("bpf"), "no filter of tc");
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    rig.limiter.kill();
    assert_eq!(rig.statuses(&key, 2), [200, 429]);
    rig.limiter.run(&[]);
    assert_eq!(rig.get(&key).status, 429);
    assert_eq!(rig.limiter.usage("acme/web").used, 2);
    rig.limiter.terminate();
    assert_eq!(rig.limiter.detach().code, exit::DONE);
    assert_eq!(rig.get(&key).status, 200);
    assert_eq!(filters(&rig.lab), "");
}

#[test]
fn second_daemon_on_the_same_directories_exits_with_a_reason() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let run = [
        "run".to_owned(),
        "-c".to_owned(),
        rig.limiter.config_path().display().to_string(),
        "--state-dir".to_owned(),
        rig.limiter.state_dir().display().to_string(),
        "--runtime-dir".to_owned(),
        rig.limiter.runtime_dir().display().to_string(),
        "--pin-dir".to_owned(),
        rig.limiter.pin_dir().display().to_string(),
    ];
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let output = rig.limiter.cli(&run);
    assert_eq!(output.code, exit::FAILED, "{output:?}");
    assert!(!output.stderr.is_empty());
    assert_eq!(rig.get(&key).status, 200);
    assert_eq!(rig.limiter.usage("acme/web").used, 1);
}

#[test]
fn daemons_with_separate_directories_run_side_by_side() {
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED, 8080]);
    let tier = "rate = \"1/min\"\nburst = 1";
    let config = Config::new(&lab).tier("profile", tier);
    let first = Limiter::start_named(&lab, "first", &config);
    let second = Limiter::start_named(&lab, "second", &config.ports(&[8080]));
    let key = first.key("acme/web");
    let other = second.key("acme/web");
    for (port, own, foreign) in [(GUARDED, &key, &other), (8080, &other, &key)] {
        let status = |key: &str| lab.connect(port).get("/", key).status;
        assert_eq!([status(own), status(own)], [200, 429], "{port}");
        assert_eq!([status(foreign), status(foreign)], [200, 200], "{port}");
    }
    drop(second);
    assert_eq!(lab.connect(GUARDED).get("/", &key).status, 429);
    assert_eq!(lab.connect(8080).get("/", &other).status, 200);
    assert_eq!(nginx.served(&key) + nginx.served(&other), 7);
}

#[test]
fn reload_and_sighup_apply_a_configuration_and_keep_counts() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 2"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 3), [200, 200, 429]);
    let config = |quota: u64| {
        let tier = format!("daily_quota = {quota}");
        Config::new(&rig.lab)
            .tier("profile", &tier)
            .ports(&[GUARDED, 81])
            .to_string()
    };
    rig.limiter.write_config(&config(3));
    rig.limiter.done(&["reload"]);
    assert_eq!(rig.statuses(&key, 2), [200, 429]);
    assert_eq!(rig.lab.connect(81).get("/", &key).status, 429);
    rig.limiter.write_config(&config(5));
    rig.limiter.signal(Signal::SIGHUP);
    eventually("the signal arrives", || {
        rig.limiter.usage("acme/web").daily_quota == Some(5)
    });
    assert_eq!(rig.statuses(&key, 3), [200, 200, 429]);
    rig.assert_charged_as_served("acme/web", &key, 5);
}

#[test]
fn reload_of_an_invalid_file_changes_nothing_and_gives_the_reason() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let rig = Rig::veth(|config| config.tier("profile", "daily_quota = 1"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.statuses(&key, 2), [200, 429]);
    let good = fs::read_to_string(rig.limiter.config_path()).expect("the configuration");
    let bad = good.replace("daily_quota = 1\n", "daily_quota = 50\n")
        + "\n[policy]\nmode = \"lenient\"\n";
    rig.limiter.write_config(&bad);
    let path = rig.limiter.config_path().display().to_string();
    let line = bad.lines().count();
    let output = rig.limiter.cli(&["reload"]);
    output.assert_fails(
        exit::USAGE,
        &[&format!("{path}:{line}"), "lenient", "observe"],
    );
    assert_eq!(rig.limiter.usage("acme/web").daily_quota, Some(1));
    rig.limiter.signal(Signal::SIGHUP);
    eventually("the daemon says why in its log", || {
        rig.limiter.log().contains("lenient")
    });
    assert_eq!(rig.limiter.usage("acme/web").daily_quota, Some(1));
    assert_eq!(rig.get(&key).status, 429);
    rig.limiter.write_config(&good);
    rig.limiter.done(&["reload"]);
}

#[test]
fn scopes_keys_overrides_and_refusals_survive_a_restart() {
    let mut rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 1"));
    let key = rig.limiter.key("acme/web");
    rig.limiter.key("acme");
    assert_eq!(rig.statuses(&key, 3), [200, 429, 429]);
    rig.limiter.done(&[
        "limits",
        "set",
        "acme/web",
        "--concurrency",
        "7",
        "--note",
        "why",
    ]);
    let show = |rig: &Rig| {
        let mut scope = rig.limiter.json(&["scope", "show", "acme/web"]);
        scope["keys"][0]["last_used_at"].take();
        (
            scope,
            rig.limiter.usage("acme/web"),
            rig.limiter.json(&["scope", "list"]),
        )
    };
    let before = show(&rig);
    for round in 0..3 {
        match round {
            0 => rig.limiter.kill(),
            1 => rig.limiter.terminate(),
            _ => {
                rig.limiter.terminate();
                rig.limiter.detach();
            }
        }
        rig.limiter.run(&[]);
        assert_eq!(show(&rig), before, "round {round}");
    }
}

#[test]
fn ended_flows_are_removed_from_the_table() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    for _ in 0..20 {
        let mut conn = rig.lab.connect(GUARDED);
        conn.get("/", &key);
        let mut conn = rig.lab.connect(GUARDED);
        conn.send(&request("/", &key));
        conn.reset();
    }
    eventually("the table is empty", || {
        let opened = rig.limiter.count("/coverage/flows_opened");
        opened == 40 && rig.limiter.count("/coverage/flows_closed") == opened
    });
    rig.assert_nothing_left("acme/web");
}
