// SPDX-License-Identifier: MIT OR Apache-2.0

//! The events of a simulation, in the order of their times.

use std::{cmp::Ordering, collections::BinaryHeap};

/// An event with its time, in µs since the simulation began. Events of one time keep the order in
/// which they were added.
#[derive(Debug)]
struct Entry<E> {
    at: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// Compares in reverse, because a `BinaryHeap` returns the largest entry first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The events that are still to come.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    entries: BinaryHeap<Entry<E>>,
    added: u64,
}

impl<E> Schedule<E> {
    pub(crate) fn new() -> Self {
        Self {
            entries: BinaryHeap::new(),
            added: 0,
        }
    }

    /// Adds an event at `at`, in µs.
    pub(crate) fn add(&mut self, at: u64, event: E) {
        self.added += 1;
        let number = self.added;
        self.entries.push(Entry { at, number, event });
    }

    /// Takes out the next event, with its time.
    pub(crate) fn next(&mut self) -> Option<(u64, E)> {
        let entry = self.entries.pop()?;
        Some((entry.at, entry.event))
    }
}
