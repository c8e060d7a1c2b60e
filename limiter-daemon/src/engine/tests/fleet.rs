// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of a host whose scopes share their quotas with other hosts. The answers of the engine are
//! made by the tests.

use std::time::{Duration, Instant};

use limiter_common::{
    abi::{LIMITS_LEASED, REFUSED_ALL_DAY},
    day::{Day, DayCount},
};
use limiter_fleet::{Answer, Call, Purpose, Status};

use super::{
    host::{Host, TODAY, TOMORROW, at, caller, name, noon},
    plane::MemoryPlane,
};
use crate::{
    domain::{bound::Bound, limits::Changes},
    protocol::{
        insight::TopQuery,
        requests::{ScopeMode, SetLimits, SetMode},
    },
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
        let request = SetLimits {
            limits: Changes {
                daily_quota: Some(quota),
                ..Changes::default()
            },
            until: None,
            for_all: false,
            note: "test".to_owned(),
        };
        let engine = self.host.engine();
        engine
            .set_limits(&name("acme"), request, &caller(noon()))
            .unwrap();
    }

    fn set_mode(&mut self, mode: ScopeMode) {
        let request = SetMode {
            mode,
            note: "test".to_owned(),
        };
        let engine = self.host.engine();
        engine
            .set_mode(&name("acme"), &request, &caller(noon()))
            .unwrap();
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

#[test]
fn without_a_lease_nothing_is_admitted() {
    let mut member = Member::new();
    member.host.engine().tick(noon());
    let limits = member.host.plane.tables().limits[&member.id];
    assert_ne!(limits.flags & LIMITS_LEASED, 0);
    assert!(limits.ahead > 0, "0 would mean that nothing is enforced");
    assert_eq!(member.admitted_by_kernel(), 0);
    // The host has had no request, so it has no reason to call the engine.
    assert_eq!(member.calls(), []);
}

#[test]
fn a_lease_reaches_the_store_and_then_the_kernel() {
    let mut member = Member::new();
    member.lease(20);
    assert_eq!(
        (member.admitted_by_kernel(), member.stored(TODAY)),
        (20, 20)
    );
    let ahead = member.host.plane.tables().limits[&member.id].ahead;
    assert_eq!(ahead, 20, "the kernel reports when half is left");
    // When half of the lease is used, the host asks for more.
    member.host.plane.admit(member.id, TODAY, 10);
    member.report();
    let call = member.call();
    assert_eq!((call.lease, call.used), (20, 10));
    assert!(matches!(call.purpose, Purpose::Extend(total) if total > 20));
}

#[test]
fn the_busiest_scopes_are_shown_with_the_requests_of_all_hosts() {
    let mut member = Member::new();
    let top = |member: &mut Member| {
        let query = TopQuery::default();
        let view = member.host.engine().top(&query, noon());
        (view.top[0].used, view.top[0].fleet_used)
    };
    assert_eq!(top(&mut member), (0, Some(0)));
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 15);
    member.report();
    let call = member.call();
    assert_eq!(call.used, 15);
    // The hosts have reported 700 requests, including those 15.
    let answer = Answer {
        used: 700,
        ..granted(40)
    };
    member.answer_with(call, answer);
    member.host.plane.admit(member.id, TODAY, 5);
    member.host.engine().tick(noon());
    assert_eq!(top(&mut member), (20, Some(705)));
    // Quotas in observe mode are not shared.
    member.set_mode(ScopeMode::Observe);
    assert_eq!(top(&mut member), (20, None));
}

#[test]
fn a_quota_that_the_hosts_exceed_is_an_event() {
    let mut member = Member::new();
    let answer = |member: &mut Member, used| {
        member.host.engine().report_leases();
        let call = member.call();
        let answer = Answer {
            used,
            ..granted(call.lease)
        };
        member.answer_with(call, answer);
        let events = member.host.engine().events.recent(100, 0);
        let messages = events.iter().filter_map(|event| event.message.as_deref());
        messages
            .filter(|message| message.contains("more than its daily quota"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 15);
    member.host.engine().tick(noon());
    assert!(answer(&mut member, 10_000).is_empty());
    let exceeded = answer(&mut member, 10_001);
    assert_eq!(
        exceeded,
        [
            "fleet: the hosts have admitted 10001 requests of acme, more than its daily quota of 10000"
        ]
    );
    assert_eq!(answer(&mut member, 10_002), exceeded, "one event");
    // A quota that is lowered is not exceeded by the hosts.
    member.set_quota(Bound::At(5_000));
    assert_eq!(answer(&mut member, 10_002), exceeded);
    assert_eq!(answer(&mut member, 10_003), exceeded);
}

#[test]
fn missing_confirmations_are_a_problem_after_five_seconds() {
    let mut member = Member::new();
    let engine = member.host.engine();
    engine.note_exchange(0.1, 2);
    engine.note_exchange(0.1, 1);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(engine.unconfirmed_problem(at(4)), None);
    let problem = engine.unconfirmed_problem(at(6)).unwrap();
    assert!(problem.contains("too few replicas"), "{problem}");
    engine.note_exchange(0.1, 0);
    assert_eq!(engine.unconfirmed_problem(at(6)), None);
}

#[test]
fn a_lease_that_cannot_be_stored_does_not_reach_the_kernel() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 15);
    member.report();
    let call = member.call();
    member.host.engine().store.refuse_changes();
    let answer = granted(60);
    let calls = [("acme".to_owned(), call)];
    let engine = member.host.engine();
    let (_, noted) = engine.note_results(&calls, vec![Ok(answer)], HOST);
    assert!(noted.is_err());
    assert_eq!(member.admitted_by_kernel(), 20);
}

#[test]
fn the_allowance_follows_the_store_within_a_large_lease() {
    let mut member = Member::new();
    member.lease(5_000);
    // A tenth of the quota may run ahead of the store.
    assert_eq!(member.admitted_by_kernel(), 1_000);
    member.host.plane.admit(member.id, TODAY, 600);
    member.report();
    assert_eq!(member.admitted_by_kernel(), 1_600);
}

#[test]
fn a_used_up_quota_is_refused_until_midnight() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 20);
    member.report();
    let call = member.call();
    member.answer(call, 20, Status::UsedUp);
    let lease = member.host.plane.tables().leases[&member.id];
    assert_eq!(lease.refused_until_ns, REFUSED_ALL_DAY);
}

#[test]
fn a_recall_lowers_the_kernel_before_the_engine_hears_of_it() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    // The host does not follow its own recall.
    member.recall(HOST);
    assert_eq!((member.admitted_by_kernel(), member.calls().len()), (20, 0));
    member.recall("other");
    assert_eq!((member.admitted_by_kernel(), member.stored(TODAY)), (5, 5));
    let call = member.call();
    assert_eq!(
        (call.purpose, call.lease, call.used),
        (Purpose::Report, 5, 5)
    );
}

#[test]
fn a_lower_bound_that_cannot_be_stored_is_not_reported() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 1);
    member.host.engine().store.refuse_changes();
    let text = format!("other {} all acme", TODAY.0);
    let engine = member.host.engine();
    assert!(engine.note_recalls(&[text], HOST).is_err());
    // The kernel has the lower bound, which is safe. If the engine heard of it, a crash would bring
    // the higher one back from the store.
    assert_eq!(member.admitted_by_kernel(), 1);
    assert_eq!(member.calls(), []);
}

#[test]
fn leases_survive_the_daemon_and_count_as_used_after_a_crash_of_the_host() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    // The daemon is killed, and the maps stay.
    member.host.start(noon()).unwrap();
    assert_eq!((member.admitted_by_kernel(), member.used()), (20, 5));
    let call = member.call();
    assert_eq!(
        (call.purpose, call.lease, call.used),
        (Purpose::Report, 20, 5)
    );
    // The host loses its power.
    member.host.plane = MemoryPlane::new("boot:two");
    member.host.start(noon()).unwrap();
    assert_eq!(member.used(), 20);
    assert_eq!(member.admitted_by_kernel(), 20);
}

#[test]
fn an_orderly_end_gives_the_rest_back() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    member.host.engine().give_back().unwrap();
    assert_eq!((member.admitted_by_kernel(), member.stored(TODAY)), (5, 5));
    let call = member.call();
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 5));
    member.answer(call, 5, Status::Granted);
    assert!(!member.host.engine().has_fleet_calls());
}

#[test]
fn tomorrow_begins_with_the_lease_of_tomorrow() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    let late = at("2026-11-24T23:30:00Z");
    member.host.engine().tick(late);
    let calls = member.calls();
    let call = calls.iter().find(|call| call.day == TOMORROW).unwrap();
    member.answer(*call, 1, Status::Granted);
    assert_eq!(member.stored(TOMORROW), 1);
    let lease = member.host.plane.tables().leases[&member.id];
    assert_eq!(DayCount(lease.next), DayCount::new(TOMORROW, 1));
    // The first request of the new day comes.
    member.host.plane.admit(member.id, TOMORROW, 1);
    member.host.engine().tick(at("2026-11-25T00:00:01Z"));
    let lease = member.host.plane.tables().leases[&member.id];
    assert_eq!(DayCount(lease.current), DayCount::new(TOMORROW, 1));
    assert_eq!(lease.next, 0);
    let allowed = member.host.plane.tables().allowed[&member.id];
    assert_eq!(allowed, DayCount::new(TOMORROW, 1));
    // The engine gets the final count of the day that has ended.
    let calls = member.calls();
    let last = calls.iter().find(|call| call.day == TODAY).unwrap();
    assert_eq!((last.purpose, last.used), (Purpose::Report, 5));
}

#[test]
fn a_reset_begins_a_generation_without_a_lease() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    let engine = member.host.engine();
    engine
        .reset(&name("acme"), "test", &caller(noon()))
        .unwrap();
    assert_eq!((member.admitted_by_kernel(), member.used()), (0, 0));
    assert_eq!(member.stored(TODAY), 0);
    member.report();
    let call = member.call();
    assert_eq!((call.generation, call.lease, call.used), (1, 0, 0));
    member.answer(call, 0, Status::Granted);
    member.lease(8);
    assert_eq!(member.admitted_by_kernel(), 8);
    // The generation survives a restart.
    member.host.start(noon()).unwrap();
    let scope = member.host.engine().scopes.find(&name("acme")).unwrap();
    assert_eq!(scope.record.generation, 1);
    assert_eq!(member.admitted_by_kernel(), 8);
}

#[test]
fn only_enforced_quotas_are_shared() {
    let mut member = Member::new();
    member.lease(20);
    member.set_mode(ScopeMode::Observe);
    let flags = |member: &Member| member.host.plane.tables().limits[&member.id].flags;
    assert_eq!(flags(&member) & LIMITS_LEASED, 0);
    // The rest goes back, because other hosts may need it.
    let call = member.call();
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 0));
    member.answer(call, 0, Status::Granted);
    member.set_mode(ScopeMode::Tier);
    assert_ne!(flags(&member) & LIMITS_LEASED, 0);
    assert_eq!(member.admitted_by_kernel(), 0);
    member.set_quota(Bound::Unlimited);
    assert_eq!(flags(&member) & LIMITS_LEASED, 0);
}

#[test]
fn the_rest_of_the_leases_is_counted_in_the_kernel() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    // The daemon has not read the count since.
    assert_eq!(member.host.engine().leases_now(noon()).left, 15);
}

#[test]
fn a_lower_quota_is_known_to_the_engine() {
    let mut member = Member::new();
    member.lease(20);
    member.set_quota(Bound::At(100));
    let call = member.call();
    assert_eq!((call.purpose, call.quota), (Purpose::Report, 100));
    assert_eq!(member.admitted_by_kernel(), 0);
}

#[test]
fn a_host_that_leaves_has_its_whole_quotas_again() {
    let mut host = Host::new(FLEET);
    let id = host.add("acme");
    let flags = |host: &Host| host.plane.tables().limits[&id].flags & LIMITS_LEASED;
    // A host that belongs to no fleet yet enforces its limits alone.
    assert_eq!(flags(&host), 0);
    host.engine().enter_fleet("f", &caller(noon())).unwrap();
    assert_ne!(flags(&host), 0);
    host.start(noon()).unwrap();
    assert_ne!(flags(&host), 0);
    host.engine().exit_fleet(&caller(noon())).unwrap();
    assert_eq!(flags(&host), 0);
    host.start(noon()).unwrap();
    assert_eq!(flags(&host), 0);
}

#[test]
fn a_lease_that_was_given_back_in_observe_mode_does_not_come_back() {
    let mut member = Member::new();
    member.lease(500);
    member.host.plane.admit(member.id, TODAY, 10);
    member.host.engine().flush(noon()).unwrap();
    member.set_mode(ScopeMode::Observe);
    assert_eq!(member.stored(TODAY), 10);
    let call = member.call();
    assert_eq!((call.purpose, call.lease), (Purpose::Report, 10));
    member.answer(call, 10, Status::Granted);
    member.host.start(noon()).unwrap();
    member.set_mode(ScopeMode::Tier);
    assert_eq!(member.admitted_by_kernel(), 10);
}

#[test]
fn a_reset_in_observe_mode_forgets_the_lease_in_the_kernel() {
    let mut member = Member::new();
    member.lease(500);
    member.host.plane.admit(member.id, TODAY, 500);
    member.set_mode(ScopeMode::Observe);
    member.host.start(noon()).unwrap();
    let engine = member.host.engine();
    engine
        .reset(&name("acme"), "test", &caller(noon()))
        .unwrap();
    member.set_mode(ScopeMode::Tier);
    assert_eq!(member.admitted_by_kernel(), 0);
}

#[test]
fn a_reset_that_cannot_be_stored_keeps_the_generation() {
    let mut member = Member::new();
    member.lease(20);
    member.host.plane.admit(member.id, TODAY, 5);
    member.host.engine().flush(noon()).unwrap();
    member.host.engine().store.refuse_changes();
    let engine = member.host.engine();
    let failed = engine.reset(&name("acme"), "test", &caller(noon()));
    assert!(failed.is_err());
    let scope = engine.scopes.find(&name("acme")).unwrap();
    assert_eq!(scope.record.generation, 0);
}
