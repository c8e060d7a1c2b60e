// SPDX-License-Identifier: MIT OR Apache-2.0

//! The clients, and the verdicts of the kernels on their requests.

use super::{Action, Fleet, MAX_HELD, NAME, RETRANSMISSION};
use crate::host::{Host, Verdict, day_at};
use limiter_fleet::account_key;

impl Fleet {
    pub(super) fn request(&mut self) {
        if let Some(host) = self.choose_host() {
            self.outcome.asked += 1;
            self.arrives(host, self.at, 0);
        }
        let requests = self.scenario.demand * self.scenario.quota as f64;
        let mean = self.scenario.duration as f64 / requests;
        let next = self.at + self.random.exponential(mean).max(1.0) as u64;
        if next < self.scenario.from + self.scenario.duration {
            self.schedule.add(next, Action::Request);
        }
    }

    pub(super) fn choose_host(&mut self) -> Option<usize> {
        let sum = self.weights.last().copied()?;
        if !self.hosts.iter().any(|host| host.alive) {
            return None;
        }
        loop {
            let at = self.random.fraction() * sum;
            let host = self.weights.partition_point(|&weight| weight <= at);
            if self.hosts[host].alive {
                return Some(host);
            }
        }
    }

    /// Judges a request that was first sent at `sent_at` and has been retransmitted `tries` times.
    pub(super) fn arrives(&mut self, host: usize, sent_at: u64, tries: u32) {
        let now = self.now();
        let day = self.hosts[host].day(self.at);
        self.wake(host);
        match self.hosts[host].judge(now, day) {
            Verdict::Admitted(reports) => {
                let generation = self.hosts[host].generation;
                *self.admitted.entry((day, generation)).or_default() += 1;
                self.outcome.admitted += 1;
                self.outcome.held += u64::from(tries > 0);
                if reports {
                    self.count(host, day, false);
                }
            }
            Verdict::Held => {
                self.count(host, day, true);
                if self.at > sent_at + MAX_HELD {
                    self.refuse(host, day);
                } else {
                    let again = self.at + (RETRANSMISSION << tries);
                    let tries = tries + 1;
                    let event = Action::Again {
                        host,
                        sent_at,
                        tries,
                    };
                    self.schedule.add(again, event);
                }
            }
            Verdict::Refused => self.refuse(host, day),
        }
    }

    /// Returns the requests of a day that all hosts have admitted in this generation.
    pub(super) fn total(&self, day: usize) -> u64 {
        let of_day = self.admitted.get(&(day, self.generation));
        of_day.copied().unwrap_or(0)
    }

    pub(super) fn refuse(&mut self, host: usize, day: usize) {
        let server = &self.servers[self.hosts[host].server];
        let granted = server.number(&account_key(NAME, day_at(day)), "g");
        let reachable =
            |host: &&Host| host.alive && !host.cut && host.generation == self.generation;
        let left: u64 = self
            .hosts
            .iter()
            .filter(reachable)
            .map(|host| host.left(day))
            .sum();
        if self.total(day) >= self.quota {
            self.outcome.refused += 1;
        } else if left + self.quota.saturating_sub(granted) > 0 {
            self.outcome.early += 1;
        } else {
            self.outcome.stranded += 1;
        }
    }
}
