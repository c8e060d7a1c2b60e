// SPDX-License-Identifier: MIT OR Apache-2.0

//! The service of the package: its installation, upgrade and removal, and its unit.

use std::{
    fs,
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use limiter_tests::{
    GUARDED, Lab, Machine, Nginx, Terminal, avoid_midnight, eventually,
    metrics::{Page, packaged},
    process,
};
use rusqlite::{Connection, TransactionBehavior};

use super::{
    CONFIGURATION, TIME_BEFORE_MIDNIGHT, UNIT, boot, configuration, install, key, next_version,
    package, status, write_configuration,
};

#[test]
fn package_limits_from_installation_through_upgrade_to_removal() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let machine = boot(&lab);
    let systemctl = |words: &[&str]| machine.run(&[&["systemctl"], words].concat());
    let is_active = || systemctl(&["is-active", UNIT]).stdout.trim() == "active";

    // The installation does not start the daemon.
    install(&machine, &package());
    for line in [
        ["passwd", "limiter"],
        ["group", "limiter"],
        ["group", "limiter-admin"],
    ] {
        machine.done(&["getent", line[0], line[1]]);
    }
    assert!(
        machine
            .done(&["limiter", "--version"])
            .starts_with("limiter ")
    );
    machine.done(&["limiter", "check"]);
    assert_eq!(systemctl(&["is-enabled", UNIT]).stdout, "disabled\n");
    assert!(!is_active());
    assert_eq!(machine.done(&["dpkg", "--verify", "limiter"]), "");

    // The daemon enforces the limits as an unprivileged user with three capabilities and a seccomp
    // filter.
    write_configuration(&machine, &configuration(&lab, "unknown_key = \"pass\""));
    machine.done(&["systemctl", "enable", "--now", UNIT]);
    let process = machine.property(UNIT, "MainPID");
    let of_process = machine.done(&[
        "grep",
        "-E",
        "^(Uid|CapBnd|Seccomp):",
        &format!("/proc/{process}/status"),
    ]);
    let user = machine.done(&["id", "-u", "limiter"]);
    let [user, three] = [
        user.trim().to_owned(),
        format!("{:016x}", 1u64 << 12 | 1 << 38 | 1 << 39),
    ];
    let wanted = format!("Uid:\t{user}\t{user}\t{user}\t{user}\nCapBnd:\t{three}\nSeccomp:\t2\n");
    assert_eq!(of_process, wanted);
    let key = key(&machine);
    assert_eq!(status(&lab, &key), 200);

    // A reload that fails is reported and changes nothing.
    let unknown = "another-key-of-somebody";
    assert_eq!(status(&lab, unknown), 200);
    write_configuration(&machine, &configuration(&lab, "unknown_key = \"rejekt\""));
    assert_ne!(systemctl(&["reload", UNIT]).code, 0);
    assert_eq!((status(&lab, unknown), is_active()), (200, true));
    let changed = configuration(&lab, "unknown_key = \"reject\"");
    write_configuration(&machine, &changed);
    machine.done(&["systemctl", "reload", UNIT]);
    assert_eq!(status(&lab, unknown), 401);

    // Limits and counts survive a restart and a stop.
    machine.done(&["systemctl", "restart", UNIT]);
    assert_eq!(status(&lab, &key), 200);
    machine.done(&["systemctl", "stop", UNIT]);
    assert_eq!([status(&lab, &key), status(&lab, &key)], [200, 200]);
    assert_eq!([status(&lab, &key), status(&lab, unknown)], [429, 401]);
    machine.done(&["systemctl", "start", UNIT]);
    assert_eq!(nginx.served(&key), 4);

    // The limits stay in force during an upgrade, and the changed configuration file is kept.
    let before = machine.property(UNIT, "MainPID");
    let next = next_version(&lab);
    let asked = while_asking(&lab, &key, || install(&machine, &next));
    assert!(
        !asked.is_empty() && asked.iter().all(|&status| status == 429),
        "{asked:?}"
    );
    let version = machine.done(&["dpkg-query", "--show", "--showformat=${Version}", "limiter"]);
    assert!(version.starts_with("9:"), "{version}");
    assert!(is_active());
    assert_ne!(machine.property(UNIT, "MainPID"), before);
    let kept = fs::read_to_string(machine.file(CONFIGURATION)).expect("the configuration");
    assert_eq!(kept, changed);
    assert!(machine.file("/etc/limiter/limiter.toml.dpkg-dist").exists());
    assert_eq!(nginx.served(&key), 4);

    // After the package has been removed, nothing is limited, and the state of the daemon is kept.
    machine.done(&["dpkg", "--remove", "limiter"]);
    assert_eq!(status(&lab, &key), 200);
    assert_eq!(attached(&lab), "");
    let pins = fs::read_dir(machine.file("/sys/fs/bpf/limiter"));
    assert!(pins.is_err() || pins.is_ok_and(|mut pins| pins.next().is_none()));
    assert_eq!(nginx.served(&key), 5);
    install(&machine, &next);
    machine.done(&["systemctl", "start", UNIT]);
    assert_eq!([status(&lab, &key), status(&lab, unknown)], [429, 401]);

    // When an operator runs `limiter detach`, the daemon ends, and systemd does not start it again
    // by itself.
    machine.done(&["limiter", "detach"]);
    assert_eq!((status(&lab, &key), attached(&lab).as_str()), (200, ""));
    eventually("the daemon has ended", || {
        systemctl(&["is-active", UNIT]).stdout == "inactive\n"
    });
    assert_eq!(machine.property(UNIT, "Result"), "success");
    machine.done(&["systemctl", "start", UNIT]);
    assert_eq!(status(&lab, &key), 429);

    // The package is purged while the daemon is stopped and the limits are in force. Nothing may be
    // left except the user.
    machine.done(&["systemctl", "stop", UNIT]);
    assert_eq!(status(&lab, &key), 429);
    machine.done(&["dpkg", "--purge", "limiter"]);
    assert_eq!((status(&lab, &key), attached(&lab).as_str()), (200, ""));
    for path in [
        "/etc/limiter",
        "/var/lib/limiter",
        "/run/limiter",
        "/usr/bin/limiter",
    ] {
        assert!(!machine.file(path).exists(), "{path}");
    }
    machine.done(&["getent", "passwd", "limiter"]);
}

#[test]
fn first_steps_of_the_package_end_in_an_explained_refusal() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let machine = boot(&lab);
    install(&machine, &package());

    // The packaged configuration is changed as the guide describes, and gets the interface and the
    // port of this host.
    let text = fs::read_to_string(machine.file(CONFIGURATION)).expect("the file of the package");
    let interface = format!("interfaces = [{:?}]", lab.interface());
    let text = [
        ("interfaces = [\"lo\"]", interface.as_str()),
        ("ports      = [8080]", &format!("ports      = [{GUARDED}]")),
        ("#[metrics]", "[metrics]"),
        ("#listen = ", "listen = "),
    ]
    .iter()
    .fold(text, |text, (from, to)| {
        assert!(text.contains(from), "no `{from}` in {text}");
        text.replacen(from, to, 1)
    });
    write_configuration(&machine, &text);
    let checked = machine.done(&["limiter", "check"]);
    for words in [lab.interface(), "profile", "1000", "/metrics"] {
        assert!(checked.contains(words), "no {words} in {checked}");
    }
    machine.done(&["systemctl", "enable", "--now", UNIT]);

    // The output for an empty list names the command to run next.
    let none = machine.done(&["limiter", "scope", "list"]);
    assert!(none.contains("limiter scope add"), "{none}");
    let key = key(&machine);
    let note = ["--note", "to see a refusal"];
    let set = ["limiter", "limits", "set", "acme/web"];
    let limits = ["--daily-quota", "2", "--burst", "3"];
    machine.done(&[&set[..], &limits, &note].concat());
    let statuses = [(); 3].map(|()| status(&lab, &key));
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(nginx.served(&key), 2);

    // The output of the commands shows which scope is limited and why.
    let usage = machine.done(&["limiter", "usage"]);
    assert!(usage.contains("acme/web"), "{usage}");
    let explained = machine.done(&["limiter", "explain", "acme/web"]);
    for words in ["would be refused with 429: daily quota", note[1]] {
        assert!(explained.contains(words), "no {words} in {explained}");
    }
    eventually("the refusal is reported", || {
        let events = machine.done(&["limiter", "events"]);
        events.contains("acme/web  daily_quota  key k_")
    });
    let terminal = Terminal::start(
        &machine.command(&["TERM=screen", "limiter"]),
        lab.file("tmux"),
        "$LIMITER top",
    );
    terminal.until("the scope is on the screen", |screen| {
        screen.iter().any(|line| line.starts_with("acme/web "))
    });
    let page = Page::read(&lab);
    assert_eq!(page.requests("profile", "admitted", ""), 2);
    assert_eq!(page.requests("profile", "refused", "daily_quota"), 1);
    let journal = machine.done(&["journalctl", "--unit", UNIT, "--no-pager"]);
    assert!(
        journal.contains("ready") && !journal.contains(&key),
        "{journal}"
    );

    // The files for other tools are installed as they are in the repository.
    for name in ["prometheus/limiter.rules.yml", "grafana/limiter.json"] {
        let installed = fs::read(machine.file(&format!("/usr/share/limiter/{name}")));
        let ours = fs::read(packaged(name)).expect("a file of the repository");
        assert!(installed.is_ok_and(|file| file == ours), "{name}");
    }
}

#[test]
fn the_unit_waits_for_an_interface_and_not_for_a_valid_configuration() {
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);
    let machine = boot(&lab);
    install(&machine, &package());
    let start = || machine.run(&["systemctl", "start", UNIT]).code;
    let settings = machine.file("/etc/systemd/system/limiter.service.d");
    fs::create_dir_all(&settings).expect("a directory for settings");
    fs::write(settings.join("test.conf"), "[Service]\nRestartSec=100ms\n").expect("settings");
    machine.done(&["systemctl", "daemon-reload"]);

    // The daemon ends with an error about the configuration, and systemd does not start the daemon
    // again.
    write_configuration(&machine, &configuration(&lab, "unknown_key = \"rejekt\""));
    assert_ne!(start(), 0);
    for (property, wanted) in [
        ("ExecMainStatus", "2"),
        ("ActiveState", "failed"),
        ("Result", "exit-code"),
        ("NRestarts", "0"),
        ("MemoryMax", "2147483648"),
    ] {
        assert_eq!(machine.property(UNIT, property), wanted, "{property}");
    }

    // This configuration is valid, but one of its interfaces does not exist yet.
    let text = configuration(&lab, "unknown_key = \"reject\"");
    let named = format!("interfaces = [{:?}", lab.interface());
    assert!(text.contains(&named), "{text}");
    write_configuration(
        &machine,
        &text.replace(&named, &format!("{named}, \"later0\"")),
    );
    assert_eq!(start(), 0);
    assert_eq!(status(&lab, "another-key-of-somebody"), 401);
    assert!(
        machine
            .done(&["limiter", "status"])
            .contains("waiting for later0")
    );
    lab.server().ip("link add later0 type bridge");
    eventually("limits are in force on it", || {
        let status = machine.done(&["limiter", "--json", "status"]);
        status.contains("later0") && !status.contains("waiting for")
    });
    assert_eq!(machine.property(UNIT, "NRestarts"), "0");

    // To attach to many interfaces quickly, the daemon sets `rcu_expedited` to 1 and then to 0
    // again. In this machine, the variable is an ordinary file, and the daemon writes no newline.
    // The missing newline therefore shows that the daemon has written to it.
    let hurry = machine.file("/sys/kernel/rcu_expedited");
    let hurry = || fs::read_to_string(&hurry).expect("the kernel's variable");
    assert_eq!(hurry(), "0\n");
    let many: Vec<String> = (0..8).map(|number| format!("many{number}")).collect();
    for name in &many {
        lab.server().ip(&format!("link add {name} type bridge"));
    }
    let listed = many.iter().map(|name| format!("{name:?}"));
    let listed: Vec<String> = listed.collect();
    write_configuration(
        &machine,
        &text.replace(&named, &format!("{named}, {}", listed.join(", "))),
    );
    machine.done(&["systemctl", "reload", UNIT]);
    eventually("it is attached to them", || {
        machine.done(&["limiter", "status"]).contains("many7")
    });
    assert_eq!(hurry(), "0");
}

/// Returns the programs that are attached to the server's interface, as bpftool lists them.
fn attached(lab: &Lab) -> String {
    process::succeed(
        lab.server()
            .command("bpftool")
            .args(["net", "show", "dev", lab.interface()]),
    )
    .lines()
    .filter(|line| line.starts_with(lab.interface()))
    .collect()
}

/// Sends requests with `key` one after the other while `work` runs, and returns the statuses of all
/// responses.
fn while_asking(lab: &Lab, key: &str, work: impl FnOnce()) -> Vec<u16> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answers = Vec::new();
            while !over.load(SeqCst) {
                answers.push(status(lab, key));
            }
            answers
        });
        work();
        over.store(true, SeqCst);
        asking.join().expect("the answers")
    })
}

/// While the store is locked, the engine waits for the lock and does not notify the watchdog of
/// systemd. Therefore systemd restarts the daemon.
#[test]
fn watchdog_restarts_a_hanging_daemon() {
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);
    let machine = boot(&lab);
    install(&machine, &package());
    write_configuration(&machine, &configuration(&lab, "unknown_key = \"reject\""));
    let more = machine.file("/etc/systemd/system/limiter.service.d");
    fs::create_dir_all(&more).expect("a directory for settings");
    // The timeout is longer than a round of the engine, and shorter than the time for which the
    // store waits for a lock (5 s).
    fs::write(
        more.join("test.conf"),
        "[Service]\nWatchdogSec=3s\nRestartSec=100ms\n",
    )
    .expect("write the settings");
    machine.done(&["systemctl", "daemon-reload"]);
    machine.done(&["systemctl", "start", UNIT]);
    let process = machine.property(UNIT, "MainPID");
    let first = machine.property(UNIT, "WatchdogTimestampMonotonic");
    eventually("a sign of life", || {
        machine.property(UNIT, "WatchdogTimestampMonotonic") != first
    });
    assert_eq!(machine.property(UNIT, "MainPID"), process);

    let mut waits = machine.command(&["limiter", "scope", "add", "acme/web"]);
    while_the_store_is_locked(&machine, || {
        let mut waits = waits.spawn().expect("a command that waits");
        eventually("the daemon is started anew", || {
            machine.property(UNIT, "NRestarts") != "0"
        });
        waits.wait().expect("its end");
    });
    let journal = machine.done(&["journalctl", "--no-pager", "--unit", UNIT]);
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    eventually("it runs again", || {
        machine.run(&["limiter", "status"]).code == 0
    });
    assert_eq!(status(&lab, "another-key-of-somebody"), 401);
}

/// Locks the daemon's store while `work` runs.
fn while_the_store_is_locked(machine: &Machine, work: impl FnOnce()) {
    let (locked, is_locked) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| {
            machine.enter(move || {
                let mut store = Connection::open("/var/lib/limiter/limiter.db").expect("the store");
                let _held = store
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .expect("the store's lock");
                locked.send(()).expect("the test waits");
                // The sender is dropped when `work` has ended, whether or not `work` has succeeded.
                let _ = is_done.recv();
            });
        });
        is_locked.recv().expect("the store is locked");
        work();
        drop(done);
    });
}
