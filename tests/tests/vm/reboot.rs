// SPDX-License-Identifier: MIT OR Apache-2.0

//! Three boots of one host, which keeps its disk. The first boot ends with an orderly shutdown, and
//! the second one with a power failure. Each boot is a test of its own.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
};

use limiter_tests::{Config, GUARDED, Lab, Limiter, Nginx, eventually, vm};

use super::{noon, status};

/// The daily quota.
const QUOTA: u64 = 40;
/// The number of requests by which the counts in the maps may run ahead of the store.
const AHEAD: u64 = 5;
/// The number of requests in the first boot.
const FIRST: u64 = 7;
/// The minimum number of requests in the second boot.
const SECOND: u64 = 13;

/// A file in which the test itself records the customer's key and the number of served requests.
struct Progress(PathBuf);

impl Progress {
    fn new() -> Self {
        Self(Path::new(vm::DISK).join("progress"))
    }

    fn write(&self, key: &str, served: u64) {
        vm::write_durably(&self.0, &format!("{key} {served}"));
    }

    fn read(&self) -> (String, u64) {
        let text = fs::read_to_string(&self.0).expect("what the previous boot wrote");
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
    /// Makes a host and sets its clock to `minutes` minutes after a noon. All three boots are on
    /// the same day.
    fn boot(minutes: u64) -> Self {
        vm::require_vm();
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
    Progress::new().write(&key, FIRST);
}

#[test]
fn second_life() {
    let host = Host::boot(10);
    let (key, before) = Progress::new().read();
    // After the daemon has ended and before the host shuts down, the kernel may admit as many
    // requests as the store allows. All of these therefore count as used after the next boot
    // (docs/SURVIVAL.md).
    let usage = host.limiter.usage("acme/web");
    println!("after an orderly end: {usage:?}");
    assert_eq!((usage.used - usage.lost, before), (FIRST, FIRST));
    assert!(usage.lost <= AHEAD, "{usage:?}");
    let mut served = before;
    // The number of served requests that is certainly on the disk. The file may already contain the
    // next number. That number is lost in a power failure if the directory of the renamed file has
    // not been written to the disk.
    let noted = AtomicU64::new(before);
    thread::scope(|threads| {
        threads.spawn(|| {
            // The power is cut while requests arrive.
            eventually("enough requests have been served", || {
                noted.load(SeqCst) >= FIRST + SECOND
            });
            vm::cut_power();
        });
        loop {
            assert_eq!(status(&host.lab, &key), 200);
            served += 1;
            Progress::new().write(&key, served);
            noted.store(served, SeqCst);
            if served + AHEAD == QUOTA {
                // Enough requests have been sent. The other thread will cut the power.
                thread::park();
            }
        }
    });
}

#[test]
fn third_life() {
    let host = Host::boot(20);
    let (key, before) = Progress::new().read();
    assert!(before >= FIRST + SECOND, "{before}");
    let usage = host.limiter.usage("acme/web");
    // Each of the two times that the daemon ended, at most `AHEAD` requests may have been lost.
    assert!(usage.lost <= 2 * AHEAD, "{usage:?}");
    assert!(usage.used >= before, "{usage:?}");
    let mut served = 0;
    while status(&host.lab, &key) == 200 {
        served += 1;
    }
    println!("{before} served before the power was cut and {served} after, of {QUOTA}: {usage:?}");
    assert!(before + served <= QUOTA, "{before} and {served}");
    // When the power was cut, one request may have been served but not recorded yet.
    assert!(
        before + 1 + served + 2 * AHEAD >= QUOTA,
        "{before} and {served}"
    );
    assert_eq!(usage.used + served, QUOTA);
    // The audit log has survived the power failure too.
    let audit = host.limiter.json(&["audit"]);
    assert!(audit.to_string().contains("acme/web"), "{audit}");
}
