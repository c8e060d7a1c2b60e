//! What the programs cost the kernel's verifier.

use limiter_tests::program::Programs;

/// The most instructions that it may look at in a program. It gives up at a million
/// (`BPF_COMPLEXITY_LIMIT_INSNS`, include/linux/bpf.h); another kernel looks at more or fewer of them, and
/// the time to load goes with them.
const MOST: u32 = 200_000;

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
}
