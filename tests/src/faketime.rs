// SPDX-License-Identifier: MIT OR Apache-2.0

//! A different time for the daemon, which libfaketime provides. The daemon's UTC is ahead of the
//! host's clock by a chosen offset, and its boot clock is unchanged.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::Limiter;

/// The number of seconds in a UTC day.
const DAY: i64 = 86_400;

/// The time that one daemon sees, across all its restarts.
#[derive(Debug)]
pub struct FakeTime {
    file: PathBuf,
    ahead: i64,
}

impl FakeTime {
    /// Makes `limiter` use this time from its next start. The daemon must not be running. The
    /// offset is 0 at first.
    pub fn of(limiter: &mut Limiter, directory: &Path) -> Self {
        let file = directory.join("faketime");
        let library = library();
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        limiter.set_env("LD_PRELOAD", &text(&library));
        limiter.set_env("FAKETIME_TIMESTAMP_FILE", &text(&file));
        limiter.set_env("FAKETIME_NO_CACHE", "1");
        limiter.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let mut time = Self { file, ahead: 0 };
        time.set_ahead(0);
        time
    }

    /// Sets the number of seconds by which the daemon's time is ahead of the real time. A running
    /// daemon sees the new time immediately.
    pub fn set_ahead(&mut self, seconds: i64) {
        // The daemon may read the file at any moment, so the file is replaced atomically.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}s\n")).expect("write the time");
        fs::rename(&new, &self.file).expect("publish the time");
        self.ahead = seconds;
    }

    /// Moves the daemon's time forward to `seconds` before a midnight UTC. This is the next
    /// midnight for which the time does not have to move backwards. (The time must not fall behind
    /// the real time, which the commands see.)
    pub fn set_before_midnight(&mut self, seconds: i64) {
        let midnight = ((self.now() + seconds).div_euclid(DAY) + 1) * DAY;
        self.set_ahead(midnight - seconds - real());
    }

    /// Returns the number of seconds by which the daemon's time is ahead of the real time.
    pub fn ahead(&self) -> i64 {
        self.ahead
    }

    /// Returns the daemon's time in seconds since the epoch.
    pub fn now(&self) -> i64 {
        real() + self.ahead
    }

    /// Returns the date that is `days` days after the daemon's date.
    pub fn date(&self, days: i64) -> String {
        let now = chrono::DateTime::from_timestamp(self.now() + days * DAY, 0).expect("a time");
        now.date_naive().to_string()
    }
}

/// Returns the host's time in seconds since the epoch.
fn real() -> i64 {
    chrono::Utc::now().timestamp()
}

fn library() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").expect("the libraries");
    directories
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists())
        .expect("libfaketime is installed")
}
