//! Counting tests over several runs of `cargo test`.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;

/// Sums of what the test harnesses reported.
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

    /// The harness counts a test that skipped itself as passed: it is not.
    pub fn move_to_skipped(&mut self, tests: u64) {
        let moved = tests.min(self.passed);
        self.passed -= moved;
        self.skipped += moved;
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

/// Tests failed, and the summary has said so: there is nothing to add, it is to stay the last line.
#[derive(Debug)]
pub struct TestsFailed;

impl fmt::Display for TestsFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tests failed")
    }
}

impl std::error::Error for TestsFailed {}

/// Runs a `cargo test`, shows what it prints, and counts.
pub fn count(command: &mut Command) -> anyhow::Result<Summary> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo test")?;
    let mut summary = Summary::default();
    let mut reader = BufReader::new(child.stdout.take().context("read what cargo test prints")?);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .context("read what cargo test prints")?
        > 0
    {
        std::io::stdout()
            .write_all(&line)
            .context("write to standard output")?;
        if let Some(result) = result_line(&String::from_utf8_lossy(&line)) {
            summary.add(result);
        }
        line.clear();
    }
    let status = child.wait().context("wait for cargo test")?;
    if !status.success() && summary.failed == 0 {
        // It did not build, or a test took the whole process down: no harness counted that.
        eprintln!("cargo test ended with {status} without saying which test failed");
        summary.failed = 1;
    }
    Ok(summary)
}

/// The tests that skipped themselves, as they wrote into the file of `LIMITER_SKIPPED`:
/// one `NAME: REASON` a line.
pub fn skipped(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines.dedup();
    Ok(lines)
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; ...`
pub fn result_line(line: &str) -> Option<Summary> {
    let counts = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?
        .1;
    let mut summary = Summary::default();
    for part in counts.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else {
            continue;
        };
        let field = match what {
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
    fn no_skips_are_not_mentioned() {
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
        let summary = count(Command::new("sh").args(["-c", "exit 3"])).unwrap();
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
