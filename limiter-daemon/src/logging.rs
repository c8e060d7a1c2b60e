//! Logs: to standard error, one line an event; with journald's priorities under systemd.

use std::{env, io::Write as _};

use env_logger::{Builder, Env};
use log::Level;

/// Sets logging up. The daemon tells what it does by default, a command only what goes wrong.
pub fn init(daemon: bool) {
    let default = if daemon { "info" } else { "warn" };
    let mut builder = Builder::from_env(Env::default().default_filter_or(default));
    if env::var_os("JOURNAL_STREAM").is_some() {
        // journald stamps the time itself and reads the priority from the line's start
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
    // A second call, as in tests, changes nothing.
    let _already_set = builder.try_init();
}

/// One event is one line, whatever is in it.
fn one_line(message: &std::fmt::Arguments<'_>) -> String {
    message.to_string().replace('\n', "; ")
}

/// syslog(3)'s numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
