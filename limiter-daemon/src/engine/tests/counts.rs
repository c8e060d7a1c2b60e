// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of counts across restarts, reboots and midnight.

use chrono::Duration;
use limiter_common::{
    abi::{Clock, reason},
    day::{Day, DayCount},
};

use super::{
    host::{Host, TODAY, TOMORROW, at, caller, name, noon},
    plane::MemoryPlane,
};
use crate::{
    engine::{
        publish::clock::{ClockPublisher, PublishClock},
        state::Engine,
    },
    kernel::{KernelError, Plane as _, boot_ns},
};

const DAY: Duration = Duration::days(1);

#[test]
fn counts_continue_in_surviving_maps_and_are_restored_into_new_ones() {
    let mut host = Host::new("");
    let id = host.add("acme");
    host.plane.admit(id, TODAY, 7);
    host.plane.refuse(id, reason::RATE, 3);
    host.engine().tick(noon());
    // The daemon is killed, and the kernel continues to count.
    host.plane.admit(id, TODAY, 5);
    host.plane.refuse(id, reason::RATE, 1);
    host.start(noon()).unwrap();
    let usage = host.engine().usage_of(&name("acme"), None, noon()).unwrap();
    assert_eq!(
        (usage.used, usage.remaining, usage.refused.rate),
        (12, Some(9988), 4)
    );
    // The daemon stops properly, and the maps are removed.
    host.stop(noon());
    host.plane = MemoryPlane::new("boot:two");
    host.start(noon()).unwrap();
    let usage = host.engine().usage_of(&name("acme"), None, noon()).unwrap();
    assert_eq!((usage.used, usage.refused.rate), (12, 4));
    host.plane.admit(id, TODAY, 1);
    host.plane.refuse(id, reason::RATE, 1);
    let usage = host.engine().usage_of(&name("acme"), None, noon()).unwrap();
    assert_eq!((usage.used, usage.refused.rate), (13, 5));
}

#[test]
fn a_day_that_began_without_a_daemon_is_recorded() {
    // The store has requests of the day before yesterday in one case, and no requests at all in the
    // other.
    for before in [3, 0] {
        // Today's first requests come before the next reading of the counters, or there are none.
        for today in [0, 2] {
            let mut host = Host::new("");
            let id = host.add("acme");
            let [yesterday, earlier] = [Day(TODAY.0 - 1), Day(TODAY.0 - 2)];
            let [day_before, two_before] = [noon() - DAY, noon() - DAY * 2];
            host.start(two_before).unwrap();
            if before > 0 {
                host.plane.admit(id, earlier, before);
            }
            host.engine().tick(two_before);
            host.engine().tick(day_before);
            // The daemon is killed before it reads yesterday's counters.
            host.plane.admit(id, yesterday, 5);
            if today > 0 {
                host.plane.admit(id, TODAY, today);
            }
            host.start(noon()).unwrap();
            let mut used = |date: Option<&str>| {
                let date = date.map(|date| date.parse().unwrap());
                let usage = host.engine().usage_of(&name("acme"), date, noon());
                usage.unwrap().used
            };
            let found = [Some("2026-11-22"), Some("2026-11-23"), None].map(&mut used);
            assert_eq!(found, [before, 5, today], "before {before}, today {today}");
        }
    }
}

#[test]
fn the_last_requests_before_midnight_belong_to_that_day_even_without_a_daemon() {
    let mut host = Host::new("");
    let id = host.add("acme");
    let late = at("2026-11-23T23:59:30Z");
    let yesterday = Day(TODAY.0 - 1);
    host.start(late).unwrap();
    host.plane.admit(id, yesterday, 3);
    // The tick is in the last minute of the day, and has to open the next day in advance.
    host.engine().tick(late);
    host.plane.admit(id, yesterday, 2);
    host.plane.admit(id, TODAY, 1);
    host.start(noon()).unwrap();
    let date = Some("2026-11-23".parse().unwrap());
    let usage = host.engine().usage_of(&name("acme"), date, noon()).unwrap();
    assert_eq!((usage.used, host.used("acme", noon())), (5, 1));
}

#[test]
fn a_crash_costs_the_allowance_and_no_more() {
    let mut host = Host::new("");
    let id = host.add("acme");
    let idle = host.add("idle");
    host.plane.admit(id, TODAY, 7);
    host.engine().tick(noon());
    // The kernel admits requests up to this count until the store is written again.
    assert_eq!(host.plane.allowed(id), DayCount::new(TODAY, 1007));
    host.plane.admit(id, TODAY, 1000);
    host.plane = MemoryPlane::new("two");
    host.start(noon()).unwrap();
    let mut usage = |scope: &str| {
        let usage = host.engine().usage_of(&name(scope), None, noon());
        usage.map(|usage| (usage.used, usage.lost)).unwrap()
    };
    assert_eq!(usage("acme"), (1007, 1000));
    // No count of `idle` was written. The scope may have used at most its first allowance, and all
    // of this allowance is charged.
    assert_eq!(usage("idle"), (1000, 1000));
    assert_eq!(DayCount(host.plane.state(idle).day_count).count(), 1000);
    // The charged requests were written to the store at once. A second crash therefore costs only
    // one more allowance.
    host.plane = MemoryPlane::new("three");
    host.start(noon()).unwrap();
    assert_eq!(host.used("acme", noon()), 2007);
    // On a new day, no lost requests are charged.
    host.plane = MemoryPlane::new("four");
    let tomorrow = at("2026-11-25T08:00:00Z");
    host.start(tomorrow).unwrap();
    assert_eq!(host.used("acme", tomorrow), 0);
}

#[test]
fn a_detach_loses_no_count_even_if_the_host_goes_down_after_it() {
    let mut host = Host::new("");
    let id = host.add("acme");
    host.add("idle");
    host.plane.admit(id, TODAY, 7);
    host.engine().tick(noon());
    host.plane.tables().last_requests.insert(id, (TODAY, 3));
    let report = host.engine().detach(&caller(noon())).unwrap();
    assert!(report.warnings.is_empty(), "{report:?}");
    host.plane = MemoryPlane::new("another boot:two");
    host.start(noon()).unwrap();
    let mut usage = |scope: &str| {
        let usage = host.engine().usage_of(&name(scope), None, noon());
        usage.map(|usage| (usage.used, usage.lost)).unwrap()
    };
    assert_eq!((usage("acme"), usage("idle")), ((10, 0), (0, 0)));
    // The loss of these maps costs an allowance again, because a daemon has started with them.
    host.plane = MemoryPlane::new("another boot:three");
    host.start(noon()).unwrap();
    assert!(host.used("acme", noon()) > 10);
}

#[test]
fn a_detach_while_the_store_cannot_be_written_is_reported_and_counts_as_lost() {
    let mut host = Host::new("");
    let id = host.add("acme");
    host.plane.admit(id, TODAY, 7);
    host.engine().tick(noon());
    host.plane.admit(id, TODAY, 5);
    host.engine().store.refuse_changes();
    let report = host.engine().detach(&caller(noon())).unwrap();
    let warnings = report.warnings.join("\n");
    assert!(
        warnings.contains("are lost") && warnings.contains("limiter.db"),
        "{warnings}"
    );
    host.plane = MemoryPlane::new("boot:two");
    host.start(noon()).unwrap();
    assert_eq!(host.used("acme", noon()), 1007);
}

#[test]
fn a_reading_engine_accepts_only_the_maps_of_its_store() {
    let mut host = Host::new("");
    let id = host.add("acme");
    host.plane.admit(id, TODAY, 7);
    host.engine().tick(noon());
    // The daemon is killed, and the kernel continues to count.
    host.plane.admit(id, TODAY, 5);
    assert!(
        Engine::read(host.parts(MemoryPlane::new("boot:other")), noon())
            .unwrap()
            .is_none()
    );
    let published = host.plane.tables().published.len();
    let mut engine = Engine::read(host.parts(host.plane.clone()), noon())
        .unwrap()
        .unwrap();
    assert_eq!(host.plane.tables().published.len(), published);
    engine.detach(&caller(noon())).unwrap();
    host.plane = MemoryPlane::new("boot:two");
    host.start(noon()).unwrap();
    assert_eq!(host.used("acme", noon()), 12);
}

#[test]
fn the_next_day_is_opened_before_it_begins() {
    let mut host = Host::new("");
    host.add("acme");
    host.engine().tick(at("2026-11-24T23:59:30Z"));
    host.plane = MemoryPlane::new("two");
    let tomorrow = at("2026-11-25T00:00:00Z");
    host.start(tomorrow).unwrap();
    assert_eq!(host.used("acme", tomorrow), 1000);
}

#[test]
fn an_allowance_is_never_more_than_the_quota_and_follows_it() {
    let mut host = Host::new("[tiers.master]\ndaily_quota = 60\n");
    let id = host.add("acme");
    host.plane.admit(id, TODAY, 55);
    host.engine().tick(noon());
    assert_eq!(host.plane.allowed(id), DayCount::new(TODAY, 60));
    assert_eq!(host.plane.tables().limits[&id].ahead, 10);
    host.configure("[tiers.master]\ndaily_quota = 600\n");
    host.engine().reload(&caller(noon())).unwrap();
    assert_eq!(host.plane.tables().limits[&id].ahead, 60);
    // The tick extends the allowance before the next request arrives, because the kernel would make
    // that request wait.
    host.engine().tick(noon());
    assert_eq!(host.plane.allowed(id), DayCount::new(TODAY, 115));
}

#[test]
fn midnight_closes_the_count_of_the_day() {
    let mut host = Host::new("");
    let id = host.add("acme");
    host.plane.admit(id, TODAY, 7);
    host.engine().tick(at("2026-11-24T23:59:59Z"));
    // Two more requests come before midnight and three after it, all before the next reading.
    host.plane.admit(id, TODAY, 2);
    host.plane.admit(id, TOMORROW, 3);
    let after = at("2026-11-25T00:00:01Z");
    host.engine().tick(after);
    assert_eq!(host.used("acme", after), 3);
    let date = "2026-11-24".parse().unwrap();
    let old = host
        .engine()
        .usage_of(&name("acme"), Some(date), after)
        .unwrap();
    assert_eq!((old.used, old.in_flight), (9, None));
    assert_eq!(old.resets_at, at("2026-11-25T00:00:00Z"));
    // The daemon was not running over midnight, and no request has come since.
    host.start(at("2026-11-26T08:00:00Z")).unwrap();
    assert_eq!(host.used("acme", at("2026-11-26T08:00:00Z")), 0);
    let date = "2026-11-25".parse().unwrap();
    let old = host
        .engine()
        .usage_of(&name("acme"), Some(date), at("2026-11-26T08:00:00Z"))
        .unwrap();
    assert_eq!(old.used, 3);
    let future = "2026-11-27".parse().unwrap();
    assert!(
        host.engine()
            .usage(Some(future), at("2026-11-26T08:00:00Z"))
            .is_err()
    );
}

#[test]
fn a_reset_survives_a_restart() {
    let mut host = Host::new("");
    let id = host.add("acme");
    host.plane.admit(id, TODAY, 7);
    let usage = host
        .engine()
        .reset(&name("acme"), "sorry", &caller(noon()))
        .unwrap();
    assert_eq!((usage.used, usage.remaining), (0, Some(10_000)));
    host.plane.admit(id, TODAY, 1);
    host.start(noon()).unwrap();
    assert_eq!(host.used("acme", noon()), 1);
    host.stop(noon());
    host.plane = MemoryPlane::new("boot:two");
    host.start(noon()).unwrap();
    assert_eq!(host.used("acme", noon()), 1);
}

#[test]
fn a_scope_that_is_removed_and_recreated_keeps_its_usage_of_the_day() {
    let mut host = Host::new("");
    let id = host.add("acme");
    host.plane.admit(id, TODAY, 7);
    host.engine()
        .remove_scope(&name("acme"), false, &caller(noon()))
        .unwrap();
    assert_eq!(host.plane.tables().limits[&id].flags, 0);
    // The new scope gets another id, because flows may still have the old one.
    let again = host.add("acme");
    assert_ne!(again, id);
    assert_eq!(host.used("acme", noon()), 7);
    host.start(noon()).unwrap();
    assert_eq!(host.used("acme", noon()), 7);
}

#[test]
fn limits_are_in_force_since_the_maps_were_made() {
    let mut host = Host::new("");
    let later = at("2026-11-25T10:00:00Z");
    host.start(later).unwrap();
    let status = host.engine().status().unwrap();
    assert_eq!((status.since, status.started_at), (noon(), later));
    host.plane = MemoryPlane::new("two");
    host.start(later).unwrap();
    assert_eq!(host.engine().status().unwrap().since, later);
}

#[test]
fn midnight_writes_nothing_for_unused_scopes() {
    let mut host = Host::new("");
    let busy = host.add("busy");
    host.add("idle");
    host.plane.admit(busy, TODAY, 1);
    host.engine().tick(noon());
    let after = at("2026-11-25T00:00:01Z");
    host.engine().tick(after);
    let mut names = |day| -> Vec<String> {
        let usage = host.engine().store.usage_on(day).unwrap();
        usage.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(TODAY), ["busy"]);
    assert!(names(TOMORROW).is_empty());
    assert_eq!(host.used("idle", after), 0);
}

#[test]
fn only_writes_keep_the_store_attended() {
    let mut host = Host::new("");
    let id = host.add("acme");
    let engine = host.engine();
    let asked = |engine: &Engine| engine.clock.words().attended_until_ns() > 0;
    engine.tick(noon());
    // The store will soon be unattended.
    let soon = boot_ns() + 4_000_000_000;
    engine.clock.words().set_attended_until_ns(soon);
    // The time is not extended, because the scope has no counts to write and the id 999 belongs to
    // no scope.
    engine.extend(&[id, 999].into(), noon()).unwrap();
    assert_eq!(engine.clock.words().attended_until_ns(), soon);
    host.plane.admit(id, TODAY, 1);
    let engine = host.engine();
    engine.extend(&[id].into(), noon()).unwrap();
    assert!(engine.clock.words().attended_until_ns() > soon);
    // Once the store is unattended, only a round that writes all counts makes it attended again.
    // Neither writing the counts of one scope nor a flush for an operator's command is enough.
    engine.clock.words().leave();
    host.plane.admit(id, TODAY, 1);
    let engine = host.engine();
    engine.extend(&[id].into(), noon()).unwrap();
    engine.flush(noon()).unwrap();
    assert!(!asked(engine));
    engine.tick(noon());
    assert!(asked(engine));
}

#[test]
fn when_the_store_works_again_requests_admitted_meanwhile_are_written() {
    /// A clock map in which each publication of the clock makes the kernel admit three requests
    /// first.
    struct AdmittingClock(MemoryPlane, u32, Clock);

    impl PublishClock for AdmittingClock {
        fn published(&self) -> Result<Clock, KernelError> {
            Ok(self.2)
        }

        fn publish(&mut self, clock: Clock) -> Result<(), KernelError> {
            self.0.admit(self.1, TODAY, 3);
            self.2 = clock;
            Ok(())
        }
    }

    let mut host = Host::new("");
    let id = host.add("acme");
    let late = AdmittingClock(host.plane.clone(), id, Clock::default());
    let engine = host.engine();
    let words = engine.clock.words().clone();
    let clock = ClockPublisher::new(Box::new(late), words);
    assert!(!clock.is_attended());
    engine.round(noon(), &clock);
    assert!(clock.is_attended());
    let written = engine.store.usage_of("acme", TODAY).unwrap();
    assert_eq!(written.map(|usage| usage.used), Some(3));
    // The published clock is already attended, so the next round does not publish it. The kernel
    // therefore admits no further requests.
    engine.round(noon(), &clock);
    assert_eq!(host.plane.state(id).day_count, DayCount::new(TODAY, 3).0);
}

#[test]
fn a_scope_whose_removal_fails_is_unchanged() {
    let mut host = Host::new("");
    let id = host.add("acme");
    let before = host.plane.tables().limits[&id];
    host.plane.admit(id, TODAY, 7);
    host.engine().store.refuse_changes();
    let removed = host
        .engine()
        .remove_scope(&name("acme"), false, &caller(noon()));
    assert!(removed.is_err());
    assert_eq!(host.plane.tables().limits[&id], before);
    assert_eq!(host.used("acme", noon()), 7);
}
