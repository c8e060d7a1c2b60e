//! What a machine says on the tests' line, and what that comes to. The end of QEMU says nothing: it is
//! the same after a kernel's panic.

use std::time::Duration;

use crate::summary::{self, Summary};

/// How lines that are not the tests' own begin; see init.sh.
const OURS: &str = "vm: ";

/// Something that a test in the machine asks of its host (`tests/src/vm.rs`).
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    Unplug(String),
    Plug(String),
    CutPower,
}

/// All of it so far.
#[derive(Debug, Default)]
pub struct Said {
    pub summary: Summary,
    pub skipped: Vec<String>,
    /// What the lines begin with that are shown.
    tag: String,
    /// Programs that have ended, and how.
    ended: Vec<(String, i32)>,
    over: bool,
    late: Option<Duration>,
    misheard: Option<String>,
}

impl Said {
    /// Nothing yet, of the machine `tag`.
    pub fn by(tag: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            ..Self::default()
        }
    }

    /// Takes a line in, and shows it if it is for people.
    pub fn hear(&mut self, line: &str) -> Option<Wish> {
        let line = line.trim_end_matches('\r');
        let Some(ours) = line.strip_prefix(OURS) else {
            if let Some(result) = summary::result_line(line) {
                self.summary.add(result);
            }
            if !line.is_empty() {
                println!("{}: {line}", self.tag);
            }
            return None;
        };
        let mut words = ours.split(' ');
        match (words.next().unwrap_or_default(), words.next()) {
            ("Linux", _) => println!("{}: {ours}", self.tag),
            ("end", Some(name)) => {
                // A status that cannot be read is none of success.
                let status = words.next().and_then(|word| word.parse().ok());
                self.ended.push((name.to_owned(), status.unwrap_or(-1)));
            }
            ("skipped", _) => {
                let what = ours.trim_start_matches("skipped ");
                self.skipped.push(what.to_owned());
            }
            ("over", None) => self.over = true,
            ("unplug", Some(card)) => return Some(Wish::Unplug(card.to_owned())),
            ("plug", Some(card)) => return Some(Wish::Plug(card.to_owned())),
            ("cut", None) => return Some(Wish::CutPower),
            _ => self.misheard = Some(line.to_owned()),
        }
        None
    }

    /// It took longer than it may.
    pub fn late(&mut self, limit: Duration) {
        self.late = Some(limit);
    }

    /// What is wrong, if something is: each of the programs has to have ended well, in its turn, and the
    /// machine to have said that all is over, or to have had its power cut if that was the plan.
    pub fn complaint(&self, programs: &[&str], to_be_cut: bool, cut: bool) -> Option<String> {
        if let Some(limit) = self.late {
            return Some(format!("it was not over after {} s", limit.as_secs()));
        }
        if let Some(line) = &self.misheard {
            return Some(format!("it said {line:?}, which means nothing"));
        }
        if let Some((name, status)) = self.ended.iter().find(|(_, status)| *status != 0) {
            return Some(format!("{name} ended with status {status}"));
        }
        match (to_be_cut, cut) {
            (true, true) => return None,
            (true, false) => return Some("it did not ask for its power to be cut".to_owned()),
            (false, true) => return Some("it asked for its power to be cut".to_owned()),
            (false, false) => {}
        }
        let ended: Vec<&str> = self.ended.iter().map(|(name, _)| name.as_str()).collect();
        if ended != programs {
            return Some(format!("of {programs:?} these have ended: {ended:?}"));
        }
        (!self.over).then(|| "it did not say that all is over".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Said {
        let mut said = Said::default();
        for line in lines {
            assert_eq!(said.hear(line), None);
        }
        said
    }

    const RESULT: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; \
                          0 filtered out; finished in 0.00s";

    #[test]
    fn all_is_well_only_when_everything_has_ended_well_and_it_said_so() {
        let said = heard(&[
            "vm: Linux 6.1",
            RESULT,
            "vm: end a 0",
            "vm: end b 0",
            "vm: over\r",
        ]);
        assert_eq!(said.complaint(&["a", "b"], false, false), None);
        assert_eq!(said.summary.passed, 2);
        assert!(said.complaint(&["a", "b"], true, false).is_some());
    }

    #[test]
    fn silence_is_a_failure() {
        // As after a panic.
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
            let said = heard(lines);
            assert!(said.complaint(&["a"], false, false).is_some(), "{lines:?}");
        }
        let mut late = heard(&["vm: end a 0", "vm: over"]);
        late.late(Duration::from_secs(1));
        assert!(late.complaint(&["a"], false, false).is_some());
    }

    #[test]
    fn a_cut_is_well_only_where_it_was_the_plan() {
        let said = Said::default();
        assert_eq!(said.complaint(&["a"], true, true), None);
        assert!(said.complaint(&["a"], false, true).is_some());
        let failed = heard(&["vm: end a 101"]);
        assert!(failed.complaint(&["a", "b"], true, true).is_some());
    }

    #[test]
    fn wishes_are_heard() {
        let mut said = Said::default();
        assert_eq!(
            said.hear("vm: unplug card0"),
            Some(Wish::Unplug("card0".to_owned()))
        );
        assert_eq!(
            said.hear("vm: plug card0\r"),
            Some(Wish::Plug("card0".to_owned()))
        );
        assert_eq!(said.hear("vm: cut"), Some(Wish::CutPower));
    }

    #[test]
    fn what_was_skipped_is_told() {
        let said = heard(&["vm: skipped a_test: no such device"]);
        assert_eq!(said.skipped, ["a_test: no such device"]);
    }
}
