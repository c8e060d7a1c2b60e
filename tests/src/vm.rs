//! In a machine of `cargo xtask test --vm`: what is not done to the machine that one works on, and the
//! favours that a test asks of the machine's host (`xtask/src/vm/said.rs` hears them).

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};

/// Set by the machine's process 1.
const VARIABLE: &str = "LIMITER_VM";

/// The line to the host.
const HOST: &str = "/dev/ttyS1";

/// A disk that stays as it is left from one start of the machine to the next, where the plan has one.
pub const DISK: &str = "/srv";

/// A network card of the machine; the two are on one cable.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    name: &'static str,
    mac: &'static str,
}

/// They are told apart by their hardware addresses (`xtask/src/vm/qmp.rs`).
pub const CARDS: [Card; 2] = [
    Card {
        name: "card0",
        mac: "52:54:00:00:00:10",
    },
    Card {
        name: "card1",
        mac: "52:54:00:00:00:11",
    },
];

impl Card {
    /// Its interface, if this namespace has it.
    pub fn interface(self) -> Option<String> {
        let entries = fs::read_dir("/sys/class/net").expect("the interfaces");
        entries
            .map(|entry| entry.expect("an interface"))
            .find(|entry| {
                let address = fs::read_to_string(entry.path().join("address"));
                address.is_ok_and(|address| address.trim() == self.mac)
            })
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
    }

    /// Takes it out of the running machine; returns when it is gone.
    pub fn unplug(self) {
        ask(&format!("unplug {}", self.name));
    }

    /// Puts it in again.
    pub fn plug(self) {
        ask(&format!("plug {}", self.name));
    }
}

/// # Panics
/// Outside of a machine: these tests set the clock and take the memory that there is.
#[track_caller]
pub fn require() {
    assert!(
        env::var_os(VARIABLE).is_some(),
        "this test is for a machine of its own: cargo xtask test --vm"
    );
}

/// Sets the machine's clock, in seconds since the epoch.
#[track_caller]
pub fn set_clock(seconds: u64) {
    require();
    let seconds = i64::try_from(seconds).expect("a time");
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, 0)).expect("set the clock");
}

/// Ends the machine as it ends when its power fails: nothing more is written by anybody.
pub fn cut_power() -> ! {
    ask("cut");
    panic!("the machine has power still");
}

/// Writes a file, which is there in its old form or in its new one at any moment, and in the new one
/// after a power cut.
pub fn write_for_good(path: &Path, text: &str) {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft).expect("a file");
    file.write_all(text.as_bytes()).expect("write it");
    file.sync_all().expect("to the disk");
    fs::rename(&draft, path).expect("publish it");
    let directory = path.parent().expect("a directory");
    let directory = File::open(directory).expect("the directory");
    directory.sync_all().expect("to the disk");
}

/// What the kernel calls available, in bytes (proc_meminfo(5)).
pub fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("the memory");
    let line = text.lines().find_map(|line| {
        let number = line.strip_prefix("MemAvailable:")?;
        number.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    line.expect("the available memory") * 1024
}

/// Returns when the host has done it.
fn ask(what: &str) {
    require();
    let line = File::options()
        .read(true)
        .write(true)
        .open(HOST)
        .expect("the line to the host");
    // The harness may be in the middle of a line of its own.
    (&line)
        .write_all(format!("\nvm: {what}\n").as_bytes())
        .expect("ask the host");
    let mut answer = String::new();
    BufReader::new(line)
        .read_line(&mut answer)
        .expect("the host's answer");
    assert_eq!(answer.trim(), "done", "the host's answer to {what:?}");
}
