// SPDX-License-Identifier: MIT OR Apache-2.0

//! The number of instructions that the functions of limiter-common execute, according to callgrind,
//! and the number that the verifier processes for each kernel program. Both numbers are the same in
//! every run, so the tests notice even a small increase.

use std::{fs, process::Command};

use limiter_tests::{
    process::{self, cargo_builds},
    program::{Object, Tables},
    record::assert_on_record,
};

/// The file with the recorded numbers of executed instructions for this compiler.
const RECORD: &str = "instructions.txt";
/// The file with the recorded numbers of verified instructions for this kernel and compiler.
const VERIFIED: &str = "verified.txt";

#[test]
fn verified_instructions_match_the_record() {
    let object = Object::load(Tables {
        scopes: 16,
        keys: 16,
        flows: 16,
    });
    let mut names = object.names();
    names.sort_unstable();
    let counts: Vec<(String, u64)> = names
        .into_iter()
        .map(|name| (name.to_owned(), object.verified_instructions(name).into()))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let made_by = format!("Linux {}, {}", kernel.trim(), object.compiler());
    assert_on_record(VERIFIED, &made_by, &counts);
}

#[test]
fn executed_instructions_match_the_record() {
    let program = cargo_builds("limiter-counted", "limiter-counted", "counted");
    let names = process::succeed(&mut Command::new(&program));
    let counts: Vec<(String, u64)> = names
        .lines()
        .map(|name| (name.to_owned(), count(&program, name)))
        .collect();
    for (name, count) in &counts {
        println!("{name:24} {count:7} instructions");
    }
    let compiler = process::succeed(Command::new("rustc").arg("--version"));
    let made_by = format!("{}, {}", compiler.trim(), std::env::consts::ARCH);
    assert_on_record(RECORD, &made_by, &counts);
    assert!(counts.len() > 4, "all are counted: {counts:?}");
}

/// Returns the number of instructions that the function `counted` of tests/counted executes for a
/// case.
fn count(program: &str, case: &str) -> u64 {
    let output = process::output(
        Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .args([
                "--collect-atstart=no",
                "--toggle-collect=*counted::counted*",
            ])
            .args([program, case]),
    );
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    let collected = printed
        .lines()
        .find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    let count = count.unwrap_or_else(|| panic!("callgrind collected nothing: {printed}"));
    assert!(
        count > 0,
        "nothing was assert_counters of {case}: {printed}"
    );
    count
}
