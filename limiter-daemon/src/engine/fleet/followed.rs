// SPDX-License-Identifier: MIT OR Apache-2.0

//! The recalls that this host has followed. Each recall is announced, and is also in the answers to
//! the heartbeats, so a host would follow most of them twice. By the second time, it may have
//! leased the requests again that it has given back, because a held request needs them.

use std::collections::BTreeSet;

use limiter_fleet::registry::NumberedRecall;

/// The numbers of the recalls that this host has followed.
#[derive(Debug, Clone, Default)]
pub(crate) struct FollowedRecalls {
    /// The number up to which this host has followed all recalls, or need not follow them.
    upto: u64,
    /// Later numbers, which were announced while earlier ones were missed.
    later: BTreeSet<u64>,
}

impl FollowedRecalls {
    /// Returns the number up to which this host needs no recalls.
    pub(crate) fn upto(&self) -> u64 {
        self.upto
    }

    /// Records that this host follows a recall. Returns whether it has not done so before. An
    /// engine without a fleet does not number recalls, and announces them with the number 0.
    pub(crate) fn note(&mut self, number: u64) -> bool {
        if number == 0 {
            return true;
        }
        if number <= self.upto || !self.later.insert(number) {
            return false;
        }
        while self.later.remove(&(self.upto + 1)) {
            self.upto += 1;
        }
        true
    }

    /// Records the answer to a heartbeat that was sent when [`Self::upto`] was `known`. The answer
    /// has the recalls with higher numbers, of which `last` is the highest. Returns the texts of
    /// those that this host has not followed yet.
    pub(crate) fn note_answer(
        &mut self,
        known: u64,
        last: u64,
        recalls: &[NumberedRecall],
    ) -> Vec<String> {
        if last < known {
            // The engine has lost its numbers.
            *self = Self::default();
        }
        let new = recalls.iter().filter(|recall| self.note(recall.number));
        let texts = new.map(|recall| recall.text.clone()).collect();
        if last > self.upto {
            // The recalls in between are no longer kept.
            self.upto = last;
            self.later = self.later.split_off(&(last + 1));
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recalls(numbers: impl IntoIterator<Item = u64>) -> Vec<NumberedRecall> {
        let recall = |number| NumberedRecall {
            number,
            text: format!("text {number}"),
        };
        numbers.into_iter().map(recall).collect()
    }

    #[test]
    fn a_recall_is_followed_once() {
        let mut followed = FollowedRecalls::default();
        assert!(followed.note(1) && !followed.note(1));
        assert_eq!(followed.upto(), 1);
        // The second one is missed, and comes with the answer to the heartbeat.
        assert!(followed.note(3));
        assert_eq!(followed.upto(), 1);
        assert_eq!(followed.note_answer(1, 3, &recalls(2..=3)), ["text 2"]);
        assert_eq!(followed.upto(), 3);
        assert!(followed.note(4));
        // This announcement came before the answer to an earlier heartbeat.
        assert_eq!(followed.note_answer(3, 3, &[]), [""; 0]);
        assert_eq!(followed.upto(), 4);
        assert!(!followed.note(4));
    }

    #[test]
    fn recalls_that_are_no_longer_kept_are_not_waited_for() {
        let mut followed = FollowedRecalls::default();
        assert!(followed.note(70));
        let texts = followed.note_answer(0, 72, &recalls(70..=72));
        assert_eq!(texts, ["text 71", "text 72"]);
        assert_eq!(followed.upto(), 72);
        assert!(followed.note(73));
        assert_eq!(followed.upto(), 73);
    }

    #[test]
    fn an_engine_that_begins_again_is_followed() {
        let mut followed = FollowedRecalls::default();
        assert_eq!(followed.note_answer(0, 900, &[]), [""; 0]);
        assert_eq!(followed.note_answer(900, 2, &[]), [""; 0]);
        assert_eq!(followed.upto(), 2);
        assert!(followed.note(3));
        // Without a fleet, recalls have no numbers.
        assert!(followed.note(0) && followed.note(0));
    }
}
