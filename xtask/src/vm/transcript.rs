// SPDX-License-Identifier: MIT OR Apache-2.0

//! The output of a machine on the serial line of the tests, and the verdict on the output. The
//! verdict does not use the exit status of QEMU, because a kernel panic does not change that
//! status.

use std::time::Duration;

use super::qemu::End;
use crate::summary::{self, Summary};

/// The prefix of the lines that process 1 of the machine prints (see init.sh), and of requests from
/// tests to the host. All other lines are the output of the test programs.
const PREFIX: &str = "vm: ";

/// A request from a test in the machine to the host (`tests/src/vm.rs`).
#[derive(Debug, PartialEq, Eq)]
pub enum HostRequest {
    Unplug(String),
    Plug(String),
    CutPower,
}

/// The output of a machine.
#[derive(Debug, Default)]
pub struct Transcript {
    pub summary: Summary,
    pub skipped: Vec<String>,
    /// The prefix of each line when it is shown.
    tag: String,
    /// The programs that have ended, each with its exit status.
    ended: Vec<(String, i32)>,
    is_over: bool,
    /// The time limit, if the machine has exceeded it.
    exceeded: Option<Duration>,
    /// The last line that begins with [`PREFIX`] but does not have a known form.
    unknown: Option<String>,
}

impl Transcript {
    /// Returns the transcript of a machine that has printed nothing yet. The lines of the
    /// transcript are shown with the prefix `tag`.
    pub fn new(tag: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a line. Output of the test programs is shown. If the line is a request to the host,
    /// returns that request.
    pub fn read(&mut self, line: &str) -> Option<HostRequest> {
        let line = line.trim_end_matches('\r');
        let Some(report) = line.strip_prefix(PREFIX) else {
            if let Some(result) = summary::result_line(line) {
                self.summary.add(result);
            }
            if !line.is_empty() {
                println!("{}: {line}", self.tag);
            }
            return None;
        };
        let mut words = report.split(' ');
        match (words.next().unwrap_or_default(), words.next()) {
            ("Linux", _) => println!("{}: {report}", self.tag),
            ("end", Some(name)) => {
                // A status that is missing or cannot be parsed counts as a failure.
                let status = words.next().and_then(|word| word.parse().ok());
                self.ended.push((name.to_owned(), status.unwrap_or(-1)));
            }
            ("skipped", _) => {
                let test = report.trim_start_matches("skipped ");
                self.skipped.push(test.to_owned());
            }
            ("over", None) => self.is_over = true,
            ("unplug", Some(card)) => return Some(HostRequest::Unplug(card.to_owned())),
            ("plug", Some(card)) => return Some(HostRequest::Plug(card.to_owned())),
            ("cut", None) => return Some(HostRequest::CutPower),
            _ => self.unknown = Some(line.to_owned()),
        }
        None
    }

    /// Records that the machine has exceeded its time limit.
    pub fn note_timeout(&mut self, limit: Duration) {
        self.exceeded = Some(limit);
    }

    /// Returns a description of the fault of the machine, or `None` if it has no fault. The machine
    /// must not have exceeded its time limit or printed an unknown line, and no program may have
    /// failed. If the plan ends with a power cut, the machine must have asked for the cut.
    /// Otherwise, all programs must have ended in the given order, and the machine must have
    /// printed that the plan is over.
    pub fn fault(&self, programs: &[&str], end: End, is_cut: bool) -> Option<String> {
        if let Some(limit) = self.exceeded {
            return Some(format!("it was not over after {} s", limit.as_secs()));
        }
        if let Some(line) = &self.unknown {
            return Some(format!("it printed {line:?}, which has no meaning"));
        }
        if let Some((name, status)) = self.ended.iter().find(|(_, status)| *status != 0) {
            return Some(format!("{name} ended with status {status}"));
        }
        match (end, is_cut) {
            (End::Cut, true) => return None,
            (End::Cut, false) => return Some("it did not ask for its power to be cut".to_owned()),
            (End::Off, true) => return Some("it asked for its power to be cut".to_owned()),
            (End::Off, false) => {}
        }
        let ended: Vec<&str> = self.ended.iter().map(|(name, _)| name.as_str()).collect();
        if ended != programs {
            return Some(format!("of {programs:?} only {ended:?} have ended"));
        }
        (!self.is_over).then(|| "it did not print that the plan is over".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Transcript {
        let mut transcript = Transcript::default();
        for line in lines {
            assert_eq!(transcript.read(line), None);
        }
        transcript
    }

    const RESULT: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; \
                          0 filtered out; finished in 0.00s";

    #[test]
    fn a_plan_passes_if_all_programs_pass_and_the_machine_reports_its_end() {
        let transcript = read(&[
            "vm: Linux 6.1",
            RESULT,
            "vm: end a 0",
            "vm: end b 0",
            "vm: over\r",
        ]);
        assert_eq!(transcript.fault(&["a", "b"], End::Off, false), None);
        assert_eq!(transcript.summary.passed, 2);
        assert!(transcript.fault(&["a", "b"], End::Cut, false).is_some());
    }

    #[test]
    fn a_transcript_that_stops_early_is_a_failure() {
        // The output may stop at any point, for example after a kernel panic.
        for lines in [
            &[][..],
            &[RESULT],
            &[RESULT, "vm: end a 0"],
            &["vm: over"],
            &["vm: end a 101", "vm: over"],
            &["vm: end a", "vm: over"],
            &["vm: end b 0", "vm: over"],
            &["vm: end a 0", "vm: something", "vm: over"],
        ] {
            let transcript = read(lines);
            assert!(
                transcript.fault(&["a"], End::Off, false).is_some(),
                "{lines:?}"
            );
        }
        let mut late = read(&["vm: end a 0", "vm: over"]);
        late.note_timeout(Duration::from_secs(1));
        assert!(late.fault(&["a"], End::Off, false).is_some());
    }

    #[test]
    fn a_power_cut_passes_only_if_it_is_planned() {
        let transcript = Transcript::default();
        assert_eq!(transcript.fault(&["a"], End::Cut, true), None);
        assert!(transcript.fault(&["a"], End::Off, true).is_some());
        let failed = read(&["vm: end a 101"]);
        assert!(failed.fault(&["a", "b"], End::Cut, true).is_some());
    }

    #[test]
    fn requests_to_the_host_are_recognized() {
        let mut transcript = Transcript::default();
        assert_eq!(
            transcript.read("vm: unplug card0"),
            Some(HostRequest::Unplug("card0".to_owned()))
        );
        assert_eq!(
            transcript.read("vm: plug card0\r"),
            Some(HostRequest::Plug("card0".to_owned()))
        );
        assert_eq!(transcript.read("vm: cut"), Some(HostRequest::CutPower));
    }

    #[test]
    fn skipped_tests_are_listed() {
        let transcript = read(&["vm: skipped a_test: no such device"]);
        assert_eq!(transcript.skipped, ["a_test: no such device"]);
    }
}
