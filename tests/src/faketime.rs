// SPDX-License-Identifier: MIT OR Apache-2.0

//! A different time for a daemon or an engine, which libfaketime provides. The UTC of the process
//! is ahead of the host's clock by a chosen offset, and its boot clock is unchanged.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Limiter, engine::Engine};

/// The number of seconds in a UTC day.
const DAY: i64 = 86_400;

/// The time that one daemon or engine sees, across all its restarts.
#[derive(Debug)]
pub struct FakeTime {
    file: PathBuf,
    ahead: i64,
    /// The number of milliseconds that are added to `ahead`.
    skew: i64,
}

impl FakeTime {
    /// Makes `limiter` use this time from its next start. The daemon must not be running. The
    /// offset is 0 at first.
    pub fn of(limiter: &mut Limiter, directory: &Path) -> Self {
        let time = Self::in_directory(directory);
        for (name, value) in time.variables() {
            limiter.set_env(name, &value);
        }
        time
    }

    /// Makes `engine` use this time from its next start. The engine must not be running, and must
    /// be one of the programs from Python packages. The Redis of Debian does not start with
    /// libfaketime, because its allocator reads the time before libfaketime is ready. The offset
    /// is 0 at first.
    pub fn of_engine(engine: &mut Engine, directory: &Path) -> Self {
        let time = Self::in_directory(directory);
        for (name, value) in time.variables() {
            engine.set_env(name, &value);
        }
        time
    }

    fn in_directory(directory: &Path) -> Self {
        let file = directory.join("faketime");
        let (ahead, skew) = (0, 0);
        let mut time = Self { file, ahead, skew };
        time.set_ahead(0);
        time
    }

    /// Returns the variables of the environment that make a process use this time.
    fn variables(&self) -> [(&'static str, String); 4] {
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        [
            ("LD_PRELOAD", text(&library())),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file)),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Sets the number of milliseconds by which the time is ahead of the one that the other
    /// functions of this type return and set.
    pub fn set_skew(&mut self, milliseconds: i64) {
        self.skew = milliseconds;
        self.set_ahead(self.ahead);
    }

    /// Sets the number of seconds by which the daemon's time is ahead of the real time. A running
    /// daemon sees the new time immediately.
    pub fn set_ahead(&mut self, seconds: i64) {
        // The daemon may read the file at any moment, so the file is replaced atomically.
        let new = self.file.with_extension("new");
        let exact = seconds as f64 + self.skew as f64 / 1_000.0;
        fs::write(&new, format!("{exact:+.3}s\n")).expect("write the time");
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
