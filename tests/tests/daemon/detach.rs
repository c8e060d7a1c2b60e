// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter detach` removes everything from the kernel, and no count is lost.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Rig, avoid_midnight, eventually,
    limiter::{Output, binary, exit},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

/// A daily quota that permits many requests of a scope between two writes to the store.
const QUOTA: u64 = 100_000;

fn rig() -> Rig {
    Rig::veth(|config| config.tier("profile", &format!("daily_quota = {QUOTA}")))
}

/// Runs clients that send requests continuously, and calls `end` after several hundred responses.
/// Returns the number of requests that were served.
fn under_load(rig: &mut Rig, key: &str, end: impl FnOnce(&mut Limiter)) -> u64 {
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let (lab, limiter) = (&rig.lab, &mut rig.limiter);
    thread::scope(|threads| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                threads.spawn(|| {
                    let mut conn = lab.connect(GUARDED);
                    while !stop.load(SeqCst) {
                        assert_eq!(conn.get("/", key).status, 200);
                        asked.fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        eventually("clients ask", || asked.load(SeqCst) > 500);
        end(limiter);
        stop.store(true, SeqCst);
        for client in clients {
            client.join().expect("a client");
        }
    });
    asked.into_inner()
}

/// Asserts that no pins are left. Then starts a daemon, and asserts that this daemon reports at
/// least `least` used requests and no lost requests, and that it continues to count from there.
fn assert_count_continues(rig: &mut Rig, key: &str, least: u64) {
    assert!(!rig.limiter.pin_dir().exists(), "pins are left");
    rig.limiter.run(&[]);
    let found = rig.limiter.usage("acme/web");
    assert_eq!(found.lost, 0, "{found:?}");
    assert!(
        found.used >= least && found.used <= rig.nginx.served(key),
        "{found:?}"
    );
    assert_eq!(rig.get(key).status, 200);
    assert_eq!(rig.limiter.usage("acme/web").used, found.used + 1);
}

#[test]
fn detach_writes_every_count_of_a_daemon_killed_under_load() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = rig();
    let key = rig.limiter.key("acme/web");
    let mut conn = rig.lab.connect(GUARDED);
    let asked = under_load(&mut rig, &key, Limiter::kill);
    // These requests are counted only in the maps, because no daemon is running.
    for _ in 0..20 {
        assert_eq!(conn.get("/", &key).status, 200);
    }
    let output = rig.limiter.detach();
    assert_eq!((output.code, output.stderr.as_str()), (exit::DONE, ""));
    assert_eq!(rig.nginx.served(&key), asked + 20);
    assert_count_continues(&mut rig, &key, asked + 20);
    // The entry in the audit log states who ran the command.
    let audit = rig.limiter.json(&["audit"]);
    let entries = audit.as_array().expect("a list");
    let detached = entries.iter().filter(|entry| entry["action"] == "detach");
    let who: Vec<_> = detached.map(|entry| entry["who"].clone()).collect();
    assert_eq!(who, ["root (uid 0) (no daemon)"]);
}

/// Runs `detach` with the state directory and the pin directory of `limiter`, and with the socket
/// of `other` as the default socket.
fn detach_beside(other: &Limiter, limiter: &Limiter) -> Output {
    let mut command = limiter.command_without_socket(&["detach", "--state-dir"]);
    command.arg(limiter.state_dir()).arg("--pin-dir");
    command.arg(limiter.pin_dir());
    command.env("LIMITER_SOCKET", other.socket());
    command.output().expect("run limiter").into()
}

#[test]
fn detach_removes_only_the_programs_of_its_directories() {
    let lab = Lab::loopback();
    let config = Config::published(&lab).small_tables();
    let other = Limiter::start_named(&lab, "other", &config);
    let mut limiter = Limiter::start_named(&lab, "one", &config.ports(&[8080]));
    // The daemon is running, but the command does not know its socket. The command must not ask the
    // daemon at the default socket instead.
    let output = detach_beside(&other, &limiter);
    let pid = format!("(pid {})", limiter.pid());
    output.assert_fails(exit::FAILED, &[&pid, "--socket"]);
    // In this call, the default socket is the socket of the daemon that uses these directories, so
    // the command asks that daemon.
    let output = detach_beside(&limiter, &limiter);
    assert_eq!(output.code, exit::DONE, "{output:?}");
    assert_eq!(limiter.wait_for_end(), Some(exit::DONE));
    limiter.run(&[]);
    limiter.kill();
    let output = detach_beside(&other, &limiter);
    assert_eq!(output.code, exit::DONE, "{output:?}");
    assert!(!limiter.pin_dir().exists(), "pins are left");
    assert_eq!(other.status()["health"], serde_json::json!([]));
    assert!(other.pin_dir().exists());
}

#[test]
fn detach_ignores_the_default_runtime_directory_of_another_daemon() {
    let (mut limiter, _lab) = Limiter::idle();
    limiter.kill();
    // flock holds the lock on the default runtime directory, as another daemon would, while it runs
    // the command. Both run in a mount namespace of their own.
    let script = "mount -t tmpfs none /run && mkdir /run/limiter && exec flock /run/limiter \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", script, "sh"])
        .arg(binary());
    command.args(["detach", "--socket", "/nonexistent/s", "--state-dir"]);
    command.arg(limiter.state_dir()).arg("--pin-dir");
    let output: Output = command
        .arg(limiter.pin_dir())
        .output()
        .expect("unshare")
        .into();
    assert_eq!(output.code, exit::DONE, "{output:?}");
    assert!(!limiter.pin_dir().exists(), "pins are left");
}

#[test]
fn detach_under_load_counts_the_last_admitted_request() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    for running in [true, false] {
        let mut rig = rig();
        let key = rig.limiter.key("acme/web");
        under_load(&mut rig, &key, |limiter| {
            if !running {
                limiter.kill();
            }
            let output = limiter.detach();
            assert_eq!(
                (output.code, output.stderr.as_str()),
                (exit::DONE, ""),
                "{running}"
            );
            if running {
                assert_eq!(limiter.wait_for_end(), Some(exit::DONE));
            }
        });
        assert_count_continues(&mut rig, &key, 500);
    }
}

#[test]
fn counts_survive_a_host_crash_after_detach() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    for arguments in [&[][..], &["--detach-on-exit"]] {
        let mut rig = rig();
        rig.limiter.terminate();
        rig.limiter.run(arguments);
        let key = rig.limiter.key("acme/web");
        assert_eq!(rig.statuses(&key, 3), [200; 3]);
        if arguments.is_empty() {
            assert_eq!(rig.limiter.detach().code, exit::DONE);
            assert_eq!(rig.limiter.wait_for_end(), Some(exit::DONE));
        } else {
            rig.limiter.terminate();
        }
        rig.limiter.run(&[]);
        let usage = rig.limiter.usage("acme/web");
        assert_eq!((usage.used, usage.lost), (3, 0), "{arguments:?}");
    }
}

#[test]
fn detach_without_a_readable_store_removes_everything_with_a_warning() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let spoil = |rig: &Rig| {
        let file = rig.limiter.state_dir().join("limiter.db");
        // The last writes of a killed daemon are in the write-ahead log, a separate file. It is
        // removed too, so that SQLite finds only the spoiled file.
        fs::remove_file(file.with_extension("db-wal")).expect("the store's log");
        fs::write(file, "no database").expect("spoil the store");
    };
    let other = rig();
    type Case<'a> = (&'a dyn Fn(&Rig), &'a Path, &'a str);
    let foreign = other.limiter.state_dir();
    let mut other = other;
    other.limiter.terminate();
    let missing = Path::new("/nonexistent");
    let cases: [Case<'_>; 3] = [
        (&|_| (), missing, "no store in /nonexistent"),
        (&spoil, Path::new(""), "not a database"),
        (&|_| (), &foreign, "is not that of the maps"),
    ];
    for (spoil, state, why) in cases {
        let mut rig = rig();
        let key = rig.limiter.key("acme/web");
        assert_eq!(rig.get(&key).status, 200);
        rig.limiter.kill();
        spoil(&rig);
        let own = rig.limiter.state_dir();
        let state = if state == Path::new("") { &own } else { state };
        let output = rig.limiter.detach_with(state);
        assert_eq!(output.code, exit::DONE, "{output:?}");
        for words in [
            "today's counts since the last write to the store are lost",
            why,
        ] {
            assert!(output.stderr.contains(words), "no {words:?} in {output:?}");
        }
        assert!(!rig.limiter.pin_dir().exists(), "pins are left");
    }
    // The command has not changed the store of the other daemon, because that store does not belong
    // to the maps that were detached.
    other.limiter.run(&[]);
    assert_eq!(other.limiter.json(&["audit"]), serde_json::json!([]));
}

#[test]
fn detach_without_the_socket_leaves_the_maps_of_a_running_daemon() {
    let rig = Rig::veth(|config| config.tier("profile", "rate = \"1/min\"\nburst = 1"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    let pid = format!("pid {}", rig.limiter.pid());
    let nowhere = ["--socket", "/nonexistent/limiter.sock", "detach"];
    let (state, run) = (rig.limiter.state_dir(), rig.limiter.runtime_dir());
    let path = |path: &Path| path.display().to_string();
    for (held, state, run, pins) in [
        (
            &*state,
            path(&state),
            "/nonexistent".to_owned(),
            "/sys/fs/bpf".to_owned(),
        ),
        (
            &*run,
            "/nonexistent".to_owned(),
            path(&run),
            "/sys/fs/bpf".to_owned(),
        ),
        (
            rig.limiter.pin_dir(),
            "/nonexistent".to_owned(),
            "/nonexistent".to_owned(),
            path(rig.limiter.pin_dir()),
        ),
    ] {
        let directories = [
            "--state-dir",
            &state,
            "--runtime-dir",
            &run,
            "--pin-dir",
            &pins,
        ];
        let output = Limiter::alone(&[&nowhere[..], &directories].concat());
        output.assert_fails(exit::FAILED, &[&path(held), &pid, "--socket"]);
    }
    assert_eq!(rig.get(&key).status, 429);
}

#[test]
fn detach_removes_the_remains_of_an_interrupted_start() {
    let mut rig = rig();
    rig.limiter.terminate();
    let (pins, left) = (
        rig.limiter.pin_dir(),
        rig.limiter.pin_dir().join("unfinished"),
    );
    let maps = fs::read_dir(pins).expect("the pins").find_map(|entry| {
        let path = entry.expect("an entry").path();
        path.join("STATE").exists().then_some(path)
    });
    let map = maps.expect("the maps").join("STATE");
    fs::create_dir(&left).expect("a directory");
    fs::hard_link(map, left.join("STATE")).expect("a second pin");
    assert_eq!(rig.limiter.detach().code, exit::DONE);
    assert!(!rig.limiter.pin_dir().exists(), "pins are left");
}

#[test]
fn detach_completes_if_the_daemon_dies_when_asked() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = rig();
    let key = rig.limiter.key("acme/web");
    for _ in 0..10 {
        assert_eq!(rig.get(&key).status, 200);
    }
    let pid = Pid::from_raw(rig.limiter.pid().try_into().expect("a pid"));
    kill(pid, Signal::SIGSTOP).expect("stop the daemon");
    let before = connections(&rig.limiter);
    let state = rig.limiter.state_dir();
    let mut command = rig.limiter.detach_command(&state);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let asking = command.spawn().expect("start limiter detach");
    eventually("it has asked", || connections(&rig.limiter) > before);
    rig.limiter.kill();
    let output: Output = asking.wait_with_output().expect("its end").into();
    assert_eq!(output.code, exit::DONE, "{output:?}");
    assert_count_continues(&mut rig, &key, 10);
}

/// Returns the number of sockets that are bound to the path of the control socket
/// (`/proc/net/unix`, unix(7)): the listening socket, and one for each connection to it.
fn connections(limiter: &Limiter) -> usize {
    let socket = limiter.socket().display().to_string();
    let known = fs::read_to_string(format!("/proc/{}/net/unix", limiter.pid()));
    let known = known.expect("the unix sockets");
    known.lines().filter(|line| line.ends_with(&socket)).count()
}
