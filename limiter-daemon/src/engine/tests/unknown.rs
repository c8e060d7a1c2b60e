// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of scopes that the kernel creates for unknown keys.

use limiter_common::{
    abi::{Digest, KEY_ADOPTED, KeyEntry},
    day::{Day, DayCount},
};

use super::{
    figures::figures,
    host::{Host, TODAY, TOMORROW, at, caller, name, noon},
    plane::MemoryPlane,
};
use crate::{
    domain::limits::Changes,
    kernel::Plane as _,
    protocol::{requests::ImportKey, views::UsageView},
};

const CONFIG: &str = "[policy]\nunknown_key = \"tier:profile\"\n[tables]\nunknown_keys = 64\n";

/// The digest of an unknown key. [`SCOPE`] is the name of its scope.
const KEY: Digest = [0xabcd, 1];
const SCOPE: &str = "unknown/000000000000abcd";

fn morning() -> chrono::DateTime<chrono::Utc> {
    at("2026-11-25T00:00:01Z")
}

/// Makes the kernel create a scope for the unknown key `key` and admit `requests` requests with
/// this key on `day`. Returns the id of the scope.
fn create_unknown_scope(host: &Host, key: Digest, day: Day, requests: u64) -> u32 {
    let id = {
        let mut tables = host.plane.tables();
        let id = tables.unused.pop().unwrap();
        let config = tables.config.unwrap();
        tables.limits.insert(id, config.adopt_limits);
        tables.state.entry(id).or_default().day_count = config.adopt_count;
        let entry = KeyEntry {
            scope: id,
            flags: KEY_ADOPTED,
            last_used_ns: 1,
        };
        tables.keys.insert(key, entry);
        id
    };
    if requests > 0 {
        host.plane.admit(id, day, requests);
    }
    id
}

/// Does the same as [`create_unknown_scope`], and then reports the scope to the daemon.
fn adopt(host: &mut Host, key: Digest, requests: u64) -> u32 {
    let id = create_unknown_scope(host, key, TODAY, requests);
    host.engine().note_adopted(&[(key, id)], noon()).unwrap();
    id
}

fn usage(host: &mut Host, scope: &str) -> UsageView {
    let usage = host.engine().usage_of(&name(scope), None, noon());
    usage.unwrap()
}

fn unused(host: &Host) -> usize {
    host.plane.tables().unused.len()
}

fn entry(host: &Host) -> Option<u32> {
    let entry = host.plane.tables().keys.get(&KEY).copied();
    entry.map(|entry| entry.scope)
}

#[test]
fn unknown_keys_get_scopes_like_registered_ones() {
    let mut host = Host::new(CONFIG);
    assert_eq!(unused(&host), 64);
    let id = adopt(&mut host, KEY, 3);
    let of = usage(&mut host, SCOPE);
    assert_eq!(
        (of.tier.as_deref(), of.used, of.remaining),
        (Some("profile"), 3, Some(997))
    );
    assert_eq!(host.plane.allowed(id), DayCount::new(TODAY, 103));
    host.plane.admit(id, TODAY, 5);
    host.engine().tick(noon());
    assert_eq!(usage(&mut host, SCOPE).used, 8);
    let shown = host.engine().show_scope(&name(SCOPE)).unwrap();
    assert!(shown.scope.unknown_key && shown.keys.is_empty());
    let status = host.engine().status().unwrap();
    assert_eq!((status.scopes, status.unknown_scopes), (0, 1));
    // Changed limits of the tier apply to scopes of unknown keys too.
    host.configure(&format!("{CONFIG}[tiers.profile]\ndaily_quota = 50\n"));
    host.engine().reload(&caller(noon())).unwrap();
    assert_eq!(host.plane.tables().limits[&id].daily_quota, 50);
}

#[test]
fn counts_of_unknown_keys_survive_the_daemon_and_the_host() {
    let mut host = Host::new(CONFIG);
    let id = adopt(&mut host, KEY, 3);
    // While no daemon runs, more requests come, and the kernel creates a scope for another key.
    host.plane.admit(id, TODAY, 4);
    create_unknown_scope(&host, [0xef, 2], TODAY, 2);
    host.start(noon()).unwrap();
    assert_eq!(usage(&mut host, SCOPE).used, 7);
    assert_eq!(usage(&mut host, "unknown/00000000000000ef").used, 2);
    assert_eq!(unused(&host), 62);
    // The maps are lost after a proper stop.
    host.stop(noon());
    host.plane = MemoryPlane::new("boot:two");
    host.start(noon()).unwrap();
    assert_eq!(entry(&host), Some(id));
    assert_eq!(DayCount(host.plane.state(id).day_count).count(), 7);
    assert_eq!((usage(&mut host, SCOPE).used, unused(&host)), (7, 62));
}

#[test]
fn after_a_crash_new_unknown_keys_begin_with_the_requests_that_may_have_been_used() {
    let mut host = Host::new(CONFIG);
    adopt(&mut host, KEY, 3);
    for (boot, begin) in [("two", 100), ("three", 200)] {
        // In the lost maps, the kernel may have admitted requests with a key that the store does
        // not know, up to the number that it admits without asking the daemon.
        host.plane = MemoryPlane::new(boot);
        host.start(noon()).unwrap();
        let config = host.plane.tables().config.unwrap();
        assert_eq!(DayCount(config.adopt_count), DayCount::new(TODAY, begin));
        let allowed = DayCount(config.adopt_limits.allowed);
        assert_eq!(allowed, DayCount::new(TODAY, begin + 100));
    }
    // At each loss of the maps, the scope that the store knows was charged its own allowance.
    let of = usage(&mut host, SCOPE);
    assert_eq!((of.used, of.lost), (203, 200));
    adopt(&mut host, [5, 5], 1);
    let of = usage(&mut host, "unknown/0000000000000005");
    assert_eq!((of.used, of.lost), (201, 200));
    // On the next day, the count of a new scope begins at zero.
    host.stop(noon());
    host.start(morning()).unwrap();
    let id = create_unknown_scope(&host, [6, 6], TOMORROW, 1);
    assert_eq!(DayCount(host.plane.state(id).day_count).count(), 1);
}

#[test]
fn an_idle_unknown_key_is_forgotten_after_its_day() {
    let mut host = Host::new(CONFIG);
    let idle = adopt(&mut host, KEY, 3);
    let busy: Vec<u32> = (1..=4).map(|n| adopt(&mut host, [n, n], 1)).collect();
    // All requests with this key were refused.
    adopt(&mut host, [9, 9], 0);
    for _ in 0..2 {
        host.engine().tick(noon());
    }
    let on_its_day = (entry(&host), unused(&host));
    assert_eq!(on_its_day, (Some(idle), 58));
    host.plane.admit(busy[0], TOMORROW, 1);
    {
        let mut tables = host.plane.tables();
        tables.state.get_mut(&busy[1]).unwrap().in_flight = 1;
        tables.state.get_mut(&busy[2]).unwrap().connections = 1;
        tables.state.get_mut(&busy[3]).unwrap().tat_ns = u64::MAX;
    }
    host.engine().tick(morning());
    assert_eq!((entry(&host), unused(&host)), (None, 58), "on its way");
    host.engine().tick(morning());
    assert_eq!(unused(&host), 60);
    assert!(host.plane.tables().unused.contains(&idle));
    let status = host.engine().status().unwrap();
    assert_eq!(status.unknown_scopes, 4);
    // The usage of the forgotten scope stays in the store.
    let date = "2026-11-24".parse().unwrap();
    let of = host.engine().usage_of(&name(SCOPE), Some(date), morning());
    let of = of.unwrap();
    assert_eq!((of.used, of.removed), (3, true));
}

#[test]
fn an_unknown_key_that_returns_while_it_is_forgotten_keeps_its_count() {
    let mut host = Host::new(CONFIG);
    let old = adopt(&mut host, KEY, 3);
    host.engine().tick(noon());
    host.engine().tick(morning());
    assert_eq!(entry(&host), None);
    // The program for one packet had read the key's entry before the entry was removed, and charges
    // the packet's request afterwards. The next packet makes the kernel adopt the key again, with a
    // new id.
    host.plane.admit(old, TOMORROW, 1);
    let new = create_unknown_scope(&host, KEY, TOMORROW, 4);
    host.engine().tick(morning());
    host.engine()
        .note_adopted(&[(KEY, new)], morning())
        .unwrap();
    assert_eq!(host.used(SCOPE, morning()), 5);
    assert_eq!(DayCount(host.plane.state(new).day_count).count(), 5);
    for _ in 0..3 {
        host.engine().tick(morning());
    }
    assert_eq!((entry(&host), unused(&host)), (Some(new), 63));
    // If only such a late request is charged and the kernel does not adopt the key again, the key
    // keeps its scope.
    host.plane.admit(new, TOMORROW, 0);
    let night = at("2026-11-26T00:00:01Z");
    host.engine().tick(night);
    assert_eq!(entry(&host), None);
    host.plane.admit(new, Day(TOMORROW.0 + 1), 1);
    host.engine().tick(night);
    assert_eq!((entry(&host), host.used(SCOPE, night)), (Some(new), 1));
}

#[test]
fn an_unknown_key_that_returns_without_a_daemon_keeps_its_count() {
    let mut host = Host::new(CONFIG);
    let old = adopt(&mut host, KEY, 3);
    host.engine().tick(noon());
    host.engine().tick(morning());
    host.plane.admit(old, TOMORROW, 1);
    let new = create_unknown_scope(&host, KEY, TOMORROW, 4);
    host.start(morning()).unwrap();
    assert_eq!(entry(&host), Some(new));
    assert_eq!(host.used(SCOPE, morning()), 5);
    host.engine().tick(morning());
    assert_eq!(unused(&host), 63);
}

#[test]
fn unreported_scopes_of_unknown_keys_are_found() {
    let mut host = Host::new(CONFIG);
    create_unknown_scope(&host, KEY, TODAY, 3);
    // Two packets with a new key arrived at once and took two ids. `lost` is the id that the scope
    // did not get.
    let lost = host.plane.tables().unused.pop().unwrap();
    host.engine().tick(noon());
    assert!(
        host.engine().list_scopes().is_empty(),
        "it may be under way"
    );
    host.engine().tick(noon());
    assert_eq!(usage(&mut host, SCOPE).used, 3);
    assert_eq!(unused(&host), 63);
    assert!(host.plane.tables().unused.contains(&lost));
}

#[test]
fn a_registered_key_leaves_its_unknown_scope() {
    let mut host = Host::new(CONFIG);
    host.add("acme");
    let request = ImportKey {
        scope: name("acme"),
        label: None,
        key: "a-key-that-was-unknown".to_owned(),
        note: None,
    };
    host.engine().import_key(request, &caller(noon())).unwrap();
    let key = *host.plane.tables().keys.keys().next().unwrap();
    let id = host.plane.tables().keys.remove(&key).unwrap().scope;
    // In the second part of the test, the kernel adopts the key before the key is registered.
    let unknown = adopt(&mut host, key, 2);
    let entry = KeyEntry {
        scope: id,
        ..KeyEntry::default()
    };
    host.plane.tables().keys.insert(key, entry);
    host.start(noon()).unwrap();
    assert_eq!(host.engine().status().unwrap().unknown_scopes, 0);
    assert_eq!(host.plane.tables().keys[&key].scope, id);
    host.engine().tick(noon());
    assert_eq!(unused(&host), 64);
    assert!(host.plane.tables().unused.contains(&unknown));
}

#[test]
fn operators_cannot_change_scopes_of_unknown_keys() {
    let mut host = Host::new(CONFIG);
    adopt(&mut host, KEY, 1);
    let engine = host.engine();
    let scope = name(SCOPE);
    let errors = [
        engine
            .remove_scope(&scope, true, &caller(noon()))
            .unwrap_err(),
        engine
            .set_limits(
                &scope,
                crate::protocol::requests::SetLimits {
                    limits: Changes {
                        burst: Some(2),
                        ..Changes::default()
                    },
                    until: None,
                    note: "x".to_owned(),
                },
                &caller(noon()),
            )
            .unwrap_err(),
        host.import(&format!("scope,key\n{SCOPE},another\n"))
            .unwrap_err(),
    ];
    for error in errors {
        assert!(error.message.contains("key"), "{error}");
    }
    assert_eq!(host.used(SCOPE, noon()), 1);
}

#[test]
fn a_policy_without_scopes_for_unknown_keys_forgets_them_but_not_their_usage() {
    let mut host = Host::new(CONFIG);
    adopt(&mut host, KEY, 3);
    host.configure("[tables]\nunknown_keys = 64\n");
    host.engine().reload(&caller(noon())).unwrap();
    assert_eq!(entry(&host), None);
    assert!(host.engine().list_scopes().is_empty());
    host.configure(CONFIG);
    host.engine().reload(&caller(noon())).unwrap();
    adopt(&mut host, KEY, 2);
    assert_eq!(usage(&mut host, SCOPE).used, 5);
    // A start with this configuration forgets the scopes in the same way.
    host.configure("[tables]\nunknown_keys = 64\n");
    host.start(noon()).unwrap();
    assert_eq!(entry(&host), None);
    host.configure(CONFIG);
    host.start(noon()).unwrap();
    let id = adopt(&mut host, KEY, 1);
    assert_eq!(DayCount(host.plane.state(id).day_count).count(), 6);
}

#[test]
fn ids_of_stored_scopes_are_not_offered_to_unknown_keys() {
    let mut host = Host::new(CONFIG);
    let id = host.add("acme");
    host.plane.add_unused(&[id]);
    host.start(noon()).unwrap();
    assert_eq!(unused(&host), 64);
    assert!(!host.plane.tables().unused.contains(&id));
    // New scopes do not get the ids for unknown keys.
    host.configure(&format!("{CONFIG}scopes = 128\n"));
    host.start(noon()).unwrap();
    let new = host.add("b");
    assert!(!host.plane.tables().unused.contains(&new));
}

#[test]
fn unreported_scopes_of_unknown_keys_are_stored_at_a_detach() {
    let mut host = Host::new(CONFIG);
    create_unknown_scope(&host, KEY, TODAY, 3);
    host.engine().detach(&caller(noon())).unwrap();
    host.plane = MemoryPlane::new("boot:two");
    host.start(noon()).unwrap();
    let id = adopt(&mut host, KEY, 1);
    assert_eq!(usage(&mut host, SCOPE).used, 4);
    assert_eq!(DayCount(host.plane.state(id).day_count).count(), 4);
}

#[test]
fn scopes_of_unknown_keys_that_cannot_be_stored_are_stored_later() {
    let mut host = Host::new(CONFIG);
    let id = create_unknown_scope(&host, KEY, TODAY, 3);
    host.plane.tables().key_scans = 0;
    let file = host.directory.path().join("limiter.db");
    let other = rusqlite::Connection::open(file).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON scopes BEGIN SELECT RAISE(ABORT, 'full'); END";
    other.execute_batch(full).unwrap();
    let adopted = [(KEY, id)];
    host.engine().note_adopted(&adopted, noon()).unwrap_err();
    for _ in 0..4 {
        host.engine().tick(noon());
    }
    // The rounds must not read all keys again, since there may be a million keys.
    assert_eq!(host.plane.tables().key_scans, 0);
    assert!(host.engine().list_scopes().is_empty());
    other.execute_batch("DROP TRIGGER full").unwrap();
    host.engine().tick(noon());
    assert_eq!(usage(&mut host, SCOPE).used, 3);
    assert_eq!(unused(&host), 63);
}

#[test]
fn unknown_keys_count_for_their_tier_and_are_never_named() {
    let mut host = Host::new(&format!("{CONFIG}[tiers.guest]\n[tiers.other]\n"));
    let admitted = |host: &mut Host, tier: &str| figures(host).tiers[tier].admitted;
    adopt(&mut host, KEY, 3);
    adopt(&mut host, [0xef, 2], 4);
    let figures = figures(&mut host);
    assert_eq!(figures.tiers["profile"].admitted, 7);
    assert_eq!(figures.unknown_keys, 2);
    assert!(figures.most_used.is_empty() && figures.nearest_quota.is_empty());
    // The scopes move to another tier, and their past requests stay in the sums of the old one.
    let other = |tier: &str| {
        let config = CONFIG.replace("profile", tier);
        format!("{config}[tiers.guest]\n[tiers.other]\n")
    };
    host.configure(&other("guest"));
    host.engine().reload(&caller(noon())).unwrap();
    let id = entry(&host).unwrap();
    host.plane.admit(id, TODAY, 1);
    assert_eq!(admitted(&mut host, "profile"), 7);
    assert_eq!(admitted(&mut host, "guest"), 1);
    host.start(noon()).unwrap();
    assert_eq!(admitted(&mut host, "profile"), 7);
    assert_eq!(admitted(&mut host, "guest"), 1);
    // The scopes move to a third tier while no daemon runs.
    host.configure(&other("other"));
    host.start(noon()).unwrap();
    assert_eq!(admitted(&mut host, "guest"), 1);
    assert_eq!(admitted(&mut host, "other"), 0);
    // The kernel adopts one of the keys again with another id. Both scopes are then forgotten,
    // because unknown keys no longer get scopes.
    let new = create_unknown_scope(&host, KEY, TODAY, 2);
    host.engine().note_adopted(&[(KEY, new)], noon()).unwrap();
    assert_eq!(admitted(&mut host, "other"), 2);
    host.configure("[policy]\nunknown_key = \"pass\"\n[tiers.guest]\n[tiers.other]\n");
    host.engine().reload(&caller(noon())).unwrap();
    let sums = ["profile", "guest", "other"].map(|tier| admitted(&mut host, tier));
    assert_eq!(sums, [7, 1, 2]);
}
