// SPDX-License-Identifier: MIT OR Apache-2.0

//! If the disk of the store is full, read-only or slow, or if the store is invalid, the limits stay
//! in force, no daily quota is granted twice, and the daemon reports the problem.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Nginx, Rig, avoid_midnight, eventually, limiter::exit, process,
};

use crate::crash::forget_kernel;

/// Each test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: Duration = Duration::from_secs(60);

/// A small file system for the store of the daemon. It is unmounted when this value is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("the state directory");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs"])
            .arg(&path);
        process::succeed(&mut mount);
        Self(path)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Fills the file system with one large file.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.ballast()).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let umounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !umounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

#[test]
fn full_disk_is_reported_and_requests_and_limits_continue() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let config = Config::new(&lab)
        .tier("profile", "daily_quota = 40")
        .section("accounting", "ahead = 5");
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let mut limiter = Limiter::prepare(&lab, "limiter", &config);
    let disk = SmallDisk::new(limiter.state_dir());
    limiter.run(&[]);
    let key = limiter.key("acme/web");
    let ask = || lab.connect(GUARDED).get("/", &key).status;
    assert_eq!(ask(), 200);
    disk.fill();
    let problem = || store_problem(&limiter).is_some_and(|message| message.contains("full"));
    // The limiter holds some of these requests until the daemon knows that it cannot write to the
    // store.
    let asked: Vec<u16> = (1..30).map(|_| ask()).collect();
    assert_eq!(asked, [200; 29]);
    eventually("the full disk is reported", problem);
    assert!(limiter.log().contains("store"), "{}", limiter.log());
    let refused = limiter.cli(&["scope", "add", "beta"]);
    refused.assert_fails(exit::FAILED, &["full"]);
    fs::remove_file(disk.ballast()).expect("make room");
    eventually("all is well again", || {
        limiter.status()["health"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    let asked: Vec<u16> = (30..42).map(|_| ask()).collect();
    assert_eq!(asked, [vec![200; 10], vec![429; 2]].concat());
    // The daemon can write to the store again, so the kernel has admitted these requests only
    // within an allowance that is in the store. When the daemon is killed and the maps are removed,
    // the next daemon counts the whole allowance as used, so no request is forgotten.
    limiter.kill();
    forget_kernel(&limiter);
    limiter.run(&[]);
    assert_eq!(ask(), 429);
    assert_eq!(nginx.served(&key), 40);
    drop(limiter);
}

/// Returns the problem that `limiter status` reports for the store, or `None` if it reports no
/// problem. Asserts that the message names the file of the store.
fn store_problem(limiter: &Limiter) -> Option<String> {
    let health = limiter.status()["health"].clone();
    let mut parts = health.as_array().expect("a list").iter();
    let store = parts.find(|entry| entry["part"] == "store")?;
    let message = store["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("limiter.db"), "{message}");
    Some(message)
}

/// Compiles a library from the C source in `text`. When the library is preloaded into the daemon,
/// it changes the functions with which the daemon accesses the disk.
fn library(lab: &Lab, text: &str) -> PathBuf {
    let source = lab.file("disk.c");
    fs::write(&source, text).expect("write the source");
    let library = lab.file("disk.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-o"]);
    process::succeed(compiler.arg(&library).arg(&source));
    library
}

/// Starts a daemon with a library in C that changes system calls, and with an environment variable
/// that the library reads.
fn start_with(lab: &Lab, config: &Config, source: &str, (name, value): (&str, &str)) -> Limiter {
    let mut limiter = Limiter::prepare(lab, "limiter", config);
    let library = library(lab, source);
    limiter.set_env("LD_PRELOAD", library.to_str().expect("a path in UTF-8"));
    limiter.set_env(name, value);
    limiter.run(&[]);
    limiter
}

/// Returns the path and the content of each file in `directory`, sorted by path.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("the state directory");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let content = fs::read(&path).expect("a file");
            (path, content)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn read_only_disk_is_reported_and_counts_are_written_later() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let config = Config::new(&lab)
        .tier("profile", "daily_quota = 40")
        .section("accounting", "ahead = 5");
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let flag = lab.file("read-only");
    let mut limiter = start_with(
        &lab,
        &config,
        include_str!("../../peers/read_only_disk.c"),
        ("READ_ONLY_WHILE", flag.to_str().expect("a path in UTF-8")),
    );
    let key = limiter.key("acme/web");
    let ask = || lab.connect(GUARDED).get("/", &key).status;
    assert_eq!(ask(), 200);
    eventually("it is written", || store_problem(&limiter).is_none());
    fs::write(&flag, "").expect("make it read-only");
    // The limiter holds some of these requests until the daemon knows that it cannot write to the
    // store.
    let asked: Vec<u16> = (1..30).map(|_| ask()).collect();
    assert_eq!(asked, [200; 29]);
    eventually("the problem is reported", || {
        store_problem(&limiter).is_some()
    });
    assert!(
        limiter.log().contains("store: the store"),
        "{}",
        limiter.log()
    );
    limiter
        .cli(&["scope", "add", "beta"])
        .assert_fails(exit::FAILED, &["limiter.db"]);
    assert_eq!(limiter.usage("acme/web").used, 30);
    // A daemon does not start while the disk is read-only, and changes nothing.
    limiter.kill();
    let before = files(&limiter.state_dir());
    limiter.launch(&[]);
    assert_eq!(limiter.wait_for_end(), Some(exit::FAILED));
    assert_eq!(files(&limiter.state_dir()), before);
    assert_eq!(ask(), 200);
    fs::remove_file(&flag).expect("make it writable");
    limiter.run(&[]);
    assert_eq!(limiter.usage("acme/web").used, 31);
    // A daemon that is running when the disk becomes writable again recovers without a restart.
    fs::write(&flag, "").expect("make it read-only");
    assert_eq!(ask(), 200);
    eventually("the problem is reported again", || {
        store_problem(&limiter).is_some()
    });
    fs::remove_file(&flag).expect("make it writable");
    eventually("all is well again", || store_problem(&limiter).is_none());
    let asked: Vec<u16> = (32..42).map(|_| ask()).collect();
    assert_eq!(asked, [vec![200; 8], vec![429; 2]].concat());
    limiter.terminate();
    // All counts are in the store, so they survive the loss of the maps.
    forget_kernel(&limiter);
    limiter.run(&[]);
    let usage = limiter.usage("acme/web");
    assert_eq!((usage.used, usage.lost, nginx.served(&key)), (40, 0, 40));
    drop(limiter);
}

/// A directory that is read-only until this value is dropped.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn new(path: &'a Path) -> Self {
        process::succeed(Command::new("mount").arg("--bind").arg(path).arg(path));
        let read_only = Self(path);
        process::succeed(
            Command::new("mount")
                .args(["-o", "remount,bind,ro"])
                .arg(path),
        );
        read_only
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let umounted = Command::new("umount").arg("-l").arg(self.0).status();
        if !umounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

#[test]
fn daemon_does_not_start_on_a_read_only_disk_and_limits_stay_in_force() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    for killed in [true, false] {
        let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 4"));
        let key = rig.limiter.key("acme/web");
        assert_eq!(rig.get(&key).status, 200);
        if killed {
            rig.limiter.kill();
        } else {
            rig.limiter.terminate();
        }
        let state = rig.limiter.state_dir();
        let before = files(&state);
        let read_only = ReadOnly::new(&state);
        rig.limiter.launch(&[]);
        assert_eq!(rig.limiter.wait_for_end(), Some(exit::FAILED));
        let log = rig.limiter.log();
        assert!(
            log.contains("limiter.db") && log.contains("Read-only file system"),
            "{log}"
        );
        assert_eq!(files(&state), before);
        assert_eq!(rig.get(&key).status, 200);
        drop(read_only);
        rig.limiter.run(&[]);
        assert_eq!(rig.statuses(&key, 3), [200, 200, 429]);
        rig.assert_charged_as_served("acme/web", &key, 4);
        assert_eq!(rig.limiter.usage("acme/web").lost, 0);
    }
}

#[test]
fn a_slow_disk_holds_requests_and_refuses_none() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let config = Config::new(&lab)
        .tier("profile", "daily_quota = 60")
        .section("accounting", "ahead = 10");
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let limiter = start_with(
        &lab,
        &config,
        include_str!("../../peers/slow_disk.c"),
        ("SLOW_DISK_MS", "100"),
    );
    let key = limiter.key("acme/web");
    let mut conn = lab.connect(GUARDED);
    for _ in 0..60 {
        assert_eq!(conn.get("/", &key).status, 200);
    }
    assert_eq!(conn.get("/", &key).status, 429);
    assert_eq!(
        (nginx.served(&key), limiter.usage("acme/web").used),
        (60, 60)
    );
    // The limiter held requests while the daemon wrote to the slow disk, and did not admit more
    // requests than the store had allowed.
    assert!(limiter.count("/coverage/held") > 0);
    assert_eq!(limiter.count("/coverage/unattended"), 0);
    drop(limiter);
}

#[test]
fn invalid_store_is_left_alone_and_limits_stay_in_force() {
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let mut rig = Rig::veth(|config| config.tier("profile", "daily_quota = 3"));
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    rig.limiter.terminate();
    let file = rig.limiter.state_dir().join("limiter.db");
    let good = fs::read(&file).expect("the store");
    let mut bad = good.clone();
    bad[..4096].fill(b'x');
    fs::write(&file, &bad).expect("spoil the store");
    rig.limiter.launch(&[]);
    assert_eq!(rig.limiter.wait_for_end(), Some(exit::FAILED));
    let log = rig.limiter.log();
    assert!(
        log.contains("limiter.db") && log.contains("not a database"),
        "{log}"
    );
    assert_eq!(
        fs::read(&file).expect("the store"),
        bad,
        "the file was changed"
    );
    assert_eq!(rig.get(&key).status, 200);
    fs::write(&file, &good).expect("mend the store");
    rig.limiter.run(&[]);
    assert_eq!([rig.get(&key).status, rig.get(&key).status], [200, 429]);
}
