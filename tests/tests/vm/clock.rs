// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that set the machine's own clock, so that the daemon and the kernel see the same time.

use limiter_tests::{Config, GUARDED, Lab, Limiter, Nginx, eventually, vm};

use super::{noon, probe, status};

/// The daily quota.
const QUOTA: usize = 5;

/// The number of seconds before midnight at which a customer sends the first request.
const BEFORE: u64 = 15;

const HALF_A_DAY: u64 = 43_200;
const DAY: u64 = 86_400;

struct Host {
    limiter: Limiter,
    nginx: Nginx,
    key: String,
    probe: String,
    lab: Lab,
}

impl Host {
    /// Makes a host and sets the clock to `now`, which must be noon of a day.
    fn at(now: u64) -> Self {
        vm::require_vm();
        vm::set_clock(now);
        let lab = Lab::veth();
        let nginx = Nginx::start(&lab, &[GUARDED]);
        let config = Config::new(&lab)
            .tier("profile", &format!("daily_quota = {QUOTA}"))
            .tier("never", "daily_quota = 0");
        let limiter = Limiter::start(&lab, &config);
        Self {
            key: limiter.key("acme/web"),
            probe: probe(&limiter),
            limiter,
            nginx,
            lab,
        }
    }

    fn status(&self) -> u16 {
        status(&self.lab, &self.key)
    }

    /// Sends one request more than the quota allows, and returns the status codes.
    fn use_up(&self) -> Vec<u16> {
        (0..=QUOTA).map(|_| self.status()).collect()
    }

    /// Returns the number of seconds until midnight, according to the kernel.
    fn left(&self) -> u64 {
        let refusal = self.lab.connect(GUARDED).get("/", &self.probe);
        let after = refusal.required("retry-after").trim();
        after.parse().expect("seconds")
    }

    fn used_on(&self, noon: u64) -> u64 {
        let usage = ["usage", "acme/web", "--date", &date(noon)];
        let usage = self.limiter.json(&usage);
        usage["used"].as_u64().expect("a number")
    }

    /// Returns the day for which requests are counted.
    fn day(&self) -> String {
        self.limiter.usage("acme/web").day
    }
}

fn date(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).expect("a time");
    let time = chrono::DateTime::from_timestamp(seconds, 0).expect("a time");
    time.date_naive().to_string()
}

/// Returns the status codes of a day on which the quota is used up: one success for each request
/// that the quota allows, and a refusal.
fn a_day() -> Vec<u16> {
    [vec![200; QUOTA], vec![429]].concat()
}

#[test]
fn new_day_begins_at_midnight_with_and_without_a_daemon() {
    for (day, daemon) in [(0, true), (10, false)] {
        let mut host = Host::at(noon(day));
        vm::set_clock(noon(day) + HALF_A_DAY - BEFORE);
        eventually("the kernel sees the evening", || host.left() <= BEFORE);
        let first = host.status();
        if !daemon {
            // The daemon is killed at once, possibly before it has written the count of the first
            // request to the store.
            host.limiter.kill();
        }
        let rest: Vec<u16> = (0..QUOTA).map(|_| host.status()).collect();
        assert_eq!([vec![first], rest].concat(), a_day());
        eventually("the new day begins", || host.status() == 200);
        let rest: Vec<u16> = (0..QUOTA).map(|_| host.status()).collect();
        assert_eq!(rest, a_day()[1..]);
        if !daemon {
            host.limiter.run(&[]);
        }
        let used = [day, day + 1].map(|day| host.used_on(noon(day)));
        let quota = u64::try_from(QUOTA).expect("a few");
        assert_eq!(used, [quota; 2]);
        assert_eq!(host.nginx.served(&host.key), 2 * quota);
    }
}

#[test]
fn clock_set_forward_opens_the_later_day_and_back_reopens_none() {
    let now = noon(20);
    let host = Host::at(now);
    assert_eq!([host.status(), host.status()], [200; 2]);
    vm::set_clock(now + 3 * DAY + HALF_A_DAY / 2);
    eventually("the kernel sees the later day", || {
        host.left() <= HALF_A_DAY / 2
    });
    assert_eq!(host.use_up(), a_day());
    assert_eq!(host.day(), date(now + 3 * DAY));
    vm::set_clock(now);
    eventually("the kernel sees the day before", || {
        host.left() > HALF_A_DAY / 2
    });
    // The clock is back at the first noon. The later day still applies, and its quota is used up.
    assert_eq!(host.status(), 429);
    assert_eq!(host.day(), date(now + 3 * DAY));
    let reset = ["reset", "acme/web", "--note", "the clock was wrong"];
    host.limiter.done(&reset);
    assert_eq!(host.use_up(), a_day());
    assert_eq!(host.day(), date(now));
}

#[test]
fn clock_steps_within_a_day_change_no_count_and_no_rate() {
    let now = noon(30);
    let host = Host::at(now);
    host.limiter.done(&[
        "limits", "set", "acme/web", "--rate", "1/min", "--burst", "1", "--note", "slow",
    ]);
    assert_eq!(host.status(), 200);
    for step in [now + 6 * 3600, now - 6 * 3600] {
        vm::set_clock(step);
        let midnight = (step / DAY + 1) * DAY;
        eventually("the kernel sees the step", || {
            host.left().abs_diff(midnight - step) < 3600
        });
        // The clock is changed by hours, but the rate is still exceeded, because the rate is
        // measured with the boot clock.
        let refusal = host.lab.connect(GUARDED).get("/", &host.key);
        assert_eq!(refusal.status, 429);
        assert_eq!(refusal.violated(), ["rate"]);
    }
    assert_eq!(
        (host.limiter.usage("acme/web").used, host.day()),
        (1, date(now))
    );
    assert_eq!(host.nginx.served(&host.key), 1);
}
