// SPDX-License-Identifier: MIT OR Apache-2.0

//! The engine and its answers.

use super::{Action, CONFIRMATION, Fleet, NAME};
use crate::host::{FIRST_DAY, index};
use crate::scenario::{DAY, SECOND};
use limiter_fleet::script::OTHER_SERVER;
use limiter_fleet::{Answer, Bucket, Call, Failure, Recall, account_key, script};

impl Fleet {
    pub(super) fn execute(&mut self, host: usize, call: &Call, server: usize) {
        if !self.engine_up || self.hosts[host].cut {
            let failure = Failure::Unanswered;
            if !self.hosts[host].cut {
                self.fails(host, *call, failure, 0);
            }
            return;
        }
        self.outcome.calls += 1;
        if self.at / SECOND != self.second.0 {
            self.second = (self.at / SECOND, 0);
        }
        self.second.1 += 1;
        self.outcome.calls_per_second = self.outcome.calls_per_second.max(self.second.1);
        let epoch = u64::from(FIRST_DAY.0) * DAY;
        let engine = &self.servers[server];
        engine.set_time(epoch + self.at);
        let bucket = Bucket::of(NAME);
        let keys = [bucket.state_key(), account_key(NAME, call.day)];
        let name = self.hosts[host].server_name.clone();
        let id = format!("host-{host}");
        let arguments = script::lease_arguments(&name, &id, &[*call]);
        match engine.lease(&keys, &arguments) {
            Ok(replies) => {
                let answer = script::lease_answer(&replies[0]).expect("the script's reply");
                self.granted(host, *call, answer, server);
            }
            Err(error) if error.0.starts_with(OTHER_SERVER) => {
                let learning = self.scenario.learning / 1_000;
                let keys = [bucket.state_key()];
                let arguments = [engine.name.clone(), learning.to_string(), "0".to_owned()];
                engine.claim(&keys, &arguments).expect("the script works");
                self.hosts[host]
                    .server_name
                    .clone_from(&self.servers[server].name);
                self.fails(host, *call, Failure::OtherServer, 0);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Schedules the answer to a call, or its failure if it is not confirmed.
    pub(super) fn granted(&mut self, host: usize, call: Call, answer: Answer, server: usize) {
        let mut back = self.latency();
        if self.scenario.confirm {
            let lags = self
                .lags
                .is_some_and(|(from, to)| from <= self.at && self.at < to);
            let alone = server + 1 < self.servers.len();
            if lags || alone {
                self.fails(host, call, Failure::Unanswered, CONFIRMATION.1);
                return;
            }
            back += CONFIRMATION.0;
        }
        if self.random.fraction() < self.scenario.lost_replies {
            return;
        }
        self.schedule
            .add(self.at + back, Action::Reply { host, call, answer });
    }

    pub(super) fn fails(&mut self, host: usize, call: Call, failure: Failure, after: u64) {
        let at = self.at + self.latency() + after;
        let event = Action::NoReply {
            host,
            call,
            failure,
        };
        self.schedule.add(at, event);
    }

    pub(super) fn replied(&mut self, host: usize, call: &Call, answer: &Answer) {
        let now = self.now();
        if !self.hosts[host].alive || !self.hosts[host].attended {
            return;
        }
        if let Some(recall) = answer.recall.filter(|_| self.scenario.recalls) {
            self.recall(host, index(call.day), recall);
        }
        let step = self.hosts[host].leases.answered(now, call, answer);
        self.apply(host, step);
    }

    /// Asks the other hosts to give back the requests that they do not need.
    pub(super) fn recall(&mut self, host: usize, day: usize, recall: Recall) {
        self.outcome.recalls += 1;
        for other in 0..self.hosts.len() {
            if other != host && self.reaches(other) {
                let at = self.at + self.latency() + self.latency();
                let event = Action::Recall {
                    host: other,
                    day,
                    recall,
                };
                self.schedule.add(at, event);
            }
        }
    }
}
