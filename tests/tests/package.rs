//! The Debian package in a clean Debian, from its installation to its end; the unit under a real systemd.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use limiter_tests::{
    Config, GUARDED, Lab, Machine, Nginx, Terminal, avoid_midnight, eventually,
    limiter::Output,
    metrics::{Page, packaged},
    process, skip,
};
use rusqlite::{Connection, TransactionBehavior};

/// A test about one day's count is over long before this.
const TEST: Duration = Duration::from_secs(90);
const UNIT: &str = "limiter.service";
const CONFIGURATION: &str = "/etc/limiter/limiter.toml";

/// What `cargo xtask test` has made for these tests.
fn given(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => {
            panic!("`cargo xtask test --integration --test package` makes what {variable} names")
        }
    }
}

/// The package, and the clean Debian.
fn package() -> PathBuf {
    given("LIMITER_DEB")
}

fn boot(lab: &Lab) -> Machine {
    Machine::boot(lab, &given("LIMITER_DEBIAN_ROOT"))
}

/// dpkg in the machine, as a script would call it.
#[track_caller]
fn install(machine: &Machine, package: &Path) {
    fs::copy(package, machine.file("/run/limiter.deb")).expect("the package in the machine");
    machine.done(&["dpkg", "--force-confold", "--install", "/run/limiter.deb"]);
}

/// The package in a version that comes after it, whose default configuration is another.
fn next_version(lab: &Lab) -> PathBuf {
    let tree = lab.file("next");
    process::succeed(Command::new("dpkg-deb").arg("-R").arg(package()).arg(&tree));
    let edit = |name: &str, change: &dyn Fn(String) -> String| {
        let path = tree.join(name);
        let text = fs::read_to_string(&path).expect("a file of the package");
        fs::write(&path, change(text)).expect("change it");
    };
    edit("DEBIAN/control", &|text| {
        text.replacen("\nVersion: ", "\nVersion: 9:", 1)
    });
    edit("etc/limiter/limiter.toml", &|text| text + "# Changed.\n");
    let made = lab.file("next.deb");
    process::succeed(
        Command::new("dpkg-deb")
            .args(["-Znone", "-b"])
            .args([&tree, &made]),
    );
    made
}

/// A configuration with this quota for a profile, and the rest of the policy.
fn configuration(lab: &Lab, policy: &str) -> String {
    let quota = "daily_quota = 4";
    let config = Config::new(lab).tier("profile", quota);
    config.policy(policy).to_string()
}

fn write_configuration(machine: &Machine, text: &str) {
    fs::write(machine.file(CONFIGURATION), text).expect("write the configuration");
}

/// A profile with a key, by the operators' commands.
#[track_caller]
fn key(machine: &Machine) -> String {
    machine.done(&["limiter", "scope", "add", "acme/web"]);
    let made = machine.done(&["limiter", "--json", "key", "create", "acme/web"]);
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    made["key"].as_str().expect("the key").to_owned()
}

fn status(lab: &Lab, key: &str) -> u16 {
    lab.connect(GUARDED).get("/", key).status
}

#[test]
fn a_package_limits_from_its_start_over_an_upgrade_to_its_removal() {
    avoid_midnight(TEST);
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let machine = boot(&lab);
    let systemctl = |words: &[&str]| machine.run(&[&["systemctl"], words].concat());
    let is_active = || systemctl(&["is-active", UNIT]).stdout.trim() == "active";

    // Installed, it does nothing yet.
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

    // Started, it limits, as a user without rights.
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

    // A reload is told when it fails, and then changes nothing.
    let unknown = "another-key-of-somebody";
    assert_eq!(status(&lab, unknown), 200);
    write_configuration(&machine, &configuration(&lab, "unknown_key = \"rejekt\""));
    assert_ne!(systemctl(&["reload", UNIT]).code, 0);
    assert_eq!((status(&lab, unknown), is_active()), (200, true));
    let changed = configuration(&lab, "unknown_key = \"reject\"");
    write_configuration(&machine, &changed);
    machine.done(&["systemctl", "reload", UNIT]);
    assert_eq!(status(&lab, unknown), 401);

    // Restarted and stopped, it keeps limits and counts.
    machine.done(&["systemctl", "restart", UNIT]);
    assert_eq!(status(&lab, &key), 200);
    machine.done(&["systemctl", "stop", UNIT]);
    assert_eq!([status(&lab, &key), status(&lab, &key)], [200, 200]);
    assert_eq!([status(&lab, &key), status(&lab, unknown)], [429, 401]);
    machine.done(&["systemctl", "start", UNIT]);
    assert_eq!(nginx.served(&key), 4);

    // An upgrade has no moment without limits, and keeps what was changed in the configuration.
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

    // Removed, it limits nothing, and what it knows stays.
    machine.done(&["dpkg", "--remove", "limiter"]);
    assert_eq!(status(&lab, &key), 200);
    assert_eq!(attached(&lab), "");
    let pins = fs::read_dir(machine.file("/sys/fs/bpf/limiter"));
    assert!(pins.is_err() || pins.is_ok_and(|mut pins| pins.next().is_none()));
    assert_eq!(nginx.served(&key), 5);
    install(&machine, &next);
    machine.done(&["systemctl", "start", UNIT]);
    assert_eq!([status(&lab, &key), status(&lab, unknown)], [429, 401]);

    // Detached by its operator, it ends and stays so until it is started.
    machine.done(&["limiter", "detach"]);
    assert_eq!((status(&lab, &key), attached(&lab).as_str()), (200, ""));
    eventually("the daemon has ended", || {
        systemctl(&["is-active", UNIT]).stdout == "inactive\n"
    });
    assert_eq!(machine.property(UNIT, "Result"), "success");
    machine.done(&["systemctl", "start", UNIT]);
    assert_eq!(status(&lab, &key), 429);

    // It is removed while stopped, and limits in force; then all traces go.
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
fn a_newcomer_has_a_request_refused_and_sees_why() {
    avoid_midnight(TEST);
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let machine = boot(&lab);
    install(&machine, &package());

    // The file in its place says what the guide says, of this host's interface and port.
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
    for told in [lab.interface(), "profile", "1000", "/metrics"] {
        assert!(checked.contains(told), "no {told} in {checked}");
    }
    machine.done(&["systemctl", "enable", "--now", UNIT]);

    // What there is to do next is said where nothing is yet.
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

    // Who is limited, and why.
    let usage = machine.done(&["limiter", "usage"]);
    assert!(usage.contains("acme/web"), "{usage}");
    let explained = machine.done(&["limiter", "explain", "acme/web"]);
    for told in ["would be refused with 429: daily quota", note[1]] {
        assert!(explained.contains(told), "no {told} in {explained}");
    }
    eventually("the refusal is told", || {
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

    // What the tools of the house get is there, as it is in the repository.
    for name in ["prometheus/limiter.rules.yml", "grafana/limiter.json"] {
        let installed = fs::read(machine.file(&format!("/usr/share/limiter/{name}")));
        let ours = fs::read(packaged(name)).expect("a file of the repository");
        assert!(installed.is_ok_and(|file| file == ours), "{name}");
    }
}

/// The programs that are attached in the server's namespace.
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

/// Asks with the key, again and again, while `work` is done; returns all answers.
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

/// The engine waits for the store, so counts are no longer written: to the watchdog it is dead.
#[test]
fn a_daemon_whose_rounds_hang_is_started_anew() {
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);
    let machine = boot(&lab);
    install(&machine, &package());
    write_configuration(&machine, &configuration(&lab, "unknown_key = \"reject\""));
    let more = machine.file("/etc/systemd/system/limiter.service.d");
    fs::create_dir_all(&more).expect("a directory for settings");
    // Longer than a round, shorter than the store waits for a lock (5 s).
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

/// Holds the lock of the daemon's store while `work` is done.
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
                // Ends with the work, whether that sends anything or fails.
                let _ = is_done.recv();
            });
        });
        is_locked.recv().expect("the store is locked");
        work();
        drop(done);
    });
}

#[test]
fn what_comes_with_the_binary_is_of_use() {
    let lab = Lab::veth();
    let machine = boot(&lab);
    install(&machine, &package());

    // Nothing to complain of, with the binary and the manual pages that the unit names.
    let verified = machine.run(&["systemd-analyze", "verify", UNIT]);
    assert_eq!(
        (verified.code, verified.stderr.as_str()),
        (0, ""),
        "{verified:?}"
    );
    // In tenths: 2.5.
    machine.done(&[
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=25",
        UNIT,
    ]);

    for (page, words) in [
        ("limiter", "limiter-run(1)"),
        ("limiter-run", "--detach-on-exit"),
    ] {
        let shown = machine.run(&["man", "--warnings", page]);
        assert_eq!((shown.code, shown.stderr.as_str()), (0, ""), "{shown:?}");
        assert!(shown.stdout.contains(words), "{shown:?}");
    }

    let bash = ". /usr/share/bash-completion/bash_completion
        _completion_loader limiter
        COMP_WORDS=(limiter sco) COMP_CWORD=1
        $(complete -p limiter | grep -oE -- '-F [^ ]+' | cut -c4-) limiter sco limiter
        echo \"${COMPREPLY[@]}\"";
    let zsh =
        "autoload -Uz compinit && compinit -u && print $_comps[limiter] && autoload +X _limiter";
    for (words, wanted) in [
        (["bash", "-c", bash], "scope"),
        (["zsh", "-fc", zsh], "_limiter"),
        (
            ["fish", "-c", "complete --do-complete 'limiter sco'"],
            "scope",
        ),
    ] {
        let Output {
            code,
            stdout,
            stderr,
        } = machine.run(&words);
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
        assert!(
            stdout.split_whitespace().next() == Some(wanted),
            "{words:?}: {stdout}"
        );
    }
}

#[test]
fn lintian_finds_no_error() {
    let said = process::output(
        Command::new("lintian")
            .args(["--fail-on", "error", "--allow-root"])
            .arg(package()),
    );
    let said = Output::from(said);
    assert_eq!(said.code, 0, "{said:?}");
}

/// Nothing to load: it runs where no C library is, or another.
#[test]
fn the_static_binary_needs_no_library() {
    let Some(binary) = env::var_os("LIMITER_STATIC").map(PathBuf::from) else {
        skip(
            "the_static_binary_needs_no_library",
            "it takes minutes to build, which `cargo xtask test --long` does",
        );
        return;
    };
    let headers = process::succeed(
        Command::new("readelf")
            .args(["--program-headers", "--dynamic"])
            .arg(&binary),
    );
    assert!(headers.contains("LOAD"), "{headers}");
    for needed in ["INTERP", "NEEDED"] {
        assert!(!headers.contains(needed), "{headers}");
    }
    let lab = Lab::loopback();
    let root = lab.file("root");
    fs::create_dir(&root).expect("an empty root");
    fs::copy(&binary, root.join("limiter")).expect("a copy");
    let run = |words: &[&str]| {
        Output::from(process::output(
            Command::new("chroot")
                .arg(&root)
                .arg("/limiter")
                .args(words),
        ))
    };
    let version = run(&["--version"]);
    assert_eq!(version.code, 0, "{version:?}");
    assert!(version.stdout.starts_with("limiter "), "{version:?}");
}
