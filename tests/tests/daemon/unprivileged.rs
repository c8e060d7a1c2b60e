// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daemon runs as an unprivileged user with no more than three capabilities.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use limiter_tests::{
    Config, GUARDED, Lab, Limiter, Nginx, Place, Stopper, avoid_midnight, eventually, kernel,
    limiter::exit, neighbour, process,
};

/// A BPF file system for the user of the daemon, because only root can use `/sys/fs/bpf`. It is
/// unmounted when this value is dropped.
struct Bpffs(PathBuf);

impl Bpffs {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("a directory to mount on");
        process::succeed(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&path));
        let bpffs = Self(path);
        Limiter::give_to_nobody(&bpffs.0);
        fs::set_permissions(&bpffs.0, fs::Permissions::from_mode(0o700)).expect("its mode");
        bpffs
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let umounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !umounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

/// Returns the value of the line `name` in `/proc/PID/status`.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a line of that name").trim().to_owned()
}

#[test]
fn three_capabilities_are_enough_from_the_start_to_the_takeover() {
    avoid_midnight(Duration::from_secs(60));
    let lab = Lab::veth();
    let bpffs = Bpffs::new(lab.file("bpf"));
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let config = Config::new(&lab).tier("profile", "daily_quota = 4");
    let mut limiter = Limiter::prepare(&lab, "limiter", &config);
    limiter.drop_privileges(&bpffs.0.join("limiter"));
    limiter.run(&[]);
    let pid = limiter.pid();
    assert_eq!(status(pid, "Uid:"), "65534\t65534\t65534\t65534");
    // The bits of CAP_NET_ADMIN (12), CAP_PERFMON (38) and CAP_BPF (39), according to
    // capabilities(7) and linux/capability.h.
    let three = 1u64 << 12 | 1 << 38 | 1 << 39;
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(status(pid, set), format!("{three:016x}"), "{set}");
    }
    let key = limiter.key("acme/web");
    let ask = || lab.connect(GUARDED).get("/", &key).status;
    assert_eq!([ask(), ask()], [200, 200]);
    if kernel::has_tcx() {
        let _stopper = Stopper::at(&lab, "s0", Place::First);
        eventually("ours are first", || {
            let links = neighbour::links(lab.server(), "s0");
            let ours =
                |hook: &Vec<neighbour::AttachedProgram>| hook[0].name.starts_with("limiter_");
            links.iter().all(ours)
        });
    }
    limiter.kill();
    assert_eq!(ask(), 200);
    let config = fs::read_to_string(limiter.config_path()).expect("the configuration");
    limiter.write_config(&config.replace("flows = 8192", "flows = 16384"));
    limiter.run(&[]);
    assert_eq!(limiter.count("/flows/capacity"), 16384);
    limiter.done(&["reload"]);
    assert_eq!([ask(), ask()], [200, 429]);
    assert_eq!((nginx.served(&key), limiter.usage("acme/web").used), (4, 4));
    let health = limiter.status()["health"].clone();
    assert!(health.as_array().is_some_and(Vec::is_empty), "{health}");
    drop(limiter);
}

/// The uid and the gid of the daemon in these tests.
const NOBODY: u32 = 65534;

/// A lab in which an unprivileged daemon has served three requests with a key of `acme/web`. Each
/// test kills the daemon before running commands as root.
struct DeadDaemon {
    limiter: Limiter,
    lab: Lab,
    /// A file that belongs to root. The tests create links to this file, and the links belong to
    /// the daemon's user. Root must not read or change the file through these links.
    victim: PathBuf,
    _nginx: Nginx,
    key: String,
    _bpffs: Bpffs,
}

impl DeadDaemon {
    fn new() -> Self {
        let lab = Lab::veth();
        let bpffs = Bpffs::new(lab.file("bpf"));
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let config = Config::new(&lab)
            .tier("profile", "daily_quota = 5")
            .small_tables();
        let mut limiter = Limiter::prepare(&lab, "limiter", &config);
        limiter.drop_privileges(&bpffs.0.join("limiter"));
        limiter.run(&[]);
        let key = limiter.key("acme/web");
        let dead = Self {
            victim: lab.file("victim"),
            limiter,
            lab,
            _nginx: nginx,
            key,
            _bpffs: bpffs,
        };
        for _ in 0..3 {
            assert_eq!(dead.ask(), 200);
        }
        // The file is empty because SQLite treats an empty file as a new database. If SQLite
        // followed a link to this file, it would write to the file, and the test would notice.
        fs::write(&dead.victim, "").expect("a file of root's");
        fs::set_permissions(&dead.victim, fs::Permissions::from_mode(0o600)).expect("its mode");
        dead
    }

    fn ask(&self) -> u16 {
        self.lab.connect(GUARDED).get("/", &self.key).status
    }

    /// Creates at `path` a symbolic link to `target`, and makes the unprivileged user the owner of
    /// the link. A file that is already at `path` is removed first.
    fn plant_link(&self, path: &Path, target: &Path) {
        let _ = fs::remove_file(path);
        symlink(target, path).expect("a link");
        lchown(path, Some(NOBODY), Some(NOBODY)).expect("its owner");
    }

    fn assert_victim_is_unchanged(&self, what: &str) {
        let metadata = fs::symlink_metadata(&self.victim).expect("the victim");
        assert_eq!(
            (metadata.len(), metadata.mode() & 0o7777, metadata.uid()),
            (0, 0o600, 0),
            "{what}"
        );
        let beside = fs::read_dir(self.lab.directory()).expect("the directory");
        let made: Vec<_> = beside
            .flatten()
            .map(|file| file.file_name())
            .filter(|name| name.to_string_lossy().starts_with("victim-"))
            .collect();
        assert!(made.is_empty(), "{what}: {made:?}");
    }
}

#[test]
fn root_detach_of_an_unprivileged_daemon_keeps_counts_and_file_owners() {
    avoid_midnight(Duration::from_secs(60));
    let mut dead = DeadDaemon::new();
    dead.limiter.kill();
    assert_eq!(dead.ask(), 200);
    let detached = dead.limiter.detach();
    assert_eq!(
        (detached.code, detached.stderr.as_str()),
        (exit::DONE, ""),
        "{detached:?}"
    );
    assert!(
        !dead.limiter.pin_dir().exists()
            || dead
                .limiter
                .pin_dir()
                .read_dir()
                .expect("pins")
                .next()
                .is_none()
    );
    for file in fs::read_dir(dead.limiter.state_dir())
        .expect("the state")
        .flatten()
    {
        let metadata = file.metadata().expect("a file");
        assert_eq!(
            (metadata.uid(), metadata.mode() & 0o777),
            (NOBODY, 0o600),
            "{file:?}"
        );
    }
    dead.limiter.run(&[]);
    let usage = dead.limiter.usage("acme/web");
    assert_eq!((usage.used, usage.lost), (4, 0), "{usage:?}");
    assert_eq!([dead.ask(), dead.ask()], [200, 429]);
}

#[test]
fn root_follows_no_links_of_an_unprivileged_daemon() {
    avoid_midnight(Duration::from_secs(120));
    let mut dead = DeadDaemon::new();
    let state = dead.limiter.state_dir();
    let pins = dead.limiter.pin_dir().to_owned();
    let kept = dead.lab.file("kept");
    fs::create_dir(&kept).expect("a directory of root's");
    fs::write(kept.join("file"), "").expect("a file of root's");
    // The control socket is replaced by a link to the socket of another service. Commands that root
    // runs must not connect to that service.
    let (socket, other) = (dead.limiter.socket(), dead.lab.file("other"));
    let service = UnixListener::bind(&other).expect("another service");
    service.set_nonblocking(true).expect("a look at it");
    fs::rename(&socket, socket.with_extension("was")).expect("the socket's place");
    dead.plant_link(&socket, &other);
    let asked = dead.limiter.cli(&["status"]);
    asked.assert_fails(
        exit::FAILED,
        &["symbolic link that belongs to the user nobody"],
    );
    assert!(service.accept().is_err(), "root has connected to it");
    fs::remove_file(&socket).expect("the link");
    fs::rename(socket.with_extension("was"), &socket).expect("the socket");
    for name in [
        "limiter.db",
        "limiter.db-wal",
        "limiter.db-shm",
        "limiter.db-journal",
        "hash.key",
        "pins",
    ] {
        dead.limiter.kill();
        let path = state.join(name);
        let saved = dead.lab.file("saved");
        let was_there = fs::rename(&path, &saved).is_ok();
        if name == "pins" {
            // The first link has the name of a directory that `detach` would remove with its
            // contents. The second link has the name of a pin that `detach` would open and detach.
            dead.plant_link(&pins.join("v1"), &kept);
            dead.plant_link(&pins.join("links/eth9-ingress"), &dead.victim);
        } else {
            dead.plant_link(&path, &dead.victim);
        }
        let detached = dead.limiter.detach();
        assert_eq!(detached.code, exit::DONE, "{name}: {detached:?}");
        dead.assert_victim_is_unchanged(name);
        assert!(kept.join("file").exists(), "{name}");
        assert_eq!(dead.ask(), 200, "{name}: nothing is in force");
        if name.starts_with("limiter.db") {
            // The link has replaced a file of the store. `detach` therefore cannot write the
            // counts, and reports that they are lost.
            let why = [name, "is a symbolic link", "counts"];
            assert!(
                why.iter().all(|word| detached.stderr.contains(word)),
                "{detached:?}"
            );
        }
        if name != "pins" {
            fs::remove_file(&path).expect("the link");
        }
        if was_there {
            fs::rename(&saved, &path).expect("the file as it was");
        }
        if fs::read_dir(&pins).is_ok() {
            fs::remove_dir(&pins).expect("nothing is left in it");
        }
        dead.limiter.run(&[]);
    }
}

#[test]
fn root_refuses_directories_that_others_can_replace() {
    let mut dead = DeadDaemon::new();
    dead.limiter.kill();
    assert_eq!(dead.limiter.detach().code, exit::DONE);
    dead.limiter.regain_privileges();
    let (state, run) = (dead.limiter.state_dir(), dead.limiter.runtime_dir());
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    let own = |path: &Path, owner| lchown(path, Some(owner), Some(owner)).expect("an owner");
    let moved = dead.lab.file("moved");
    let refused = |dead: &mut DeadDaemon, words: &[&str]| {
        let before = dead.limiter.log().len();
        dead.limiter.launch(&[]);
        assert_eq!(dead.limiter.wait_for_end(), Some(exit::FAILED), "{words:?}");
        let log = dead.limiter.log().split_off(before);
        for word in words {
            assert!(log.contains(word), "no {word} in {log}");
        }
        dead.assert_victim_is_unchanged(words[0]);
    };
    let [state_name, run_name] = [&state, &run].map(|path| path.display().to_string());
    refused(&mut dead, &[&state_name, "belongs to the user nobody"]);
    own(&state, 0);
    // The state directory now belongs to root. The runtime directory and the files in both
    // directories still belong to the unprivileged user.
    refused(&mut dead, &[&run_name, "belongs to the user nobody"]);
    own(&run, 0);
    refused(&mut dead, &["limiter.db belongs to the user nobody"]);
    for file in fs::read_dir(&state).expect("the state").flatten() {
        own(&file.path(), 0);
    }
    for (path, bits) in [
        (&state, 0o777),
        (&state, 0o1777),
        (&state, 0o770),
        (&run, 0o757),
    ] {
        mode(path, bits);
        refused(
            &mut dead,
            &[&path.display().to_string(), "has mode", "chmod go-w"],
        );
        mode(path, 0o755);
    }
    // The state directory is now a link to a valid directory. The daemon refuses the link if it
    // belongs to the unprivileged user, and follows the link if it belongs to root.
    fs::rename(&state, &moved).expect("another place");
    symlink(&moved, &state).expect("a link");
    own(&state, NOBODY);
    refused(
        &mut dead,
        &[&state_name, "symbolic link that belongs to the user nobody"],
    );
    own(&state, 0);
    // Each of the daemon's files is replaced in turn by a symbolic link, a pipe, a directory, and a
    // hard link to a file of root.
    for name in [
        "limiter.db",
        "limiter.db-wal",
        "limiter.db-journal",
        "hash.key",
    ] {
        let (path, saved) = (moved.join(name), dead.lab.file("saved"));
        let was_there = fs::rename(&path, &saved).is_ok();
        for kind in ["a symbolic link", "a pipe", "a directory", "hard links"] {
            match kind {
                "a symbolic link" => symlink(&dead.victim, &path).expect("a link"),
                "a pipe" => process::succeed(Command::new("mkfifo").arg(&path)).clear(),
                "a directory" => fs::create_dir(&path).expect("a directory"),
                _ => fs::hard_link(&dead.victim, &path).expect("a hard link"),
            }
            refused(&mut dead, &[name, kind]);
            fs::remove_file(&path)
                .or_else(|_| fs::remove_dir(&path))
                .expect("it goes");
        }
        if was_there {
            fs::rename(&saved, &path).expect("as it was");
        }
    }
    dead.limiter.run(&[]);
    assert_eq!(dead.ask(), 200);
    assert_eq!(dead.limiter.usage("acme/web").used, 4);
}
