// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sizes in `docs/SIZING.md` agree with those that are measured here.

use std::fmt::Write as _;

use limiter_tests::{Conn, GUARDED, Host, Lab, Nginx, eventually, pages::Example};

const PAGE: &str = "SIZING.md";

/// The number of connections and the number of keys in the measurement. The memory of one
/// connection or key is the total divided by this number.
const MANY: u64 = 1_000;

/// The maximum percentage by which a size on the page may exceed the measured size.
const SLACK: u64 = 10;

/// Returns the number of bytes that `page` states in the table row whose first cell is `start`.
#[track_caller]
fn size_on_page(page: &str, start: &str) -> u64 {
    let mut rows = page
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("| {start} |")));
    let row = rows
        .next()
        .unwrap_or_else(|| panic!("{PAGE} has no row {start:?}"));
    let digits: String = row.chars().filter(char::is_ascii_digit).collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no number in {row}"))
}

/// Asserts for each row in `measured` that the size on the page is at least the measured size, and
/// exceeds the measured size by at most [`SLACK`] percent.
#[track_caller]
fn assert_sizes_on_page(page: &str, measured: &[(String, u64)]) {
    let wrong: Vec<String> = measured
        .iter()
        .map(|(row, bytes)| (row, *bytes, size_on_page(page, row)))
        .inspect(|(row, bytes, stated)| println!("{row}: {bytes} bytes, and {PAGE} says {stated}"))
        .filter(|(_, bytes, stated)| !(*bytes..=bytes + bytes * SLACK / 100).contains(stated))
        .map(|(row, bytes, stated)| format!("{row}: {bytes} bytes, not {stated}"))
        .collect();
    assert_eq!(wrong, [""; 0]);
}

/// Creates a host, and starts a daemon on it with the lines `tables` in the section `[tables]`.
#[track_caller]
fn host(lab: &Lab, name: &str, tables: &str) -> Host {
    let mut host = Host::new(lab, lab.server(), name);
    let configuration = format!(
        "[attach]\ninterfaces = [{:?}]\nports = [{GUARDED}]\n[tables]\n{tables}",
        lab.interface()
    );
    host.write("/etc/limiter/limiter.toml", &configuration);
    host.start_limiter();
    host
}

/// Runs the command with which the page measures memory, and returns its result in bytes.
#[track_caller]
fn memory(host: &Host) -> u64 {
    let printed = host.sh(Example::of(PAGE, "sizes").run("memory")).stdout;
    printed
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{printed} is not a number"))
}

#[test]
fn memory_matches_the_page() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/SIZING.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let lab = Lab::veth();
    let _nginx = Nginx::start(&lab, &[GUARDED]);

    let defaults = host(&lab, "defaults", "");
    let empty = memory(&defaults);
    let resident = defaults
        .sh(Example::of(PAGE, "sizes").run("resident"))
        .stdout;
    assert!(
        resident.trim().parse::<u64>().is_ok_and(|kib| kib > 0),
        "{resident}"
    );
    defaults.sh(Example::of(PAGE, "sizes").run("disk"));
    let mut measured = vec![(
        "the tables, empty, at their default sizes".to_owned(),
        empty,
    )];

    let conns: Vec<Conn> = (0..MANY).map(|_| lab.connect(GUARDED)).collect();
    eventually("all connections are followed", || {
        defaults.count("/flows/open") >= MANY
    });
    let with_connections = memory(&defaults);
    measured.push((
        "a connection that is open".to_owned(),
        (with_connections - empty) / MANY,
    ));
    drop(conns);
    eventually("no connection is followed", || {
        defaults.count("/flows/open") == 0
    });

    let before = memory(&defaults);
    let mut csv = "scope,key\n".to_owned();
    for key in 0..MANY {
        writeln!(csv, "many,customer-{key:032}").expect("a string");
    }
    defaults.write("/etc/keys.csv", &csv);
    defaults.sh("limiter key import --csv /etc/keys.csv");
    measured.push(("a key".to_owned(), (memory(&defaults) - before) / MANY));
    drop(defaults);

    for (table, default) in [("flows", 262_144), ("keys", 1_048_576), ("scopes", 131_072)] {
        let larger = host(&lab, table, &format!("{table} = {}\n", 2 * default));
        let place = (memory(&larger) - empty) / default;
        measured.push((format!("a place in `{table}`"), place));
    }
    assert_sizes_on_page(&page, &measured);
}
