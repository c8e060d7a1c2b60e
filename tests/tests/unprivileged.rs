//! The daemon as a user of its own, with three capabilities and no more.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, time::Duration};

use limiter_tests::{Config, GUARDED, Lab, Limiter, Nginx, avoid_midnight, process};

/// A BPF file system of the daemon's user: the system's own is root's alone. Gone when this is dropped.
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

/// A line of `/proc/PID/status`.
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
    // CAP_NET_ADMIN (12), CAP_PERFMON (38) and CAP_BPF (39): capabilities(7), linux/capability.h.
    let three = 1u64 << 12 | 1 << 38 | 1 << 39;
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(status(pid, set), format!("{three:016x}"), "{set}");
    }
    let key = limiter.key("acme/web");
    let ask = || lab.connect(GUARDED).get("/", &key).status;
    assert_eq!([ask(), ask()], [200, 200]);
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
