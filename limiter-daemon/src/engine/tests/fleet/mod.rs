// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of a host whose scopes share their quotas with other hosts. The answers of the engine are
//! made by the tests.

mod figures;
mod leases;
mod rates;
mod scopes;

use std::time::Duration;

use limiter_common::day::{Day, DayCount};
use limiter_fleet::{Answer, Call, Purpose, Status};

use super::host::{Host, TODAY, caller, noon};
use crate::{
    domain::{bound::Bound, limits::Changes},
    protocol::requests::ScopeMode,
};

const FLEET: &str = "[fleet]\nengine = [\"redis://127.0.0.1:6379\"]\n";
const HOST: &str = "4f";

/// A host of a fleet, with the scope `acme`, whose quota is 10,000.
struct Member {
    host: Host,
    id: u32,
}

impl Member {
    fn new() -> Self {
        let mut host = Host::new(FLEET);
        host.engine().enter_fleet("f", &caller(noon())).unwrap();
        let id = host.add("acme");
        Self { host, id }
    }

    /// The kernel reports that it holds a request, or that half of the lease is used.
    fn report(&mut self) {
        let scopes = [self.id].into_iter().collect();
        self.host.engine().extend(&scopes, noon()).unwrap();
    }

    fn calls(&mut self) -> Vec<Call> {
        let calls = self.host.engine().fleet_calls(10);
        calls.into_iter().map(|(_, call)| call).collect()
    }

    fn call(&mut self) -> Call {
        let calls = self.calls();
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls[0]
    }

    fn answer(&mut self, call: Call, lease: u64, status: Status) {
        let granted = granted(lease);
        self.answer_with(call, Answer { status, ..granted });
    }

    fn answer_with(&mut self, call: Call, answer: Answer) {
        let calls = [("acme".to_owned(), call)];
        let engine = self.host.engine();
        let (recalls, noted) = engine.note_results(&calls, vec![Ok(answer)], HOST);
        assert!(recalls.is_empty());
        noted.unwrap();
    }

    /// Lets the host lease `lease` requests.
    fn lease(&mut self, lease: u64) {
        self.report();
        let call = self.call();
        assert!(matches!(call.purpose, Purpose::Extend(_)), "{call:?}");
        self.answer(call, lease, Status::Granted);
    }

    fn recall(&mut self, host: &str) {
        let text = format!("{host} {} all acme", TODAY.0);
        self.host.engine().note_recalls(&[text], HOST).unwrap();
    }

    /// Returns the number of requests that the kernel admits today.
    fn admitted_by_kernel(&self) -> u64 {
        let tables = self.host.plane.tables();
        let allowed = tables.allowed.get(&self.id).copied().unwrap_or_default();
        let lease = tables.leases.get(&self.id).copied().unwrap_or_default();
        match allowed.day() == TODAY {
            true => allowed.count(),
            false => [lease.current, lease.next]
                .map(DayCount)
                .into_iter()
                .find(|word| word.day() == TODAY)
                .map_or(0, DayCount::count),
        }
    }

    fn stored(&mut self, day: Day) -> u64 {
        self.host.engine().store.lease_of("acme", day).unwrap()
    }

    fn used(&mut self) -> u64 {
        self.host.used("acme", noon())
    }

    fn set_quota(&mut self, quota: Bound<u64>) {
        let limits = Changes {
            daily_quota: Some(quota),
            ..Changes::default()
        };
        self.host.set_limits("acme", limits);
    }

    fn set_mode(&mut self, mode: ScopeMode) {
        self.host.set_mode("acme", mode);
    }
}

fn granted(lease: u64) -> Answer {
    Answer {
        lease,
        free: 5_000,
        status: Status::Granted,
        retry_after: Duration::ZERO,
        recall: None,
        used: 0,
    }
}
