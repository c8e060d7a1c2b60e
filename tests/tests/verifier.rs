//! What the verifier of the kernel that runs says of the programs: each is taken, at a bounded cost.

use limiter_tests::program::{Object, Tables};

/// Most instructions that it may follow in one program. Its own bound is a million
/// (`BPF_COMPLEXITY_LIMIT_INSNS`); how many it takes differs by kernel, and loading takes as long.
const MOST: u32 = 200_000;

#[test]
fn every_program_is_taken_at_a_bounded_cost() {
    let tables = Tables {
        scopes: 16,
        keys: 16,
        flows: 16,
    };
    let mut object = Object::load(tables);
    let mut names: Vec<String> = object
        .ebpf()
        .programs()
        .map(|(name, _)| name.to_owned())
        .collect();
    names.sort_unstable();
    assert!(!names.is_empty());
    println!("instructions that the verifier followed:");
    let counts: Vec<(String, u32)> = names
        .into_iter()
        .map(|name| {
            let count = object.verified_instructions(&name);
            println!("{count:>9} {name}");
            (name, count)
        })
        .collect();
    for (name, count) in counts {
        // A kernel that does not count them would say 0 (before 5.16).
        assert!((1..=MOST).contains(&count), "{name}: {count}, of {MOST}");
    }
}
