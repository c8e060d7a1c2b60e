// SPDX-License-Identifier: MIT OR Apache-2.0

//! A new day begins exactly at midnight UTC, whether or not a daemon is running, and a change of
//! the clock does not grant a quota twice.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use limiter_tests::{Config, FakeTime, GUARDED, Lab, Limiter, Nginx, eventually};

/// The daily quota of the clients' scope.
const QUOTA: u64 = 300;

/// The number of seconds before midnight at which the clients start. On a busy host, the clients
/// need several seconds to use up the daily quota.
const BEFORE: i64 = 30;

/// The pause of a client after a refusal. The pause is short, so that many requests are sent around
/// midnight.
const PAUSE: Duration = Duration::from_millis(1);

struct Night {
    limiter: Limiter,
    nginx: Nginx,
    time: FakeTime,
    key: String,
    /// The key of a scope whose requests are always refused. The Retry-After field of these
    /// refusals shows the time that the kernel programs use.
    probe: String,
    lab: Lab,
}

fn night(tier: &str) -> Night {
    let lab = Lab::veth();
    let nginx = Nginx::start(&lab, &[GUARDED]);
    let config = Config::new(&lab).tier("profile", tier);
    let mut limiter = Limiter::prepare(&lab, "limiter", &config);
    let mut time = FakeTime::of(&mut limiter, &lab.file(""));
    time.set_before_midnight(3600);
    limiter.run(&[]);
    let key = limiter.key("acme/web");
    let probe = limiter.key("acme/probe");
    let never = [
        "limits",
        "set",
        "acme/probe",
        "--daily-quota",
        "0",
        "--note",
        "a probe",
    ];
    limiter.done(&never);
    Night {
        limiter,
        nginx,
        time,
        key,
        probe,
        lab,
    }
}

impl Night {
    /// Returns the number of seconds until midnight, according to the time that the kernel programs
    /// use.
    fn left(&self) -> i64 {
        let refusal = self.lab.connect(GUARDED).get("/", &self.probe);
        let after = refusal.required("retry-after").trim();
        after.parse().expect("seconds")
    }

    fn status(&self) -> u16 {
        self.lab.connect(GUARDED).get("/", &self.key).status
    }

    fn used_on(&self, date: &str) -> (u64, u64) {
        let usage = self.limiter.json(&["usage", "acme/web", "--date", date]);
        let number = |pointer: &str| {
            let value = usage.pointer(pointer).and_then(serde_json::Value::as_u64);
            value.unwrap_or_else(|| panic!("no {pointer} in {usage}"))
        };
        (number("/used"), number("/refused/daily_quota"))
    }
}

/// A guard that stops the other threads when it is dropped, even if the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Runs clients that send requests continuously from before midnight until the quota of the next
/// day is used up too. Calls `meanwhile` when the quota of the first day is used up, and `after`
/// when the clients have stopped.
fn over_midnight(meanwhile: impl FnOnce(&mut Limiter), after: impl FnOnce(&mut Limiter)) {
    let mut night = night(&format!("daily_quota = {QUOTA}"));
    night.time.set_before_midnight(BEFORE);
    let midnight = (night.time.now() + BEFORE).div_euclid(86_400) * 86_400;
    let today = night.time.date(0);
    // The daemon publishes the time to the kernel programs once per second, so the test waits until
    // they have it.
    eventually("the kernel sees the evening", || night.left() < 60);
    // The status of each response, with the time at which the response arrived.
    let answers = Mutex::new(Vec::new());
    let (served, refused_after) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let (lab, time, key) = (&night.lab, &night.time, &night.key);
    let limiter = &mut night.limiter;
    thread::scope(|threads| {
        let _ends_also_when_this_fails = SetOnDrop(&stop);
        for _ in 0..3 {
            threads.spawn(|| {
                let mut conn = lab.connect(GUARDED);
                while !stop.load(SeqCst) {
                    let status = conn.get("/", key).status;
                    answers.lock().expect("answers").push((status, time.now()));
                    if status == 200 {
                        served.fetch_add(1, SeqCst);
                    } else {
                        thread::sleep(PAUSE);
                        conn = lab.connect(GUARDED);
                        if served.load(SeqCst) == 2 * QUOTA {
                            refused_after.fetch_add(1, SeqCst);
                        }
                    }
                }
            });
        }
        eventually("the first day's quota is used up", || {
            served.load(SeqCst) >= QUOTA
        });
        meanwhile(limiter);
        eventually("the second day's quota is used up", || {
            served.load(SeqCst) >= 2 * QUOTA && refused_after.load(SeqCst) > 20
        });
    });
    after(limiter);
    let answers = answers.into_inner().expect("answers");
    let (mut early, mut refused) = (0, [0u64; 2]);
    for (status, at) in &answers {
        match status {
            200 if *at < midnight => early += 1,
            200 => {}
            429 => refused[usize::from(*at >= midnight)] += 1,
            other => panic!("status {other}"),
        }
    }
    assert_eq!((early, served.into_inner()), (QUOTA, 2 * QUOTA));
    assert_eq!(night.nginx.served(&night.key), 2 * QUOTA);
    // Requests were refused on both days, which shows that the clients were sending requests when
    // the day changed.
    assert!(refused[0] > 0 && refused[1] > 0, "{refused:?}");
    let tomorrow = night.time.date(0);
    assert_ne!(today, tomorrow);
    let (old, old_refused) = night.used_on(&today);
    let (new, new_refused) = night.used_on(&tomorrow);
    assert_eq!((old, new), (QUOTA, QUOTA));
    assert_eq!(old_refused + new_refused, refused.iter().sum::<u64>());
}

#[test]
fn midnight_with_a_running_daemon() {
    over_midnight(|_| {}, |_| {});
}

#[test]
fn midnight_without_a_daemon() {
    over_midnight(Limiter::kill, |limiter| limiter.run(&[]));
}

#[test]
fn midnight_during_repeated_restarts() {
    over_midnight(
        |limiter| {
            for round in 0..8 {
                if round % 2 == 0 {
                    limiter.kill();
                } else {
                    limiter.terminate();
                }
                limiter.run(&[]);
            }
        },
        |_| {},
    );
}

#[test]
fn clock_set_back_reopens_no_day() {
    let mut night = night("daily_quota = 5");
    let first = night.time.date(0);
    let day = |night: &Night| night.limiter.json(&["usage", "acme/web"])["day"].clone();
    assert_eq!([night.status(), night.status()], [200; 2]);
    let right = night.time.ahead();
    // The clock jumps ahead by three days and half an hour. At the new time, midnight is less than
    // 2000 s away, and the test can therefore see when the kernel programs use the new time.
    night.time.set_ahead(right + 3 * 86_400 + 1800);
    let wrong = night.time.date(0);
    eventually("the wrong day begins", || night.left() < 2000);
    let statuses: Vec<u16> = (0..6).map(|_| night.status()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    assert_eq!(day(&night), wrong.as_str());
    // After the clock has been corrected, requests are still counted for the wrong day, so the
    // quota is not granted twice.
    night.time.set_ahead(right);
    eventually("the clock is right again", || night.left() > 2000);
    assert_eq!(night.status(), 429);
    assert_eq!(day(&night), wrong.as_str());
    // After a restart, requests are still counted for the wrong day.
    night.limiter.kill();
    night.limiter.run(&[]);
    assert_eq!(night.status(), 429);
    // After `limiter reset`, the requests of the scope are counted for the right day again.
    let reset = ["reset", "acme/web", "--note", "the clock was wrong"];
    night.limiter.done(&reset);
    assert_eq!(day(&night), first.as_str());
    let statuses: Vec<u16> = (0..6).map(|_| night.status()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
}

#[test]
fn stepped_leap_second_reopens_no_day_and_grants_none_twice() {
    // A real leap second sets the clock back by one second. A step of fifteen seconds is large
    // enough for the kernel programs to see the old day again, for long enough to be noticed.
    for step in [1, 15] {
        let mut night = night("daily_quota = 5");
        night.time.set_before_midnight(BEFORE);
        let (today, tomorrow) = (night.time.date(0), night.time.date(1));
        eventually("the kernel sees the evening", || night.left() < 60);
        let statuses =
            |night: &Night, count| -> Vec<u16> { (0..count).map(|_| night.status()).collect() };
        assert_eq!(statuses(&night, 6), [200, 200, 200, 200, 200, 429]);
        eventually("the new day begins", || night.status() == 200);
        let ahead = night.time.ahead();
        night.time.set_ahead(ahead - step);
        if step > 1 {
            eventually("the clock has gone back", || night.left() < 60);
        }
        assert_eq!(statuses(&night, 5), [200, 200, 200, 200, 429]);
        eventually("midnight has come again", || {
            night.time.date(0) == tomorrow && night.left() > 60
        });
        assert_eq!(statuses(&night, 2), [429; 2]);
        assert_eq!(
            (night.used_on(&today).0, night.used_on(&tomorrow).0),
            (5, 5),
            "{step}"
        );
        assert_eq!(night.nginx.served(&night.key), 10, "{step}");
    }
}

#[test]
fn override_expires_without_a_daemon() {
    let mut night = night("daily_quota = 2");
    let until = chrono::DateTime::from_timestamp(night.time.now() + 15, 0).expect("a time");
    let until = until.to_rfc3339();
    let set = ["limits", "set", "acme/web", "--daily-quota", "unlimited"];
    let set = [&set[..], &["--until", &until, "--note", "a busy hour"]].concat();
    night.limiter.done(&set);
    assert_eq!([night.status(), night.status(), night.status()], [200; 3]);
    night.limiter.kill();
    eventually("they end", || night.status() == 429);
    night.limiter.run(&[]);
    assert_eq!(night.status(), 429);
    let scope = night.limiter.json(&["scope", "show", "acme/web"]);
    assert_eq!(
        (&scope["override"], &scope["limits"]["daily_quota"]),
        (&serde_json::Value::Null, &2.into())
    );
}
