// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sums up the results of tests over the runs of several programs.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;

/// The sums of the counts that the test harnesses have reported.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Summary {
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Counts `tests` tests as skipped instead of passed. The harness counts a test that skips
    /// itself as passed, because it does not know that the test was skipped.
    pub fn move_to_skipped(&mut self, tests: u64) {
        let tests = tests.min(self.passed);
        self.passed -= tests;
        self.skipped += tests;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// The error for failed tests. It is not printed, because the summary already reports the failures
/// and must stay the last line.
#[derive(Debug)]
pub struct TestFailure;

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tests failed")
    }
}

impl std::error::Error for TestFailure {}

/// Runs a test program or `cargo test`, copies its output to `out`, and counts the results.
pub fn count(command: &mut Command, out: &mut (impl Write + ?Sized)) -> anyhow::Result<Summary> {
    let name = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {name}"))?;
    let reading = || format!("read the output of {name}");
    let mut summary = Summary::default();
    let mut reader = BufReader::new(child.stdout.take().with_context(reading)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).with_context(reading)? > 0 {
        out.write_all(&line).context("write the output of a test")?;
        if let Some(result) = result_line(&String::from_utf8_lossy(&line)) {
            summary.add(result);
        }
        line.clear();
    }
    let status = child.wait().with_context(|| format!("wait for {name}"))?;
    if !status.success() && summary.failed == 0 {
        // Either the tests did not build, or a test ended the whole process. No harness reports
        // such a failure in its counts.
        eprintln!("{name} ended with {status} without a report of a failed test");
        summary.failed = 1;
    }
    Ok(summary)
}

/// Returns the tests that skipped themselves. Each of them has appended a line `NAME: REASON` to
/// `file`, whose path the tests get in the variable `LIMITER_SKIPPED`.
pub fn skipped(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines.dedup();
    Ok(lines)
}

/// Returns the counts from a line of the harness, or `None` for any other line. The form of the
/// line is `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; ...`.
pub fn result_line(line: &str) -> Option<Summary> {
    let counts = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?
        .1;
    let mut summary = Summary::default();
    for part in counts.split(';') {
        let Some((number, result)) = part.trim().split_once(' ') else {
            continue;
        };
        let field = match result {
            "passed" => &mut summary.passed,
            "failed" => &mut summary.failed,
            "ignored" => &mut summary.skipped,
            _ => continue,
        };
        *field = number.parse().ok()?;
    }
    Some(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; \
                    7 filtered out; finished in 0.00s\n";
        assert_eq!(
            result_line(line),
            Some(Summary {
                passed: 3,
                failed: 2,
                skipped: 1
            })
        );
    }

    #[test]
    fn other_lines_are_not_counted() {
        for line in ["", "running 3 tests", "test result ... ok", "test a ... ok"] {
            assert_eq!(result_line(line), None, "{line}");
        }
    }

    #[test]
    fn a_skip_is_never_counted_as_a_pass() {
        let mut summary = Summary {
            passed: 3,
            failed: 0,
            skipped: 1,
        };
        summary.move_to_skipped(2);
        assert_eq!(summary.to_string(), "1 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn skips_are_mentioned_only_if_there_are_any() {
        assert_eq!(
            Summary {
                passed: 1,
                failed: 2,
                skipped: 0
            }
            .to_string(),
            "1 passed, 2 failed"
        );
    }

    #[test]
    fn a_run_that_fails_without_a_result_counts_as_a_failure() {
        let summary = count(Command::new("sh").args(["-c", "exit 3"]), &mut Vec::new()).unwrap();
        assert_eq!(
            summary,
            Summary {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
    }
}
