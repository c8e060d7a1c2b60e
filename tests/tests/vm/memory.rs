// SPDX-License-Identifier: MIT OR Apache-2.0

//! A machine whose memory is nearly used up.

use std::fs;

use limiter_tests::{
    Config, Conn, GUARDED, Lab, Limiter, Nginx, Rig, avoid_midnight, cleanup, eventually,
    limiter::exit, request, vm,
};

use super::{probe, status};

/// The test starts at least this long before midnight UTC. It takes much less time, so all of its
/// requests are counted on one day.
const TIME_BEFORE_MIDNIGHT: std::time::Duration = std::time::Duration::from_secs(120);

/// The memory in bytes that is left for all other processes.
const LEFT: u64 = 48 << 20;

/// The size of one allocation in bytes.
const PIECE: usize = 4 << 20;

/// Allocates memory until only about [`LEFT`] bytes are available.
fn take_memory() -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    while vm::available_memory() > LEFT + PIECE as u64 {
        taken.push(vec![1; PIECE]);
    }
    taken
}

/// A cgroup whose members create the tables. The memory of the tables is therefore charged to this
/// cgroup as long as the tables exist.
struct MemoryCgroup(std::path::PathBuf);

impl MemoryCgroup {
    fn new(lab: &Lab) -> Self {
        let root = cleanup::cgroup("cgroup.subtree_control");
        fs::write(root, "+memory").expect("account for memory");
        let path = cleanup::cgroup(lab.name());
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    fn limit(&self, limit: &str) {
        fs::write(self.0.join("memory.max"), limit).expect("a limit");
    }

    fn used(&self) -> String {
        fs::read_to_string(self.0.join("memory.current")).expect("what is used")
    }

    /// Runs `work` while this process, and the processes that it starts, are in the cgroup.
    fn run_inside<T>(&self, work: impl FnOnce() -> T) -> T {
        let procs = "cgroup.procs";
        fs::write(self.0.join(procs), "0").expect("go in");
        let done = work();
        fs::write(cleanup::cgroup(procs), "0").expect("come out");
        done
    }

    /// Moves a process out of the cgroup in which it was started.
    fn release(&self, pid: u32) {
        fs::write(cleanup::cgroup("cgroup.procs"), pid.to_string()).expect("let it out");
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        cleanup::remove_cgroup(&self.0);
    }
}

#[test]
fn tables_without_memory_are_reported_and_leave_nothing_behind() {
    vm::require_vm();
    let lab = Lab::veth();
    // The tables of flows and keys have their maximum sizes. Even when they are empty, such tables
    // need most of the machine's memory.
    let tables = "flows = 16777216\nscopes = 64\nkeys = 16777216\nunknown_keys = 64\n";
    let config = Config::new(&lab).section("tables", tables);
    let mut limiter = Limiter::prepare(&lab, "limiter", &config);
    limiter.launch(&[]);
    assert_eq!(limiter.wait_for_end(), Some(exit::FAILED));
    let log = limiter.log();
    println!("{}", log.lines().last().unwrap_or_default());
    assert!(log.contains("MiB are available"), "{log}");
    assert!(!limiter.pin_dir().exists(), "something is pinned");
    // Smaller tables fit in the memory.
    let config = Config::new(&lab);
    limiter.write_config(&config.to_string());
    limiter.run(&[]);
}

#[test]
fn limits_hold_and_the_daemon_answers_with_little_memory() {
    vm::require_vm();
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let config = Config::new(&lab)
        .tier("profile", "daily_quota = 100")
        .tier("never", "daily_quota = 0");
    let limiter = Limiter::start(&lab, &config);
    let (key, probe) = (limiter.key("acme/web"), probe(&limiter));
    let taken = take_memory();
    println!(
        "{} MiB are taken, {} are left",
        (taken.len() * PIECE) >> 20,
        vm::available_memory() >> 20
    );
    for _ in 0..100 {
        assert_eq!(status(&lab, &key), 200);
        assert_eq!(status(&lab, &probe), 429);
    }
    assert_eq!(status(&lab, &key), 429);
    let another = limiter.key("acme/other");
    assert_eq!(status(&lab, &another), 200);
    let used = limiter.usage("acme/web").used;
    assert_eq!((nginx.served(&key), used), (100, 100));
    drop(taken);
}

#[test]
fn connections_without_memory_are_treated_as_with_a_full_table() {
    /// The maximum number of connections that the test opens. The flows of this number of
    /// connections need more memory than the kernel keeps in reserve for each CPU.
    const CONNECTIONS: usize = 3000;
    vm::require_vm();
    avoid_midnight(TIME_BEFORE_MIDNIGHT);
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let cgroup = MemoryCgroup::new(&lab);
    let limiter = cgroup.run_inside(|| {
        let config = Config::new(&lab).policy("table_full = \"reject\"");
        Limiter::start(&lab, &config)
    });
    cgroup.release(limiter.pid());
    let rig = Rig {
        limiter,
        nginx,
        lab,
    };
    let key = rig.limiter.key("acme/web");
    assert_eq!(rig.get(&key).status, 200);
    cgroup.limit(&cgroup.used());
    let server = (rig.lab.v4(), GUARDED).into();
    let mut conns = Vec::new();
    while conns.len() < CONNECTIONS {
        match Conn::try_open(rig.lab.client(), server) {
            Ok(conn) => conns.push(conn),
            Err(_) => break,
        }
    }
    println!("{} connections were followed", conns.len());
    assert!(rig.limiter.count("/coverage/table_full") > 0);
    assert_eq!(rig.limiter.count("/coverage/table_full_bytes"), 0);
    // Connections that are already open are still served and charged.
    let asked = &request("/", &key);
    let last = conns.last_mut().expect("some were followed");
    assert_eq!(last.ask(asked).status, 200);
    rig.assert_charged_as_served("acme/web", &key, 2);
    drop(conns);
    cgroup.limit("max");
    eventually("there is room again", || {
        Conn::try_open(rig.lab.client(), server)
            .is_ok_and(|mut conn| conn.try_get("/", &key).is_ok_and(|it| it.status == 200))
    });
}
