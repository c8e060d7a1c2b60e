//! A host that goes down and comes up again, with one disk: three lives of a machine, each a start of
//! its own. The first ends as it should, the second when its power is cut.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
};

use limiter_tests::{Config, GUARDED, Lab, Limiter, Nginx, eventually, vm};

use super::{noon, status};

/// The day's quota, how far counts may run ahead of the store, and what is asked in the first two lives.
const QUOTA: u64 = 40;
const AHEAD: u64 = 5;
const FIRST: u64 = 7;
const SECOND: u64 = 13;

/// The customer's key, and how many requests were served: what the test itself keeps.
struct Memory(PathBuf);

impl Memory {
    fn new() -> Self {
        Self(Path::new(vm::DISK).join("memory"))
    }

    fn write(&self, key: &str, served: u64) {
        vm::write_for_good(&self.0, &format!("{key} {served}"));
    }

    fn read(&self) -> (String, u64) {
        let text = fs::read_to_string(&self.0).expect("what the life before wrote");
        let (key, served) = text.split_once(' ').expect("two words");
        (key.to_owned(), served.parse().expect("a number"))
    }
}

struct Host {
    limiter: Limiter,
    lab: Lab,
    _nginx: Nginx,
}

impl Host {
    /// Some minutes after noon of the same day in each life.
    fn boot(minutes: u64) -> Self {
        vm::require();
        vm::set_clock(noon(40) + minutes * 60);
        let state = Path::new(vm::DISK).join("state");
        fs::create_dir_all(&state).expect("the state directory");
        let lab = Lab::veth();
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let config = Config::new(&lab)
            .tier("profile", &format!("daily_quota = {QUOTA}"))
            .section("accounting", &format!("ahead = {AHEAD}"));
        let mut limiter = Limiter::prepare(&lab, "limiter", &config);
        symlink(&state, limiter.state_dir()).expect("lead to the disk");
        limiter.run(&[]);
        Self {
            limiter,
            lab,
            _nginx: nginx,
        }
    }
}

#[test]
fn first_life() {
    let mut host = Host::boot(0);
    let key = host.limiter.key("acme/web");
    for _ in 0..FIRST {
        assert_eq!(status(&host.lab, &key), 200);
    }
    host.limiter.terminate();
    Memory::new().write(&key, FIRST);
}

#[test]
fn second_life() {
    let host = Host::boot(10);
    let (key, before) = Memory::new().read();
    // Between the daemon's end and the host's the kernel may admit what the store allows: that much
    // is taken for used (docs/SURVIVAL.md).
    let usage = host.limiter.usage("acme/web");
    println!("after an end as it should be: {usage:?}");
    assert_eq!((usage.used - usage.lost, before), (FIRST, FIRST));
    assert!(usage.lost <= AHEAD, "{usage:?}");
    let mut served = before;
    thread::scope(|threads| {
        threads.spawn(|| {
            // It is cut while requests come: not when all is quiet.
            eventually("so many have been served", || {
                Memory::new().read().1 >= FIRST + SECOND
            });
            vm::cut_power();
        });
        loop {
            assert_eq!(status(&host.lab, &key), 200);
            served += 1;
            Memory::new().write(&key, served);
            if served + AHEAD == QUOTA {
                // Far enough: it is cut any moment.
                thread::park();
            }
        }
    });
}

#[test]
fn third_life() {
    let host = Host::boot(20);
    let (key, before) = Memory::new().read();
    assert!(before >= FIRST + SECOND, "{before}");
    let usage = host.limiter.usage("acme/web");
    // Each end costs so much at most.
    assert!(usage.lost <= 2 * AHEAD, "{usage:?}");
    assert!(usage.used >= before, "{usage:?}");
    let mut served = 0;
    while status(&host.lab, &key) == 200 {
        served += 1;
    }
    println!("{before} served before the power was cut and {served} after, of {QUOTA}: {usage:?}");
    assert!(before + served <= QUOTA, "{before} and {served}");
    // One may have been served when the power was cut, and not noted any more.
    assert!(
        before + 1 + served + 2 * AHEAD >= QUOTA,
        "{before} and {served}"
    );
    assert_eq!(usage.used + served, QUOTA);
    // What the log of changes says is there too.
    let audit = host.limiter.json(&["audit"]);
    assert!(audit.to_string().contains("acme/web"), "{audit}");
}
