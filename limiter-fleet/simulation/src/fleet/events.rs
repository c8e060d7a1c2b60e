// SPDX-License-Identifier: MIT OR Apache-2.0

//! The events of a scenario.

use super::{Action, Fleet};
use crate::engine::Engine;
use crate::host::DAYS;
use crate::scenario::{Event, SECOND};
use std::collections::HashMap;

impl Fleet {
    pub(super) fn event(&mut self, event: Event) {
        self.wake_all();
        let (now, settings, quota) = (self.now(), self.settings(), self.quota);
        match event {
            Event::Crash(host) => {
                self.hosts[host].alive = false;
                let left: u64 = (0..DAYS).map(|day| self.hosts[host].left(day)).sum();
                self.outcome.lost += left;
            }
            Event::Reboot(host) => {
                self.hosts[host].reboot(now, settings, self.at, quota);
                self.reconnect(host);
            }
            Event::Restart(host) if self.hosts[host].attended => {
                self.hosts[host].attended = false;
                let again = Action::Event(event);
                self.schedule.add(self.at + SECOND, again);
            }
            Event::Restart(host) => {
                self.hosts[host].start(now, settings, self.at, quota);
                self.reconnect(host);
            }
            Event::Leave(host) => {
                for step in self.hosts[host].leases.give_back_all(now) {
                    self.hosts[host].apply(now, step);
                }
                for call in self.hosts[host].leases.calls(now, usize::MAX) {
                    self.send(host, call);
                }
                self.hosts[host].alive = false;
            }
            Event::Join(host) => {
                self.hosts[host].alive = true;
                self.learns(host);
                self.reconnect(host);
            }
            Event::EngineDown => self.engine_up = false,
            Event::EngineUp => self.engine_up = true,
            Event::Flush => {
                for server in &self.servers {
                    server.restore(HashMap::new());
                }
            }
            Event::Failover(_) | Event::Split(..) => self.fail_over(event),
            Event::Heal => self.reconnect_all(0),
            Event::Disconnect(host) => self.hosts[host].cut = true,
            Event::Reconnect(host) => {
                self.hosts[host].cut = false;
                self.reconnect(host);
            }
            Event::Quota(quota) => {
                self.quota = quota;
                self.highest = self.highest.max(quota);
                self.tell_all();
            }
            Event::Reset => {
                self.generation += 1;
                self.earlier.push(self.highest);
                self.highest = self.quota;
                self.settled = 0;
                self.tell_all();
            }
            Event::SpreadEvenly => {
                for (host, weight) in self.weights.iter_mut().enumerate() {
                    *weight = (host + 1) as f64;
                }
            }
        }
    }

    pub(super) fn fail_over(&mut self, event: Event) {
        let name = format!("server-{}", self.servers.len());
        let server = Engine::new(&name).expect("the scripts compile");
        server.restore(self.replica.take().unwrap_or_default());
        self.servers.push(server);
        let behind = match event {
            Event::Split(_, hosts) => hosts,
            _ => 0,
        };
        self.reconnect_all(behind);
    }

    /// Lets the hosts from number `first` on reconnect within half a second.
    pub(super) fn reconnect_all(&mut self, first: usize) {
        for host in first..self.hosts.len() {
            let at = self.at + self.random.below(SECOND / 2);
            self.schedule.add(at, Action::Reconnect(host));
        }
    }

    /// Tells all hosts the quota and the generation within a second.
    pub(super) fn tell_all(&mut self) {
        for host in 0..self.hosts.len() {
            let at = self.at + self.random.below(SECOND);
            self.schedule.add(at, Action::Learns(host));
        }
        self.schedule
            .add(self.at + SECOND + SECOND / 10, Action::Settled);
    }
}
