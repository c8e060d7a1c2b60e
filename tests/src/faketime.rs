//! Another time for the daemon, by libfaketime: what it takes for UTC is so much later than the host's
//! clock says. The boot clock stays what it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::Limiter;

/// Seconds of a UTC day.
const DAY: i64 = 86_400;

/// The time that one daemon sees, over all its lives.
#[derive(Debug)]
pub struct FakeTime {
    file: PathBuf,
    ahead: i64,
}

impl FakeTime {
    /// Has a daemon that is down see this time from its next start on; at first the real one.
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

    /// From now on the daemon sees a time so many seconds after the real one.
    pub fn set_ahead(&mut self, seconds: i64) {
        // In one step: it is read at any moment.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}s\n")).expect("write the time");
        fs::rename(&new, &self.file).expect("publish the time");
        self.ahead = seconds;
    }

    /// From now on it is so many seconds before midnight UTC: the next that this does not go back for. (To the
    /// commands, which see the real time, an earlier one would be in the past.)
    pub fn set_before_midnight(&mut self, seconds: i64) {
        let midnight = ((self.now() + seconds).div_euclid(DAY) + 1) * DAY;
        self.set_ahead(midnight - seconds - real());
    }

    /// By how many seconds it is after the real one.
    pub fn ahead(&self) -> i64 {
        self.ahead
    }

    /// Seconds since the epoch, as the daemon sees them.
    pub fn now(&self) -> i64 {
        real() + self.ahead
    }

    /// The date that it sees, so many days later.
    pub fn date(&self, days: i64) -> String {
        let now = chrono::DateTime::from_timestamp(self.now() + days * DAY, 0).expect("a time");
        now.date_naive().to_string()
    }
}

/// The host's seconds since the epoch.
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
