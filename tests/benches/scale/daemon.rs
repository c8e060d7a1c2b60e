// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures the daemon with many keys: the duration of the import, of the start and of the reload,
//! the memory, and the CPU time while it is idle.

use std::{
    fmt::{self, Write as _},
    fs, thread,
    time::{Duration, Instant},
};

use limiter_tests::{
    Config, Lab, Limiter,
    bench::{Target, median},
    limiter::exit,
};
use serde_json::{Value, json};

const KEYS: [u32; 4] = [10, 1000, 100_000, 1_000_000];
const QUICK_MOST: u32 = 1000;
/// The number of keys in a scope.
const KEYS_PER_SCOPE: u32 = 10;
/// The period for which the idle daemon is observed.
const IDLE: Duration = Duration::from_secs(10);
const QUICK_IDLE: Duration = Duration::from_secs(2);
/// The number of keys to which the targets apply.
const TARGETS_AT: u32 = 100_000;
const RELOADS: usize = 3;

pub struct Row {
    keys: u32,
    /// The duration of an import, in seconds.
    import: f64,
    /// The duration, in seconds, of a start while the kernel still has the programs and the keys.
    takeover: f64,
    /// The duration, in seconds, of a start while the kernel has neither.
    start: f64,
    reload: f64,
    /// The resident memory after the import and after a start, in MiB.
    resident: [f64; 2],
    /// The CPU time of the idle daemon, as a percentage of one CPU.
    idle: f64,
}

pub fn measure(quick: bool) -> Vec<Row> {
    let sizes = KEYS.iter().filter(|keys| !quick || **keys <= QUICK_MOST);
    let idle = if quick { QUICK_IDLE } else { IDLE };
    sizes.map(|keys| row(*keys, idle)).collect()
}

fn row(keys: u32, idle: Duration) -> Row {
    let lab = Lab::loopback();
    let scopes = keys.div_ceil(KEYS_PER_SCOPE);
    let config = Config::new(&lab).section(
        "tables",
        &format!(
            "flows = 8192\nscopes = {}\nkeys = {}\nunknown_keys = 64\n",
            scopes + 64,
            keys + 64
        ),
    );
    let mut limiter = Limiter::start(&lab, &config);
    let file = lab.file("keys.csv");
    fs::write(&file, csv(keys, scopes)).expect("the file of keys");
    let path = file.to_str().expect("a path in UTF-8");
    let import = seconds(|| drop(limiter.done(&["key", "import", "--csv", path])));
    let imported = resident(&limiter);
    limiter.terminate();
    let takeover = start(&mut limiter);
    let started = resident(&limiter);
    let before = cpu(&limiter);
    // Nothing happens during this sleep, so the CPU time is that of an idle daemon.
    thread::sleep(idle);
    let spent = cpu(&limiter) - before;
    let reload = median((0..RELOADS).map(|_| seconds(|| drop(limiter.done(&["reload"])))));
    assert_eq!(limiter.detach().code, exit::DONE);
    limiter.wait_for_end();
    let start = start(&mut limiter);
    Row {
        keys,
        import,
        takeover,
        start,
        reload,
        resident: [imported, started],
        idle: spent / idle.as_secs_f64() * 100.0,
    }
}

fn csv(keys: u32, scopes: u32) -> String {
    let mut text = "scope,key\n".to_owned();
    for key in 0..keys {
        let scope = key % scopes;
        writeln!(text, "a{}/p{scope},customer-{key:032}", scope / 100).expect("a string");
    }
    text
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Starts the daemon, and returns the time in seconds until it answers.
fn start(limiter: &mut Limiter) -> f64 {
    seconds(|| {
        limiter.launch(&[]);
        // The command fails until the socket exists. From then on, it waits for the daemon's
        // response.
        while limiter.cli(&["status"]).code != exit::DONE {}
    })
}

/// Returns the resident memory of the daemon in MiB (proc_pid_status(5)).
fn resident(limiter: &Limiter) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/status", limiter.pid())).expect("the daemon");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.expect("VmRSS") / 1024.0
}

/// Returns the CPU time of all threads of the daemon, in seconds
/// (Documentation/scheduler/sched-stats.rst).
fn cpu(limiter: &Limiter) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", limiter.pid())).expect("the daemon");
    let times = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    times.sum::<f64>() / 1e9
}

pub fn targets(rows: &[Row]) -> Vec<Target> {
    let at = rows.iter().filter(|row| row.keys == TARGETS_AT);
    at.flat_map(|row| {
        [
            Target::at_most("idle at 100,000 keys, percent of a core", 0.5, row.idle),
            Target::at_most(
                "resident at 100,000 keys, after a start, MiB",
                64.0,
                row.resident[1],
            ),
            Target::at_most("the same after the import, MiB", 64.0, row.resident[0]),
        ]
    })
    .collect()
}

impl Row {
    pub fn json(&self) -> Value {
        json!({
            "keys": self.keys, "import_seconds": self.import, "takeover_seconds": self.takeover,
            "start_seconds": self.start, "reload_seconds": self.reload,
            "resident_after_import_mib": self.resident[0],
            "resident_after_start_mib": self.resident[1], "idle_percent": self.idle,
        })
    }
}

pub fn print(f: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        "\n{:>9} {:>9} {:>10} {:>8} {:>9} {:>11} {:>11} {:>7}",
        "keys",
        "import s",
        "takeover s",
        "start s",
        "reload s",
        "import MiB",
        "start MiB",
        "idle %"
    )?;
    for row in rows {
        let [imported, started] = row.resident;
        writeln!(
            f,
            "{:>9} {:>9.2} {:>10.2} {:>8.2} {:>9.3} {imported:>11.1} {started:>11.1} {:>7.3}",
            row.keys, row.import, row.takeover, row.start, row.reload, row.idle
        )?;
    }
    Ok(())
}
