// SPDX-License-Identifier: MIT OR Apache-2.0

//! The running kernel's verifier accepts each program, and the cost of its check is bounded.

use limiter_tests::program::{Object, Tables};

/// The maximum number of instructions that the verifier may process in one program. The higher the
/// number, the longer a program takes to load. The number depends on the kernel, and the kernel's
/// own limit is a million (`BPF_COMPLEXITY_LIMIT_INSNS`).
const MOST: u32 = 200_000;

#[test]
fn verifier_accepts_every_program_at_bounded_cost() {
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
        // The count is 0 on a kernel before 5.16, which does not report the number.
        assert!(
            (1..=MOST).contains(&count),
            "{name}: {count} instructions, and {MOST} are allowed"
        );
    }
}
