// SPDX-License-Identifier: MIT OR Apache-2.0

//! The registration of single keys, which limiter generates or an operator provides.

use super::lifecycle::{check_label, keys_full};
use crate::{
    domain::{
        key::{self, RawKey},
        key_state::KeyState,
        scope::ScopeName,
    },
    engine::{
        caller::Caller,
        scopes::{audit::check_optional_note, overrides::whole_millis},
        state::Engine,
    },
    protocol::{
        error::ApiError,
        requests::{CreateKey, End, ImportKey},
        views::{CreatedKey, KeyView, rfc3339},
    },
    store::{AuditEntry, KeyRecord, NewKey, Store},
};

/// A generated key that is to be registered.
pub(crate) struct KeyCreation {
    /// The new key.
    pub(crate) record: KeyRecord,
    /// The text of the key, which only the operator gets.
    pub(crate) raw: RawKey,
    /// The reason, for the audit trail.
    pub(crate) note: Option<String>,
}

/// A key from the operator that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyImport {
    /// The new key.
    pub(crate) record: KeyRecord,
    /// The reason, for the audit trail.
    pub(crate) note: Option<String>,
}

impl Engine {
    /// Creates a key, and returns its text, which cannot be retrieved again later.
    ///
    /// # Errors
    /// Returns an error if there is no such scope or the table of keys is full.
    pub fn create_key(
        &mut self,
        request: CreateKey,
        caller: &Caller,
    ) -> Result<CreatedKey, ApiError> {
        let creation = self.prepare_create_key(request, caller)?;
        self.commit_create_key(creation, caller)
    }

    /// Prepares [`Engine::create_key`].
    ///
    /// # Errors
    /// Returns an error if there is no such scope or the table of keys is full.
    pub(crate) fn prepare_create_key(
        &self,
        request: CreateKey,
        caller: &Caller,
    ) -> Result<KeyCreation, ApiError> {
        let raw = key::generate()?;
        let CreateKey {
            scope,
            label,
            until,
            note,
        } = request;
        check_optional_note(note.as_deref())?;
        let until = until.map(|end| whole_millis(end, caller.now)).transpose()?;
        let record = KeyRecord {
            until: until.and_then(End::at),
            ..self.new_key(scope, label, &raw, caller)?
        };
        Ok(KeyCreation { record, raw, note })
    }

    /// Registers a generated key as prepared, and returns its text.
    ///
    /// # Errors
    /// Returns an error if the key can no longer be registered, or if the store or the kernel
    /// reports an error.
    pub(crate) fn commit_create_key(
        &mut self,
        creation: KeyCreation,
        caller: &Caller,
    ) -> Result<CreatedKey, ApiError> {
        let KeyCreation { record, raw, note } = creation;
        self.register(&record, ("key create", note.as_deref()), caller)?;
        Ok(CreatedKey {
            until: record.until,
            id: record.id,
            scope: record.scope,
            label: record.label,
            key: raw.to_string(),
        })
    }

    /// Registers a key that the operator provides.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, a request cannot carry the key, the key is
    /// already registered, or the table of keys is full.
    pub fn import_key(&mut self, request: ImportKey, caller: &Caller) -> Result<KeyView, ApiError> {
        let import = self.prepare_import_key(request, caller)?;
        self.commit_import_key(import, caller)
    }

    /// Prepares [`Engine::import_key`].
    ///
    /// # Errors
    /// Returns an error if there is no such scope, a request cannot carry the key, the key is
    /// already registered, or the table of keys is full.
    pub(crate) fn prepare_import_key(
        &self,
        request: ImportKey,
        caller: &Caller,
    ) -> Result<KeyImport, ApiError> {
        let ImportKey {
            scope,
            label,
            key: raw,
            note,
        } = request;
        check_optional_note(note.as_deref())?;
        let raw = RawKey::new(raw);
        key::validate(&raw).map_err(|error| ApiError::invalid_key(error.to_string()))?;
        let record = self.new_key(scope, label, &raw, caller)?;
        Ok(KeyImport { record, note })
    }

    /// Registers a key from the operator as prepared.
    ///
    /// # Errors
    /// Returns an error if the key can no longer be registered, or if the store or the kernel
    /// reports an error.
    pub(crate) fn commit_import_key(
        &mut self,
        import: KeyImport,
        caller: &Caller,
    ) -> Result<KeyView, ApiError> {
        let KeyImport { record, note } = import;
        self.register(&record, ("key import", note.as_deref()), caller)?;
        self.key_view(&record.id)
    }

    /// Checks that a key can be registered, and returns its record.
    fn new_key(
        &self,
        scope: ScopeName,
        label: Option<String>,
        raw: &str,
        caller: &Caller,
    ) -> Result<KeyRecord, ApiError> {
        let label = some_label(label);
        check_label(label.as_deref())?;
        let scope_id = self.find_registered(&scope)?.record.id;
        self.check_room(1)?;
        let digest = self.setup.digest(raw);
        if let Some(known) = self.store.key_by_digest(digest)? {
            return Err(known.refusal().into());
        }
        Ok(KeyRecord {
            id: free_key_id(&self.store)?,
            scope,
            scope_id: Some(scope_id),
            digest,
            label,
            state: KeyState::Active,
            created_at: caller.now,
            last_used_at: None,
            until: None,
            revoked_at: None,
        })
    }

    /// Registers a key of a scope that has been removed. The key is revoked.
    ///
    /// # Errors
    /// Returns an error if the table of keys is full, or if the store or the kernel reports an
    /// error.
    pub(crate) fn register_removed(
        &mut self,
        record: &KeyRecord,
        caller: &Caller,
    ) -> Result<(), ApiError> {
        self.check_room(1)?;
        self.store.change(|store| {
            store.add_removed_key(record)?;
            let detail = format!("of {}, which was removed", record.scope);
            store.audit(&caller.entry("key revoke", &record.id, &detail))
        })?;
        self.enter_key(&record.id)?;
        self.drop_unknown(&[record.digest], caller.now)
    }

    /// Registers a key for the scope that has the name in `record` now.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, if the key is registered already, if the table
    /// of keys is full, or if the store or the kernel reports an error.
    pub(crate) fn register(
        &mut self,
        record: &KeyRecord,
        (action, note): (&'static str, Option<&str>),
        caller: &Caller,
    ) -> Result<(), ApiError> {
        let scope = &record.scope;
        let new = NewKey {
            id: record.id.clone(),
            scope_id: self.find_registered(scope)?.record.id,
            digest: record.digest,
            label: record.label.clone(),
            until: record.until,
        };
        self.check_room(1)?;
        self.store.change(|store| {
            store.add_key(&new, record.created_at)?;
            if record.state != KeyState::Active {
                store.set_key_state(&new.id, record.state, caller.now)?;
            }
            let until = record.until.as_ref().map(rfc3339);
            let until = until.map_or_else(String::new, |until| format!(", until {until}"));
            let detail = format!("of {scope}{until}");
            store.audit(&AuditEntry {
                note,
                ..caller.entry(action, &new.id, &detail)
            })
        })?;
        self.enter_key(&new.id)?;
        self.drop_unknown(&[new.digest], caller.now)?;
        let message = format!("key {} of {scope} registered", new.id);
        self.events
            .add_change(caller, action, Some(scope), Some(&new.id), message);
        Ok(())
    }

    fn check_room(&self, more: u64) -> Result<(), ApiError> {
        let size = self.setup.config().tables.keys;
        if self.store.key_count()?.saturating_add(more) > u64::from(size) {
            return Err(keys_full(&self.store, size)?);
        }
        Ok(())
    }
}

/// Returns an id that no key has. Ids are generated until one is free, since an id has only 50
/// random bits and may be in use.
fn free_key_id(store: &Store) -> Result<String, ApiError> {
    loop {
        let id = key::generate_id()?;
        if store.key(&id)?.is_none() {
            return Ok(id);
        }
    }
}

/// Returns the label, or `None` if it is empty.
fn some_label(label: Option<String>) -> Option<String> {
    label.filter(|label| !label.is_empty())
}
