// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands that check and list keys and change their states.

use chrono::{DateTime, Utc};
use limiter_common::abi::Digest;

use super::view::view_key;
use crate::{
    domain::{
        key::{self, RawKey},
        key_state::KeyState,
        plain::{self, MAX_LABEL},
        scope::ScopeName,
    },
    engine::{
        caller::Caller,
        publish::keys::key_entry,
        scopes::{audit::check_optional_note, overrides::whole_millis},
        state::Engine,
    },
    kernel::KernelError,
    protocol::{
        error::ApiError,
        requests::{CheckKey, RevokeKey},
        views::{KeyCheck, KeyView, rfc3339},
    },
    store::{AuditEntry, KeyFilter, KeyRecord, Store},
    suggest::did_you_mean,
};

/// The maximum number of keys among which a similar id is searched for. The limit exists because
/// other commands have to wait during the search.
const MAX_COMPARED: u64 = 10_000;

/// The maximum number of keys that are revoked in a second because their end has passed. Each of
/// them is a write to the disk, for which other commands wait. The programs refuse the others
/// meanwhile.
const MOST_ENDED: u32 = 50;

/// A state that a key is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyStateChange {
    /// The key with the new state.
    pub(crate) record: KeyRecord,
    /// The reason, for the audit trail.
    pub(crate) note: Option<String>,
}

/// The end that a key is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyEndChange {
    /// The key with the new end, or without one.
    pub(crate) record: KeyRecord,
    /// The reason, for the audit trail.
    pub(crate) note: Option<String>,
}

/// A change of a key's state or end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyChange {
    /// A change of its state.
    State(KeyStateChange),
    /// A change of its end.
    End(KeyEndChange),
}

impl Engine {
    /// Returns whether the key in `request` is well formed, its record if it is registered, and its
    /// scope if it is an unknown key with a scope.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub fn check_key(&self, request: CheckKey) -> Result<KeyCheck, ApiError> {
        let raw = RawKey::new(request.key);
        let form = key::recognize(&raw);
        let digest = self.setup.digest(&raw);
        let record = self.store.key_by_digest(digest)?;
        Ok(KeyCheck {
            well_formed: form.is_ok(),
            problem: form.as_ref().err().map(ToString::to_string),
            form: form.ok(),
            known: record.is_some(),
            unknown_scope: self.unknown.scope(&digest).cloned(),
            registered: record.map(|record| self.view_key(record)).transpose()?,
        })
    }

    /// Enters into the kernel a key that is already in the store.
    pub(super) fn enter_key(&mut self, id: &str) -> Result<(), ApiError> {
        let record = self.key_record(id)?;
        let last_used = self
            .plane
            .key(&record.digest)?
            .map_or(0, |entry| entry.last_used_ns);
        self.plane
            .set_key(&record.digest, &key_entry(&record, last_used))?;
        Ok(())
    }

    fn key_record(&self, id: &str) -> Result<KeyRecord, ApiError> {
        match self.store.key(id)? {
            Some(record) => Ok(record),
            None => Err(self.no_key(id)?),
        }
    }

    fn no_key(&self, id: &str) -> Result<ApiError, ApiError> {
        if let Ok(scope) = id.parse::<ScopeName>()
            && self.scopes.contains(&scope)
        {
            return Ok(ApiError::not_found(format!(
                "`{id}` is a scope, not a key's id: `limiter key list {id}` shows the ids of its keys"
            )));
        }
        let keys = if self.store.key_count()? <= MAX_COMPARED {
            self.store.keys(KeyFilter::All)?
        } else {
            Vec::new()
        };
        let ids = keys.iter().map(|key| key.id.as_str());
        Ok(ApiError::not_found(format!(
            "there is no key `{id}`{}: `limiter key list` shows all",
            did_you_mean(id, ids)
        )))
    }

    /// Enables, disables or revokes a key. The change applies from the next request on, including
    /// on open connections.
    ///
    /// # Errors
    /// Returns an error if there is no such key, or if the key was revoked and `state` is a
    /// different state.
    pub fn set_key_state(
        &mut self,
        id: &str,
        state: KeyState,
        caller: &Caller,
    ) -> Result<KeyView, ApiError> {
        let change = self.prepare_set_key_state(id, (state, None), caller)?;
        self.commit_set_key_state(change, caller)
    }

    /// Prepares a request to revoke a key at once or at a later time, or to remove that time.
    ///
    /// # Errors
    /// Returns an error if there is no such key, if it is revoked already and its end is to change,
    /// or if the time has passed.
    pub(crate) fn prepare_revoke_key(
        &self,
        id: &str,
        request: RevokeKey,
        caller: &Caller,
    ) -> Result<KeyChange, ApiError> {
        let RevokeKey { at, note } = request;
        let Some(end) = at else {
            let change = self.prepare_set_key_state(id, (KeyState::Revoked, note), caller)?;
            return Ok(KeyChange::State(change));
        };
        check_optional_note(note.as_deref())?;
        let until = whole_millis(end, caller.now)?.at();
        let before = self.key_record(id)?;
        if before.state == KeyState::Revoked {
            return Err(ApiError::conflict(format!(
                "the key {id} is revoked already"
            )));
        }
        let record = KeyRecord { until, ..before };
        Ok(KeyChange::End(KeyEndChange { record, note }))
    }

    /// Changes the state or the end of a key as prepared.
    ///
    /// # Errors
    /// Returns an error if the key was revoked in the meantime, or if the store or the kernel
    /// reports an error.
    pub(crate) fn commit_key_change(
        &mut self,
        change: KeyChange,
        caller: &Caller,
    ) -> Result<KeyView, ApiError> {
        match change {
            KeyChange::State(change) => self.commit_set_key_state(change, caller),
            KeyChange::End(change) => self.commit_set_key_end(change, caller),
        }
    }

    pub(crate) fn commit_set_key_end(
        &mut self,
        change: KeyEndChange,
        caller: &Caller,
    ) -> Result<KeyView, ApiError> {
        let KeyEndChange { record, note } = change;
        let KeyRecord { id, until, .. } = record;
        let before = self.key_record(&id)?;
        if before.state == KeyState::Revoked {
            return Err(ApiError::conflict(format!(
                "the key {id} is revoked already"
            )));
        }
        let at = until.as_ref().map(rfc3339);
        let end = at
            .as_ref()
            .map_or_else(|| "end removed".to_owned(), |at| format!("at {at}"));
        self.store.change(|store| {
            store.set_key_end(&id, until)?;
            let detail = format!("of {}, {end}", before.scope);
            store.audit(&AuditEntry {
                note: note.as_deref(),
                ..caller.entry("key revoke", &id, &detail)
            })
        })?;
        self.enter_key(&id)?;
        let message = match at {
            Some(at) => format!("key {id} of {} will be revoked at {at}", before.scope),
            None => format!("key {id} of {} no longer has an end", before.scope),
        };
        self.events.add_change(
            caller,
            "key revoke",
            Some(&before.scope),
            Some(&id),
            message,
        );
        self.key_view(&id)
    }

    /// Revokes the keys whose end has passed.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn end_keys(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let caller = Caller {
            who: "limiter".to_owned(),
            now,
        };
        // A host of a fleet that has not heard of the last changes may not know that an end was
        // moved. The programs refuse the key meanwhile.
        let known = match &self.fleet {
            Some(member) => member.current_at.min(now),
            None => now,
        };
        for id in self.store.ended_keys(known, MOST_ENDED)? {
            let note = Some("its end has passed".to_owned());
            let change = self.prepare_set_key_state(&id, (KeyState::Revoked, note), &caller)?;
            self.commit_set_key_state(change, &caller)?;
        }
        Ok(())
    }

    /// Prepares [`Engine::set_key_state`].
    ///
    /// # Errors
    /// Returns an error if there is no such key, or if the key was revoked and `state` is a
    /// different state.
    pub(crate) fn prepare_set_key_state(
        &self,
        id: &str,
        (state, note): (KeyState, Option<String>),
        caller: &Caller,
    ) -> Result<KeyStateChange, ApiError> {
        check_optional_note(note.as_deref())?;
        let before = self.key_for(id, state)?;
        let revoked_at = (state == KeyState::Revoked).then_some(caller.now);
        Ok(KeyStateChange {
            record: KeyRecord {
                state,
                revoked_at: before.revoked_at.or(revoked_at),
                ..before
            },
            note,
        })
    }

    /// Changes the state of a key as prepared.
    ///
    /// # Errors
    /// Returns an error if the key was revoked in the meantime and its new state is a different
    /// state, or if the store or the kernel reports an error.
    pub(crate) fn commit_set_key_state(
        &mut self,
        change: KeyStateChange,
        caller: &Caller,
    ) -> Result<KeyView, ApiError> {
        let KeyStateChange { record, note } = change;
        let KeyRecord { id, state, .. } = record;
        let before = self.key_for(&id, state)?;
        let action = match state {
            KeyState::Active => "key enable",
            KeyState::Disabled => "key disable",
            KeyState::Revoked => "key revoke",
        };
        self.store.change(|store| {
            store.set_key_state(&id, state, caller.now)?;
            let detail = format!("of {}, was {}", before.scope, before.state);
            store.audit(&AuditEntry {
                note: note.as_deref(),
                ..caller.entry(action, &id, &detail)
            })
        })?;
        self.enter_key(&id)?;
        let message = format!("key {id} of {} is {state}", before.scope);
        self.events
            .add_change(caller, action, Some(&before.scope), Some(&id), message);
        self.key_view(&id)
    }

    /// Returns the record of a key that may get the state `state`.
    ///
    /// # Errors
    /// Returns an error if there is no such key, or if the key was revoked and `state` is a
    /// different state.
    fn key_for(&self, id: &str, state: KeyState) -> Result<KeyRecord, ApiError> {
        let record = self.key_record(id)?;
        if record.state == KeyState::Revoked && state != KeyState::Revoked {
            return Err(ApiError::conflict(format!(
                "the key {id} was revoked{}, which cannot be undone: create another one",
                if record.scope_id.is_none() {
                    " with its scope"
                } else {
                    ""
                }
            )));
        }
        Ok(record)
    }

    /// Returns the keys of `scope`, or of all present scopes if `scope` is `None`.
    ///
    /// # Errors
    /// Returns an error if there is no such scope.
    pub fn list_keys(&self, scope: Option<&ScopeName>) -> Result<Vec<KeyView>, ApiError> {
        let which = match scope {
            Some(name) => KeyFilter::Scope(self.scopes.find(name)?.record.id),
            None => KeyFilter::All,
        };
        self.view_keys(which)
    }

    /// Returns the keys of the removed scopes with the name `scope`, or of all removed scopes if
    /// `scope` is `None`.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub fn list_removed_keys(&self, scope: Option<&ScopeName>) -> Result<Vec<KeyView>, ApiError> {
        self.view_keys(KeyFilter::Removed(scope))
    }

    fn view_keys(&self, which: KeyFilter<'_>) -> Result<Vec<KeyView>, ApiError> {
        self.store
            .keys(which)?
            .into_iter()
            .map(|record| self.view_key(record))
            .collect()
    }

    pub(super) fn key_view(&self, id: &str) -> Result<KeyView, ApiError> {
        self.view_key(self.key_record(id)?)
    }

    fn view_key(&self, record: KeyRecord) -> Result<KeyView, ApiError> {
        Ok(view_key(record, self.plane.as_ref(), self.clock.words())?)
    }

    /// Saves to the store the times at which keys were last used, because the kernel loses these
    /// times when the host goes down.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub fn save_last_used(&mut self) -> Result<(), ApiError> {
        let used: Vec<(Digest, DateTime<Utc>)> = self
            .plane
            .keys()?
            .into_iter()
            .filter_map(|(digest, entry)| {
                Some((digest, self.clock.words().utc(entry.last_used_ns)?))
            })
            .collect();
        self.store.change_without_sync(|store| {
            used.iter()
                .try_for_each(|(digest, at)| store.set_last_used(*digest, *at))
        })?;
        Ok(())
    }
}

/// Returns the error for a full table of keys. The message also states how many keys are revoked
/// keys of removed scopes. They stay in the table so that requests with them are refused.
pub(crate) fn keys_full(store: &Store, size: u32) -> Result<ApiError, ApiError> {
    let full = ApiError::from(KernelError::keys_full(size));
    Ok(match store.removed_key_count()? {
        0 => full,
        revoked => ApiError::failed(format!(
            "{} ({revoked} of them are revoked keys of removed scopes, which are kept)",
            full.message
        )),
    })
}

pub(crate) fn check_label(label: Option<&str>) -> Result<(), ApiError> {
    let Some(label) = label else { return Ok(()) };
    if label.len() > MAX_LABEL {
        return Err(ApiError::invalid(format!(
            "the label has {} bytes: write at most {MAX_LABEL}",
            label.len()
        )));
    }
    plain::check(label).map_err(|unseen| ApiError::invalid(format!("the label {unseen}")))
}
