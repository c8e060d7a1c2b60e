// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests that every change leaves an entry in the audit trail.

use chrono::TimeDelta;

use super::host::{Host, caller, clear, name, noon};
use crate::{
    domain::{bound::Bound, key_state::KeyState, limits::Changes},
    protocol::{
        error::Kind,
        requests::{CreateKey, End, ImportKey, ScopeMode, SetLimits, SetMode},
        views::AuditView,
    },
    store::AuditFilter,
};

fn trail(host: &mut Host) -> Vec<AuditView> {
    let all = AuditFilter {
        object: None,
        since: None,
        limit: 1000,
    };
    host.engine().audit_trail(&all).unwrap()
}

fn burst(until: Option<TimeDelta>) -> SetLimits {
    SetLimits {
        limits: Changes {
            burst: Some(5),
            daily_quota: Some(Bound::Unlimited),
            ..Changes::default()
        },
        until: until.map(|until| End::At(noon() + until)),
        note: "syncs".to_owned(),
    }
}

#[test]
fn every_change_is_on_record_with_its_reason() {
    let mut host = Host::new("");
    host.add("acme");
    let by = || caller(noon());
    let request = CreateKey {
        scope: name("acme"),
        label: None,
        until: None,
        note: None,
    };
    let made = host.engine().create_key(request, &by()).unwrap();
    let request = ImportKey {
        scope: name("acme"),
        label: None,
        key: "SECRET".to_owned(),
        note: None,
    };
    let imported = host.engine().import_key(request, &by()).unwrap();
    host.import("scope,key\nbeta,OTHER\n").unwrap();
    for state in [KeyState::Disabled, KeyState::Active, KeyState::Revoked] {
        host.engine().set_key_state(&made.id, state, &by()).unwrap();
    }
    let acme = name("acme");
    host.engine().set_limits(&acme, burst(None), &by()).unwrap();
    host.engine()
        .clear_limits(&acme, &clear("over"), &by())
        .unwrap();
    host.engine().reset(&acme, "sorry", &by()).unwrap();
    host.engine().reload(&by()).unwrap();
    host.engine().remove_scope(&acme, true, &by()).unwrap();
    host.engine().detach(&by()).unwrap();

    let entries = trail(&mut host);
    let message: Vec<_> = entries
        .iter()
        .map(|entry| {
            let note = entry.note.as_deref().unwrap_or_default();
            (entry.action.as_str(), entry.object.as_str(), note)
        })
        .collect();
    assert_eq!(
        message,
        [
            ("scope add", "acme", ""),
            ("key create", &*made.id, ""),
            ("key import", &*imported.id, ""),
            ("key import --csv", "", ""),
            ("key disable", &*made.id, ""),
            ("key enable", &*made.id, ""),
            ("key revoke", &*made.id, ""),
            ("limits set", "acme", "syncs"),
            ("limits clear", "acme", "over"),
            ("reset", "acme", "sorry"),
            ("reload", "", ""),
            ("scope remove", "acme", ""),
            ("detach", "", ""),
        ]
    );
    for entry in &entries {
        assert_eq!((entry.who.as_str(), entry.at), ("test", noon()));
        assert!(!format!("{entry:?}").contains("SECRET"), "{entry:?}");
    }
    let set = &entries[7];
    assert_eq!(set.detail, "daily_quota 10000 to unlimited; burst 1 to 5");
}

#[test]
fn a_note_is_one_line_of_text() {
    let mut host = Host::new("");
    host.add("acme");
    let acme = name("acme");
    for note in [
        "",
        " ",
        "two\nlines",
        "\u{1b}[2J",
        "a\u{202e}b",
        "\u{feff}",
        &"x".repeat(1001),
    ] {
        let by = caller(noon());
        let engine = host.engine();
        let limits = SetLimits {
            note: note.to_owned(),
            ..burst(None)
        };
        let mode = SetMode {
            mode: ScopeMode::Observe,
            note: note.to_owned(),
        };
        let errors = [
            engine.set_limits(&acme, limits, &by).unwrap_err(),
            engine.clear_limits(&acme, &clear(note), &by).unwrap_err(),
            engine.set_mode(&acme, &mode, &by).unwrap_err(),
            engine.reset(&acme, note, &by).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, Kind::Invalid, "{}", error.message);
            assert!(error.message.starts_with("the note "), "{}", error.message);
        }
    }
    assert_eq!(trail(&mut host).len(), 1);
}

#[test]
fn a_request_that_changes_nothing_leaves_no_entry() {
    let mut host = Host::new("");
    host.add("acme");
    let acme = name("acme");
    assert!(
        host.engine()
            .clear_limits(&acme, &clear("x"), &caller(noon()))
            .is_err()
    );
    assert!(
        host.engine()
            .set_key_state("k_none", KeyState::Revoked, &caller(noon()))
            .is_err()
    );
    host.engine().usage(None, noon()).unwrap();
    host.engine().tick(noon());
    assert_eq!(trail(&mut host).len(), 1);
}

#[test]
fn an_override_that_ends_by_itself_is_on_record() {
    let mut host = Host::new("");
    host.add("acme");
    host.engine()
        .set_limits(
            &name("acme"),
            burst(Some(TimeDelta::hours(1))),
            &caller(noon()),
        )
        .unwrap();
    let end = noon() + TimeDelta::hours(1);
    host.engine().tick(end);
    host.engine().tick(end);
    let entries = trail(&mut host);
    assert_eq!(entries.len(), 3, "{entries:?}");
    let last = &entries[2];
    assert_eq!(
        (last.who.as_str(), last.action.as_str(), last.at),
        ("limiter", "limits clear", end)
    );
    assert_eq!(last.note.as_deref(), Some("its end has passed"));
    assert!(last.detail.contains("burst 5 to 1"), "{last:?}");
}
