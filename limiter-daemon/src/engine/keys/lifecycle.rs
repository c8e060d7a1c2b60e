// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands that change and list keys.

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
    engine::{caller::Caller, publish::keys::key_entry, state::Engine},
    kernel::KernelError,
    protocol::{
        error::ApiError,
        requests::{CheckKey, CreateKey, ImportKey},
        views::{CreatedKey, KeyCheck, KeyView},
    },
    store::{KeyFilter, KeyRecord, NewKey, Store},
    suggest::did_you_mean,
};

/// The maximum number of keys among which a similar id is searched for. The limit exists because
/// other commands have to wait during the search.
const MAX_COMPARED: u64 = 10_000;

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
        let raw = key::generate()?;
        let CreateKey { scope, label } = request;
        let label = some_label(label);
        let id = self.register(&scope, label.clone(), &raw, "key create", caller)?;
        Ok(CreatedKey {
            id,
            scope,
            label,
            key: raw.to_string(),
        })
    }

    /// Registers a key that the operator provides.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, a request cannot carry the key, the key is
    /// already registered, or the table of keys is full.
    pub fn import_key(&mut self, request: ImportKey, caller: &Caller) -> Result<KeyView, ApiError> {
        let ImportKey {
            scope,
            label,
            key: raw,
        } = request;
        let label = some_label(label);
        let raw = RawKey::new(raw);
        key::validate(&raw).map_err(|error| ApiError::invalid_key(error.to_string()))?;
        let id = self.register(&scope, label, &raw, "key import", caller)?;
        self.key_view(&id)
    }

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

    fn register(
        &mut self,
        scope: &ScopeName,
        label: Option<String>,
        raw: &str,
        action: &'static str,
        caller: &Caller,
    ) -> Result<String, ApiError> {
        check_label(label.as_deref())?;
        self.check_registered(scope)?;
        let scope_id = self.scopes.find(scope)?.record.id;
        self.check_room(1)?;
        let new = NewKey {
            id: free_key_id(&self.store)?,
            scope_id,
            digest: self.setup.digest(raw),
            label,
        };
        self.store.change(|store| {
            store.add_key(&new, caller.now)?;
            let detail = format!("of {scope}");
            store.audit(&caller.entry(action, &new.id, &detail))
        })?;
        self.enter_key(&new.id)?;
        self.drop_unknown(&[new.digest], caller.now)?;
        let message = format!("key {} of {scope} registered", new.id);
        self.events
            .add_change(caller, action, Some(scope), Some(&new.id), message);
        Ok(new.id)
    }

    fn check_room(&self, more: u64) -> Result<(), ApiError> {
        let size = self.setup.config().tables.keys;
        if self.store.key_count()?.saturating_add(more) > u64::from(size) {
            return Err(keys_full(&self.store, size)?);
        }
        Ok(())
    }

    /// Enters into the kernel a key that is already in the store.
    fn enter_key(&mut self, id: &str) -> Result<(), ApiError> {
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
        let action = match state {
            KeyState::Active => "key enable",
            KeyState::Disabled => "key disable",
            KeyState::Revoked => "key revoke",
        };
        self.store.change(|store| {
            store.set_key_state(id, state, caller.now)?;
            let detail = format!("of {}, was {}", record.scope, record.state);
            store.audit(&caller.entry(action, id, &detail))
        })?;
        self.enter_key(id)?;
        let message = format!("key {id} of {} is {state}", record.scope);
        self.events
            .add_change(caller, action, Some(&record.scope), Some(id), message);
        self.key_view(id)
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

    fn key_view(&self, id: &str) -> Result<KeyView, ApiError> {
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
