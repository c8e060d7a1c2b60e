//! Changing keys.

use chrono::{DateTime, TimeDelta, Utc};
use limiter_common::{abi::Digest, siphash};

use super::{
    engine::{Caller, Engine},
    in_force::key_entry,
};
use crate::{
    api::{ApiError, CheckKey, CreateKey, CreatedKey, ImportKey, KeyCheck, KeyView},
    kernel::KernelError,
    key::{self, RawKey},
    scope::ScopeName,
    store::{KeyRecord, KeyState, NewKey, Store},
    suggest::did_you_mean,
};

/// Longest label, in bytes.
pub(crate) const MAX_LABEL: usize = 128;

/// Most keys among which the nearest id is looked for: others wait meanwhile.
const MOST_COMPARED: u64 = 10_000;

impl Engine {
    /// What the kernel knows a raw key by.
    fn digest(&self, raw: &str) -> Digest {
        siphash::siphash128(*self.secret, raw.as_bytes())
    }

    /// Makes a key; the only time that it is shown.
    ///
    /// # Errors
    /// There is no such scope, or no room.
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

    /// Registers a key that the operator brings.
    ///
    /// # Errors
    /// There is no such scope, no request could carry the key, it is registered already, or
    /// there is no room.
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

    /// What is known of a key: whether it is well-formed, and as what it is registered.
    ///
    /// # Errors
    /// The store's and the kernel's.
    pub fn check_key(&self, request: CheckKey) -> Result<KeyCheck, ApiError> {
        let raw = RawKey::new(request.key);
        let form = key::recognize(&raw);
        let digest = self.digest(&raw);
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
        let scope_id = self.scope(scope)?.record.id;
        self.check_room(1)?;
        let new = NewKey {
            id: free_key_id(&self.store)?,
            scope_id,
            digest: self.digest(raw),
            label,
        };
        self.store.change(|store| {
            store.add_key(&new, caller.now)?;
            let detail = format!("of {scope}");
            store.audit(&caller.entry(action, &new.id, &detail))
        })?;
        self.enter_key(&new.id)?;
        self.drop_unknown(&[new.digest], caller.now)?;
        let what = format!("key {} of {scope} registered", new.id);
        self.tell_change(caller, action, Some(scope), Some(&new.id), what);
        Ok(new.id)
    }

    fn check_room(&self, more: u64) -> Result<(), ApiError> {
        let size = self.config.tables.keys;
        if self.store.key_count()?.saturating_add(more) > u64::from(size) {
            return Err(KernelError::keys_full(size).into());
        }
        Ok(())
    }

    /// Takes a key that is in the store into the kernel.
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
            && self.scopes.contains_key(&scope)
        {
            return Ok(ApiError::not_found(format!(
                "`{id}` is a scope, not a key's id: `limiter key list {id}` shows those of its keys"
            )));
        }
        let keys = if self.store.key_count()? <= MOST_COMPARED {
            self.store.keys(None)?
        } else {
            Vec::new()
        };
        let ids = keys.iter().map(|key| key.id.as_str());
        Ok(ApiError::not_found(format!(
            "there is no key `{id}`{}: `limiter key list` shows all",
            did_you_mean(id, ids)
        )))
    }

    /// Changes what a key may do; on open connections too, from the next request.
    ///
    /// # Errors
    /// There is no such key, or it was revoked.
    pub fn set_key_state(
        &mut self,
        id: &str,
        state: KeyState,
        caller: &Caller,
    ) -> Result<KeyView, ApiError> {
        let record = self.key_record(id)?;
        if record.state == KeyState::Revoked && state != KeyState::Revoked {
            return Err(ApiError::conflict(format!(
                "the key {id} was revoked, which is for ever: create another one"
            )));
        }
        let action = match state {
            KeyState::Active => "key enable",
            KeyState::Disabled => "key disable",
            KeyState::Revoked => "key revoke",
        };
        self.store.change(|store| {
            store.set_key_state(id, state)?;
            let detail = format!("of {}, was {}", record.scope, record.state);
            store.audit(&caller.entry(action, id, &detail))
        })?;
        self.enter_key(id)?;
        let what = format!("key {id} of {} is {state}", record.scope);
        self.tell_change(caller, action, Some(&record.scope), Some(id), what);
        self.key_view(id)
    }

    /// All keys, or a scope's.
    ///
    /// # Errors
    /// There is no such scope.
    pub fn list_keys(&self, scope: Option<&ScopeName>) -> Result<Vec<KeyView>, ApiError> {
        let scope = scope
            .map(|name| self.scope(name))
            .transpose()?
            .map(|scope| scope.record.id);
        self.store
            .keys(scope)?
            .into_iter()
            .map(|record| self.view_key(record))
            .collect()
    }

    fn key_view(&self, id: &str) -> Result<KeyView, ApiError> {
        self.view_key(self.key_record(id)?)
    }

    pub(super) fn view_key(&self, record: KeyRecord) -> Result<KeyView, ApiError> {
        let kernel = self.last_used(&record)?;
        Ok(KeyView {
            last_used_at: kernel.max(record.last_used_at),
            id: record.id,
            scope: record.scope,
            label: record.label,
            state: record.state,
            created_at: record.created_at,
        })
    }

    /// When the kernel saw the key last; `None` if it has not since the maps were made.
    fn last_used(&self, record: &KeyRecord) -> Result<Option<DateTime<Utc>>, ApiError> {
        let entry = self.plane.key(&record.digest)?;
        Ok(entry.and_then(|entry| self.utc(entry.last_used_ns)))
    }

    /// A moment of the kernel's notes; 0 is none.
    pub(super) fn utc(&self, boot_ns: u64) -> Option<DateTime<Utc>> {
        if boot_ns == 0 {
            return None;
        }
        let utc_ns = boot_ns.wrapping_add(self.utc_offset_ns());
        let since_epoch = TimeDelta::nanoseconds(i64::try_from(utc_ns).unwrap_or(i64::MAX));
        DateTime::UNIX_EPOCH.checked_add_signed(since_epoch)
    }

    /// Remembers in the store when keys were last used: the kernel's own notes end with the
    /// machine.
    ///
    /// # Errors
    /// The store's and the kernel's.
    pub fn save_last_used(&mut self) -> Result<(), ApiError> {
        let used: Vec<(Digest, DateTime<Utc>)> = self
            .plane
            .keys()?
            .into_iter()
            .filter_map(|(digest, entry)| Some((digest, self.utc(entry.last_used_ns)?)))
            .collect();
        self.store.lightly(|store| {
            used.iter()
                .try_for_each(|(digest, at)| store.set_last_used(*digest, *at))
        })?;
        Ok(())
    }
}

/// An id that no key has: 50 random bits meet again rarely, but they do.
fn free_key_id(store: &Store) -> Result<String, ApiError> {
    loop {
        let id = key::generate_id()?;
        if store.key(&id)?.is_none() {
            return Ok(id);
        }
    }
}

/// An empty label is none.
fn some_label(label: Option<String>) -> Option<String> {
    label.filter(|label| !label.is_empty())
}

pub(super) fn check_label(label: Option<&str>) -> Result<(), ApiError> {
    let Some(label) = label else { return Ok(()) };
    if label.len() > MAX_LABEL || label.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!(
            "the label is too long or has control characters: at most {MAX_LABEL} bytes of text"
        )));
    }
    Ok(())
}
