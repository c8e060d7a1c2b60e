// SPDX-License-Identifier: MIT OR Apache-2.0

//! Support for tests in a virtual machine of `cargo xtask test --vm`. The tests make changes that
//! no test may make on a developer's machine, and send requests to the host of the virtual machine.
//! `xtask/src/vm/transcript.rs` handles these requests.

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

/// The environment variable that exists only in such a machine.
const VARIABLE: &str = "LIMITER_VM";

/// The serial port that leads to the host.
const HOST: &str = "/dev/ttyS1";

/// The mount point of a disk that some machines have. The disk keeps its content when the machine
/// restarts.
pub const DISK: &str = "/srv";

/// A network card of the machine, which has two cards that are connected to each other.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    name: &'static str,
    mac: &'static str,
}

/// The two cards, which are distinguished by their hardware addresses (`xtask/src/vm/qmp.rs`).
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
    /// Returns the name of the card's interface, if the interface is in this namespace.
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

    /// Removes the card from the running machine, and waits until the card is gone.
    pub fn unplug(self) {
        ask(&format!("unplug {}", self.name));
    }

    /// Inserts the card again.
    pub fn plug(self) {
        ask(&format!("plug {}", self.name));
    }
}

/// # Panics
/// Panics if the test does not run in a virtual machine, because these tests set the clock and use
/// up the memory.
#[track_caller]
pub fn require_vm() {
    assert!(
        env::var_os(VARIABLE).is_some(),
        "this test needs a machine of its own: cargo xtask test --vm"
    );
}

/// Sets the machine's clock, in seconds since the epoch.
#[track_caller]
pub fn set_clock(seconds: u64) {
    require_vm();
    let seconds = i64::try_from(seconds).expect("a time");
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, 0)).expect("set the clock");
}

/// Ends the machine as a power failure does, without writing anything more to its disk.
pub fn cut_power() -> ! {
    ask("cut");
    panic!("the machine still has power");
}

/// Writes a file durably and atomically. If a power failure happens after this function has
/// returned, the file has the new content. If it happens earlier, the file has either the old or
/// the new content.
pub fn write_durably(path: &Path, text: &str) {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft).expect("a file");
    file.write_all(text.as_bytes()).expect("write it");
    file.sync_all().expect("to the disk");
    fs::rename(&draft, path).expect("publish it");
    let directory = path.parent().expect("a directory");
    let directory = File::open(directory).expect("the directory");
    directory.sync_all().expect("to the disk");
}

/// Returns the memory that the kernel reports as available, in bytes (proc_meminfo(5)).
pub fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("the memory");
    let line = text.lines().find_map(|line| {
        let number = line.strip_prefix("MemAvailable:")?;
        number.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    line.expect("the available memory") * 1024
}

/// Sends a request to the host and waits until the host has carried it out.
fn ask(what: &str) {
    require_vm();
    let line = File::options()
        .read(true)
        .write(true)
        .open(HOST)
        .expect("the line to the host");
    // The test harness writes to the same serial port, and may have written an incomplete line. The
    // request therefore begins with a newline.
    (&line)
        .write_all(format!("\nvm: {what}\n").as_bytes())
        .expect("ask the host");
    let mut answer = String::new();
    BufReader::new(line)
        .read_line(&mut answer)
        .expect("the host's answer");
    assert_eq!(answer.trim(), "done", "the host's answer to {what:?}");
}
