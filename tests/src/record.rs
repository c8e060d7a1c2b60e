// SPDX-License-Identifier: MIT OR Apache-2.0

//! Counts that are recorded in the repository. A test compares its counts with the record. They
//! must be equal to it with the same kernel and compiler, and near to it with others.

use std::{env, fmt::Write as _, fs, path::Path};

/// The environment variable that makes a test write its record instead of comparing it. Tests that
/// generate other files from the code use the same variable.
const WRITE: &str = "LIMITER_WRITE_DOCS";

/// The maximum difference in percent between a count and a record that was made with another kernel
/// or compiler. Another kernel or compiler usually changes a count by less than this, and a mistake
/// in the code changes it by more.
const SLACK: u64 = 25;

/// Asserts that `counts` match the file `name` in the directory of the tests
/// (`tests/program/NAME`).
///
/// `made_by` names the versions of everything outside this repository that affects the counts. If
/// the record was made by the same versions, all counts must be equal to it. Even a lower count is
/// a failure, so that the record stays accurate. Otherwise, each count may differ by `SLACK`
/// percent.
///
/// # Panics
/// Panics if a count differs. The message explains how to write a new record.
#[track_caller]
pub fn assert_on_record(name: &str, made_by: &str, counts: &[(String, u64)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/program")
        .join(name);
    if env::var_os(WRITE).is_some() {
        fs::write(&path, text(made_by, counts)).expect("write the record");
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    let wrong = differences(&recorded, made_by, counts);
    assert!(
        wrong.is_empty(),
        "tests/tests/program/{name} has other counts; if these are meant, the test writes them with {WRITE}=1:\n{}",
        wrong.join("\n")
    );
}

/// Returns the text of a record: a line with `made_by`, and one line for each count.
fn text(made_by: &str, counts: &[(String, u64)]) -> String {
    let mut text = format!("# {made_by}\n");
    for (name, count) in counts {
        writeln!(text, "{name} {count}").expect("a string");
    }
    text
}

fn differences(recorded: &str, made_by: &str, counts: &[(String, u64)]) -> Vec<String> {
    let mut lines = recorded.lines();
    let same = lines.next() == Some(&format!("# {made_by}"));
    let mut known: Vec<(&str, u64)> = lines
        .filter_map(|line| {
            let (name, count) = line.rsplit_once(' ')?;
            Some((name, count.parse().ok()?))
        })
        .collect();
    let mut wrong = Vec::new();
    for (name, count) in counts {
        let Some(at) = known.iter().position(|(known, _)| known == name) else {
            wrong.push(format!("{name}: {count}, on record: nothing"));
            continue;
        };
        let (_, expected) = known.swap_remove(at);
        let slack = if same { 0 } else { expected * SLACK / 100 };
        if count.abs_diff(expected) > slack {
            wrong.push(format!("{name}: {count}, on record: {expected}"));
        }
    }
    let gone = known.iter();
    wrong.extend(gone.map(|(name, count)| format!("{name}: not counted, on record: {count}")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
        let owned = |(name, count): &(&str, u64)| ((*name).to_owned(), *count);
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn counts_must_match_exactly_on_the_recording_machine_and_nearly_elsewhere() {
        let record = text("here", &counts(&[("a b", 100), ("c", 8)]));
        let same = counts(&[("a b", 100), ("c", 8)]);
        assert_eq!(differences(&record, "here", &same), [""; 0]);
        let near = counts(&[("a b", 101), ("c", 8)]);
        assert_eq!(
            differences(&record, "here", &near),
            ["a b: 101, on record: 100"]
        );
        assert_eq!(differences(&record, "there", &near), [""; 0]);
        let far = counts(&[("a b", 126), ("c", 5)]);
        assert_eq!(differences(&record, "there", &far).len(), 2);
    }

    #[test]
    fn new_and_missing_counts_are_reported() {
        let record = text("here", &counts(&[("a", 1)]));
        assert_eq!(
            differences(&record, "here", &counts(&[("b", 2)])),
            ["b: 2, on record: nothing", "a: not counted, on record: 1"]
        );
        assert_eq!(differences("", "here", &counts(&[("a", 1)])).len(), 1);
    }
}
