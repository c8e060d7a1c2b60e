// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of imports of key files, and of a start with many keys.

use limiter_common::{
    abi::{KEY_ADOPTED, KeyEntry, LIMITS_IN_USE},
    siphash::siphash128,
};

use super::{
    host::{Host, TODAY, at, caller, name, noon},
    plane::MemoryPlane,
    testing,
};
use crate::{
    domain::key_state::KeyState,
    engine::{
        keys::{csv_import, import::ImportPermit},
        shared::Shared,
    },
    kernel::Plane as _,
    protocol::{
        error::Kind,
        views::{ImportPhase, ImportView},
    },
    store::AuditFilter,
};

/// Returns a file with `keys` keys, ten for each scope.
fn file(keys: usize) -> String {
    (0..keys).fold("scope,key\n".to_owned(), |text, key| {
        text + &format!("a/{},key-{key}\n", key / 10)
    })
}

fn digest(host: &mut Host, key: &str) -> [u64; 2] {
    siphash128(*host.engine().secret(), key.as_bytes())
}

/// Asserts that the store, the kernel and memory have exactly `keys` keys and `scopes` scopes, both
/// now and after the daemon has been started again.
fn assert_holds(host: &mut Host, keys: usize, scopes: usize) {
    assert_eq!(host.plane.tables().keys.len(), keys);
    let limits = host.plane.tables().limits.clone();
    let in_use = limits
        .values()
        .filter(|limits| limits.flags & LIMITS_IN_USE != 0);
    assert_eq!(in_use.count(), scopes);
    assert_eq!(host.engine().list_scopes().len(), scopes);
    assert_eq!(host.engine().list_keys(None).unwrap().len(), keys);
    host.start(noon()).unwrap();
    assert_eq!(host.plane.tables().keys.len(), keys);
    assert_eq!(host.engine().list_scopes().len(), scopes);
}

#[test]
fn problems_of_all_lines_are_reported_and_nothing_is_imported() {
    let mut host = Host::new("");
    host.add("acme");
    host.import("scope,key\nacme,old-1\nacme,old-2\n").unwrap();
    let text = "scope,key,tier\n\
                new,old-1,\n\
                new,fresh,\n\
                new,fresh,\n\
                acme,other,gold\n\
                b,another,gold\n\
                b,old-2,\n\
                not a scope,last,\n";
    let error = host.import(text).unwrap_err();
    let lines: Vec<&str> = error.message.lines().collect();
    for (line, wanted) in lines.iter().zip([
        "line 2: this key is registered already, as k_",
        "line 4: the same key as on line 3",
        "line 5: the scope acme has tier master, not gold",
        "line 6: there is no tier `gold`",
        "line 7: this key is registered already, as k_",
        "line 8: the scope is not a valid scope",
    ]) {
        assert!(line.starts_with(wanted), "{line} is not {wanted}");
    }
    assert_eq!((lines.len(), error.kind), (6, Kind::Conflict), "{error}");
    assert_holds(&mut host, 2, 1);
}

#[test]
fn only_some_keys_of_other_scopes_are_listed() {
    let mut host = Host::new("");
    host.import(&file(200)).unwrap();
    let error = host.import(&file(200).replace("a/", "b/")).unwrap_err();
    assert_eq!(error.message.lines().count(), 21, "{error}");
    assert!(error.message.ends_with("\nand 180 more"), "{error}");
    assert!(!error.message.contains("key-"), "{error}");
    assert_holds(&mut host, 200, 20);
}

#[test]
fn a_file_that_was_imported_before_changes_nothing() {
    let mut host = Host::new("");
    host.import(&file(20)).unwrap();
    let disabled = host.engine().list_keys(None).unwrap()[3].clone();
    let by = caller(noon());
    let set = |host: &mut Host, state| host.engine().set_key_state(&disabled.id, state, &by);
    set(&mut host, KeyState::Disabled).unwrap();
    let before = host.plane.tables().keys.clone();
    let entries = |host: &mut Host| {
        let all = AuditFilter {
            object: None,
            since: None,
            limit: 100,
        };
        host.engine().audit_trail(&all).unwrap().len()
    };
    let trail = entries(&mut host);
    let again = host.import(&file(20)).unwrap();
    assert_eq!((again.keys, again.scopes, again.already_there), (0, 0, 20));
    assert_eq!(host.plane.tables().keys, before);
    assert_eq!(entries(&mut host), trail, "nothing was changed");

    let more = host.import(&format!("{}b/new,one\n", file(20))).unwrap();
    assert_eq!((more.keys, more.scopes, more.already_there), (1, 1, 20));
    let keys = host.engine().list_keys(None).unwrap();
    let state = keys.iter().find(|key| key.id == disabled.id).unwrap().state;
    assert_eq!(state, KeyState::Disabled);
    assert_holds(&mut host, 21, 3);

    set(&mut host, KeyState::Revoked).unwrap();
    let error = host.import(&file(20)).unwrap_err();
    let words = format!("as {} of {}: a revoked key", disabled.id, disabled.scope);
    assert!(error.message.contains(&words), "{error}");
    assert_eq!(error.message.lines().count(), 1, "{error}");
}

#[test]
fn scopes_that_differ_only_in_letter_case_are_reported() {
    let mut host = Host::new("");
    host.add("acme");
    let imported = host
        .import("scope,key\nACME,a\nbeta/x,b\nBeta/x,c\nacme,d\n")
        .unwrap();
    assert_eq!(imported.keys, 4);
    let [first, second] = &imported.warnings[..] else {
        panic!("{:?}", imported.warnings);
    };
    assert!(first.contains("ACME differs from acme only"), "{first}");
    assert!(
        second.contains("Beta/x differs from beta/x only"),
        "{second}"
    );
    let many: String = (0..30)
        .map(|n| format!("P{n},k{n}a\np{n},k{n}b\n"))
        .collect();
    let imported = host.import(&format!("scope,key\n{many}")).unwrap();
    assert_eq!(imported.warnings.len(), 21);
    assert_eq!(imported.warnings[20], "and 10 more scopes like these");
}

#[test]
fn keys_that_the_kernel_rejects_are_not_stored() {
    let mut host = Host::new("[policy]\nunknown_key = \"tier:profile\"\n");
    host.import("scope,key\na/0,first\n").unwrap();
    let (known, adopted) = (
        digest(&mut host, "key-3"),
        KeyEntry {
            scope: 131_072,
            flags: KEY_ADOPTED,
            last_used_ns: 7,
        },
    );
    host.plane.tables().keys.insert(known, adopted);
    host.plane.tables().key_capacity = Some(50);
    let error = host.import(&file(100)).unwrap_err();
    assert!(error.message.contains("table of keys is full"), "{error}");
    assert_eq!(host.plane.tables().keys.get(&known), Some(&adopted));
    host.plane.tables().keys.remove(&known);
    assert_holds(&mut host, 1, 1);
    host.plane.tables().key_capacity = None;
    host.import(&file(100)).unwrap();
    assert_holds(&mut host, 101, 10);
}

#[test]
fn a_key_that_the_kernel_knew_keeps_when_it_was_last_used() {
    let mut host = Host::new("[policy]\nunknown_key = \"tier:profile\"\n");
    let known = digest(&mut host, "key-3");
    let adopted = KeyEntry {
        scope: 131_072,
        flags: KEY_ADOPTED,
        last_used_ns: 7,
    };
    host.plane.tables().keys.insert(known, adopted);
    host.import(&file(10)).unwrap();
    let entry = host.plane.tables().keys[&known];
    assert_eq!((entry.scope, entry.flags, entry.last_used_ns), (0, 0, 7));
}

#[test]
fn scopes_of_a_file_get_all_free_ids_there_are() {
    let mut host = Host::new("[tables]\nscopes = 64\n");
    let ids: Vec<u32> = (0..60)
        .map(|number| host.add(&format!("s{number}")))
        .collect();
    for id in [3, 4, 5] {
        let scope = name(&format!("s{id}"));
        host.engine()
            .remove_scope(&scope, false, &caller(noon()))
            .unwrap();
    }
    host.plane.tables().state.entry(4).or_default().in_flight = 1;
    let many = file(70);
    let error = host.import(&many).unwrap_err();
    assert!(error.message.contains("tables.scopes"), "{error}");
    host.import(&file(60)).unwrap();
    let new = (0..6).map(|number| {
        host.engine()
            .scopes
            .find(&name(&format!("a/{number}")))
            .unwrap()
            .record
            .id
    });
    assert_eq!(new.collect::<Vec<u32>>(), [60, 61, 62, 63, 3, 5]);
    assert_eq!(ids.len() + 3, host.engine().list_scopes().len());
}

#[test]
fn a_scope_that_an_import_recreates_keeps_its_usage() {
    let mut host = Host::new("");
    let id = host.add("a/0");
    host.plane.admit(id, TODAY, 9);
    host.engine()
        .remove_scope(&name("a/0"), false, &caller(noon()))
        .unwrap();
    host.import(&file(20)).unwrap();
    assert_eq!(host.used("a/0", noon()), 9);
    // The scopes of the file have not been used, so the daemon has nothing to write for them.
    let plane = host.plane.clone();
    let scopes = host.engine().scopes.iter_mut();
    let looks: Vec<bool> = scopes
        .map(|scope| {
            let state = plane.state(scope.record.id);
            scope.counts.read(&state, TODAY).changed
        })
        .collect();
    assert_eq!(looks, [false, false]);
}

#[test]
fn a_start_writes_only_the_keys_that_differ() {
    let mut host = Host::new("");
    host.import(&file(100)).unwrap();
    let writes = |host: &Host| std::mem::take(&mut host.plane.tables().key_writes);
    assert_eq!(writes(&host), 100);
    host.start(noon()).unwrap();
    assert_eq!(writes(&host), 0);
    let lost = digest(&mut host, "key-42");
    host.plane.tables().keys.remove(&lost);
    host.start(noon()).unwrap();
    assert_eq!(writes(&host), 1);
    host.plane = MemoryPlane::new("two");
    host.start(noon()).unwrap();
    assert_eq!(writes(&host), 100);
}

#[test]
fn the_store_keeps_when_keys_were_last_used() {
    let mut host = Host::new("");
    host.import(&file(2)).unwrap();
    let used = digest(&mut host, "key-1");
    let set = |host: &Host, ns| {
        let mut tables = host.plane.tables();
        tables.keys.get_mut(&used).unwrap().last_used_ns = ns;
    };
    let known = |host: &mut Host| {
        set(host, 0);
        let keys = host.engine().list_keys(None).unwrap();
        keys.iter()
            .filter_map(|key| key.last_used_at)
            .collect::<Vec<_>>()
    };
    set(&host, 5_000_000_000);
    host.engine().save_last_used().unwrap();
    assert_eq!(known(&mut host), [at("1970-01-01T00:00:05Z")]);
    set(&host, 4_000_000_000);
    host.engine().save_last_used().unwrap();
    assert_eq!(known(&mut host), [at("1970-01-01T00:00:05Z")]);
}

#[test]
fn one_file_is_imported_at_a_time_and_its_progress_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let shared = Shared::new(testing::engine(directory.path()));
    assert_eq!(shared.import_view(), None);
    let steps = std::cell::RefCell::new(Vec::new());
    let secret = shared.engine().secret();
    let progress = |phase, done, total| {
        let mut steps = steps.borrow_mut();
        if steps.last().is_none_or(|(last, _, _)| *last != phase) {
            steps.push((phase, done, total));
        }
    };
    let text = file(100);
    let key_file = csv_import::read(text.as_bytes(), *secret, &|_, _, _| ()).unwrap();
    shared
        .engine()
        .import(key_file, &caller(noon()), &progress)
        .unwrap();
    assert_eq!(
        steps.into_inner(),
        [
            (ImportPhase::Storing, 0, 100),
            (ImportPhase::Entering, 0, 100),
            (ImportPhase::Committing, 0, 0)
        ]
    );
    let turn = ImportPermit::take(&shared).unwrap();
    assert_eq!(shared.import_view(), Some(ImportView::default()));
    let error = shared
        .import_csv(text.as_bytes(), &caller(noon()))
        .unwrap_err();
    assert_eq!(error.kind, Kind::Conflict, "{error}");
    assert!(shared.import_view().is_some(), "the first goes on");
    drop(turn);
    let error = shared.import_csv(b"scope\n", &caller(noon())).unwrap_err();
    assert_eq!(error.kind, Kind::InvalidKey, "{error}");
    assert_eq!(shared.import_view(), None, "one that failed is over");
}
