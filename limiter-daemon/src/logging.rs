// SPDX-License-Identifier: MIT OR Apache-2.0

//! Writes logs to standard error, one line for each event. Under systemd, each line begins with its
//! priority for journald.

use std::{env, io::Write as _};

use env_logger::{Builder, Env};
use log::Level;

use crate::domain::plain::Shown;

/// Sets up logging. By default the daemon logs messages of level `info` and above, and a command
/// those of level `warn` and above.
pub fn init(daemon: bool) {
    let default = if daemon { "info" } else { "warn" };
    let mut builder = Builder::from_env(Env::default().default_filter_or(default));
    if env::var_os("JOURNAL_STREAM").is_some() {
        // journald records the time itself, and reads the priority from the beginning of the line
        // (sd-daemon(3)).
        builder.format(|out, record| {
            writeln!(
                out,
                "<{}>{}",
                priority(record.level()),
                one_line(record.args())
            )
        });
    } else {
        builder.format(|out, record| {
            let time = out.timestamp_millis();
            writeln!(
                out,
                "{time} {:<5} {}",
                record.level(),
                one_line(record.args())
            )
        });
    }
    // Further calls, which tests make, have no effect.
    let _already_set = builder.try_init();
}

/// Returns a message as one line. Line feeds become `; `, and other invisible characters become
/// escapes with their code points.
fn one_line(message: &std::fmt::Arguments<'_>) -> String {
    Shown(&message.to_string().replace('\n', "; ")).to_string()
}

/// Returns the priority in syslog(3) that corresponds to a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
