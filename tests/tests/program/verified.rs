//! What the programs cost the kernel's verifier.

use std::fs;

use limiter_tests::{program::Programs, record::assert_on_record};

/// The most instructions that it may look at in a program. It gives up at a million
/// (`BPF_COMPLEXITY_LIMIT_INSNS`, include/linux/bpf.h); another kernel looks at more or fewer of them, and
/// the time to load goes with them.
const MOST: u32 = 200_000;

/// On record as of this kernel and compiler.
const RECORD: &str = "program/verified.txt";

#[test]
fn no_program_is_near_what_a_verifier_bears() {
    let programs = Programs::fresh();
    let object = programs.object();
    let mut counts: Vec<(&str, u32)> = object
        .names()
        .into_iter()
        .map(|name| (name, object.verified_instructions(name)))
        .collect();
    counts.sort_unstable();
    for (name, count) in &counts {
        println!("{name:24} {count:7} instructions verified");
    }
    let beyond = |&&(_, count): &&(&str, u32)| count > MOST;
    let beyond: Vec<_> = counts.iter().filter(beyond).collect();
    assert!(beyond.is_empty(), "more than {MOST}: {beyond:?}");
    assert!(counts.len() > 4, "all are looked at: {counts:?}");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let made_by = format!("Linux {}, {}", kernel.trim(), object.compiler());
    let counts: Vec<(String, u64)> = counts
        .iter()
        .map(|(name, count)| ((*name).to_owned(), u64::from(*count)))
        .collect();
    assert_on_record(RECORD, &made_by, &counts);
}
