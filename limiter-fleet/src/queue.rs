// SPDX-License-Identifier: MIT OR Apache-2.0

//! The scopes whose leases have to be looked at, ordered by time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Instant,
};

use crate::ScopeId;

/// Scopes, each with the time at which its leases have to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The entries in order. An entry whose time is not that of `times` is out of date.
    heap: BinaryHeap<Reverse<(Instant, ScopeId)>>,
    times: HashMap<ScopeId, Instant>,
}

impl Queue {
    /// Puts `scope` into the queue at `at`, unless it is there at an earlier time.
    pub(crate) fn push(&mut self, scope: ScopeId, at: Instant) {
        if self.times.get(&scope).is_some_and(|&before| before <= at) {
            return;
        }
        self.times.insert(scope, at);
        self.heap.push(Reverse((at, scope)));
    }

    /// Takes out a scope whose time is `now` or earlier.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<ScopeId> {
        while let Some(Reverse((at, scope))) = self.heap.peek().copied() {
            if self.times.get(&scope) != Some(&at) {
                self.heap.pop();
            } else if at <= now {
                self.heap.pop();
                self.times.remove(&scope);
                return Some(scope);
            } else {
                return None;
            }
        }
        None
    }

    /// Returns the earliest time in the queue.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, scope))) = self.heap.peek().copied() {
            if self.times.get(&scope) == Some(&at) {
                return Some(at);
            }
            self.heap.pop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn scopes_come_out_in_the_order_of_their_times_and_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.push(1, at(3));
        queue.push(2, at(2));
        queue.push(1, at(1));
        queue.push(2, at(9));
        assert_eq!(queue.next(), Some(at(1)));
        assert_eq!(queue.pop(at(0)), None);
        assert_eq!(queue.pop(at(5)), Some(1));
        assert_eq!(queue.pop(at(5)), Some(2));
        assert_eq!((queue.pop(at(99)), queue.next()), (None, None));
    }
}
