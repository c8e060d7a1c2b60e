// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stores keys, but only as digests.

use chrono::{DateTime, Utc};
use limiter_common::abi::Digest;

use super::{Store, StoreError};
use crate::domain::{key_state::KeyState, scope::ScopeName};
use rusqlite::params;

/// A key in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The id of the key, which is short and never changes.
    pub id: String,
    /// The scope that the key belongs to, or belonged to before the scope was removed.
    pub scope: ScopeName,
    /// The id of the scope, or `None` if the scope has been removed. Removing a scope revokes its
    /// keys.
    pub scope_id: Option<u32>,
    /// The digest that the kernel programs look up.
    pub digest: Digest,
    /// The label of the key.
    pub label: Option<String>,
    /// The state of the key.
    pub state: KeyState,
    /// The time at which the key was registered.
    pub created_at: DateTime<Utc>,
    /// The time of the last request that carried the key, as last written to the store.
    pub last_used_at: Option<DateTime<Utc>>,
    /// The time at which the key is or was to be revoked automatically.
    pub until: Option<DateTime<Utc>>,
    /// The time at which the key was revoked. It is `None` if the key is not revoked, or if an
    /// older version of the store did not record the time.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl KeyRecord {
    /// Returns the error for an attempt to register this key again.
    pub fn refusal(self) -> StoreError {
        if self.state == KeyState::Revoked {
            StoreError::KeyRevoked(Box::new(self))
        } else {
            StoreError::KeyExists {
                id: self.id,
                scope: self.scope.to_string(),
            }
        }
    }
}

/// A key to be added.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The id of the key, which is short and unique.
    pub id: String,
    /// The id of the key's scope.
    pub scope_id: u32,
    /// The digest that the kernel programs will look up.
    pub digest: Digest,
    /// The label of the key.
    pub label: Option<String>,
    /// The time at which the key is to be revoked automatically.
    pub until: Option<DateTime<Utc>>,
}

/// The properties of a key that the kernel programs need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBrief {
    /// The digest that the kernel programs look up.
    pub digest: Digest,
    /// The id of the key's scope, or `None` if the scope has been removed.
    pub scope_id: Option<u32>,
    /// The state of the key.
    pub state: KeyState,
    /// The time at which the key is to be revoked automatically, in milliseconds since 1970.
    pub until: Option<i64>,
}

/// Selects a group of keys.
#[derive(Debug, Clone, Copy)]
pub enum KeyFilter<'a> {
    /// The keys of all existing scopes.
    All,
    /// The keys of the scope with this id.
    Scope(u32),
    /// The keys of the removed scopes with this name, or the keys of all removed scopes if there is
    /// no name.
    Removed(Option<&'a ScopeName>),
}

/// Returns the 16 bytes of a digest. They are the first half and then the second half, each in
/// little-endian order, as SipHash defines its output.
pub(super) fn to_bytes(digest: Digest) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&digest[0].to_le_bytes());
    bytes[8..].copy_from_slice(&digest[1].to_le_bytes());
    bytes
}

pub(super) fn from_bytes(bytes: &[u8]) -> Option<Digest> {
    let (first, second) = bytes.split_at_checked(8)?;
    Some([
        u64::from_le_bytes(first.try_into().ok()?),
        u64::from_le_bytes(second.try_into().ok()?),
    ])
}

const SELECT: &str =
    "SELECT k.id, coalesce(s.name, k.removed_scope), k.scope, k.digest, k.label, k.state, k.created_at,
            k.last_used_at, k.revoked_at, k.until
     FROM keys k LEFT JOIN scopes s ON s.id = k.scope";

impl Store {
    /// Returns the number of all keys, including the revoked keys of removed scopes.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn key_count(&self) -> Result<u64, StoreError> {
        let counts = self.query("SELECT count(*) FROM keys", [], |row| row.get::<_, i64>(0))?;
        Ok(counts.first().copied().unwrap_or(0).unsigned_abs())
    }

    /// Returns the number of keys that belonged to removed scopes. All of them are revoked.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn removed_key_count(&self) -> Result<u64, StoreError> {
        let counts = self.query("SELECT count(*) FROM keys WHERE scope IS NULL", [], |row| {
            row.get::<_, i64>(0)
        })?;
        Ok(counts.first().copied().unwrap_or(0).unsigned_abs())
    }

    /// Returns the selected keys, sorted by scope and then by age.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn keys(&self, which: KeyFilter<'_>) -> Result<Vec<KeyRecord>, StoreError> {
        let order = "ORDER BY coalesce(s.name, k.removed_scope), k.created_at, k.id";
        let select = |condition| format!("{SELECT} WHERE {condition} {order}");
        match which {
            KeyFilter::All => self.select(&select("k.scope IS NOT NULL"), []),
            KeyFilter::Scope(id) => self.select(&select("k.scope = ?1"), [id]),
            KeyFilter::Removed(None) => self.select(&select("k.scope IS NULL"), []),
            KeyFilter::Removed(Some(name)) => {
                let of_scope = select("k.scope IS NULL AND k.removed_scope = ?1");
                self.select(&of_scope, [name.as_str()])
            }
        }
    }

    /// Returns all keys, in no particular order.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn key_briefs(&self) -> Result<Vec<KeyBrief>, StoreError> {
        let rows = self.query("SELECT digest, scope, state, until FROM keys", [], |row| {
            let digest = row.get_ref(0)?.as_blob().ok().and_then(from_bytes);
            let state = row.get_ref(2)?.as_str().ok();
            Ok((
                digest,
                row.get(1)?,
                state.and_then(|state| state.parse().ok()),
                row.get(3)?,
            ))
        })?;
        let scope =
            |id: Option<u32>| id.map_or_else(|| "(removed)".to_owned(), |id| id.to_string());
        rows.into_iter()
            .map(|(digest, scope_id, state, until)| {
                Ok(KeyBrief {
                    digest: digest
                        .ok_or_else(|| self.corrupt("a digest of scope", scope(scope_id)))?,
                    scope_id,
                    state: state
                        .ok_or_else(|| self.corrupt("a key's state of scope", scope(scope_id)))?,
                    until,
                })
            })
            .collect()
    }

    /// Returns the digests of the keys that have been registered, but whose scope from the time
    /// when they were unknown still exists.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn registered_unknown_keys(&self) -> Result<Vec<Digest>, StoreError> {
        let digests = self.query(
            "SELECT k.digest FROM scopes s JOIN keys k ON k.digest = s.unknown
             WHERE s.unknown IS NOT NULL",
            [],
            |row| Ok(row.get_ref(0)?.as_blob().ok().and_then(from_bytes)),
        )?;
        Ok(digests.into_iter().flatten().collect())
    }

    /// Returns the key with the id `id`.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn key(&self, id: &str) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self
            .select(&format!("{SELECT} WHERE k.id = ?1"), params![id])?
            .pop())
    }

    /// Returns the key with the digest `digest`.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn key_by_digest(&self, digest: Digest) -> Result<Option<KeyRecord>, StoreError> {
        let bytes = to_bytes(digest);
        Ok(self
            .select(
                &format!("{SELECT} WHERE k.digest = ?1"),
                params![bytes.as_slice()],
            )?
            .pop())
    }

    fn select(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        type Row = (
            String,
            String,
            Option<u32>,
            Vec<u8>,
            Option<String>,
            String,
            i64,
            Option<i64>,
            Option<i64>,
            Option<i64>,
        );
        let rows: Vec<Row> = self.query(sql, params, |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
                row.get(7)?,
                row.get(8)?,
                row.get(9)?,
            ))
        })?;
        rows.into_iter()
            .map(
                |(
                    id,
                    scope,
                    scope_id,
                    digest,
                    label,
                    state,
                    created_at,
                    last_used_at,
                    revoked_at,
                    until,
                )| {
                    Ok(KeyRecord {
                        scope: scope
                            .parse()
                            .map_err(|_| self.corrupt("a scope's name", &scope))?,
                        digest: from_bytes(&digest)
                            .ok_or_else(|| self.corrupt("a digest of", &id))?,
                        state: state
                            .parse()
                            .map_err(|()| self.corrupt("a key's state", &state))?,
                        created_at: self.moment(created_at)?,
                        last_used_at: last_used_at.map(|at| self.moment(at)).transpose()?,
                        revoked_at: revoked_at.map(|at| self.moment(at)).transpose()?,
                        until: until.map(|at| self.moment(at)).transpose()?,
                        id,
                        scope_id,
                        label,
                    })
                },
            )
            .collect()
    }

    /// Adds an active key.
    ///
    /// # Errors
    /// Returns [`StoreError::KeyExists`] or [`StoreError::KeyRevoked`] if the digest of the key is
    /// already registered, no matter for which scope.
    pub fn add_key(&self, key: &NewKey, now: DateTime<Utc>) -> Result<(), StoreError> {
        if self.try_add_key(key, now)? {
            return Ok(());
        }
        let known = self.key_by_digest(key.digest)?;
        let known = known.ok_or_else(|| self.corrupt("twice the key id", &key.id))?;
        Err(known.refusal())
    }

    /// Adds an active key, unless its digest or its id is registered already. Returns whether the
    /// key was added.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn try_add_key(&self, key: &NewKey, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let digest = to_bytes(key.digest);
        let added = self.execute(
            "INSERT INTO keys (id, scope, digest, label, state, created_at, until)
             VALUES (?1, ?2, ?3, ?4, 'active', ?5, ?6) ON CONFLICT DO NOTHING",
            params![
                key.id,
                key.scope_id,
                digest.as_slice(),
                key.label,
                now.timestamp_millis(),
                key.until.map(|until| until.timestamp_millis())
            ],
        )?;
        Ok(added == 1)
    }

    /// Sets or removes the end of a key, at which it is revoked automatically.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_key_end(&self, id: &str, until: Option<DateTime<Utc>>) -> Result<(), StoreError> {
        self.execute(
            "UPDATE keys SET until = ?2 WHERE id = ?1",
            params![id, until.map(|until| until.timestamp_millis())],
        )?;
        Ok(())
    }

    /// Returns the ids of up to `most` keys whose end has passed at `now`, but which are not
    /// revoked yet.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn ended_keys(&self, now: DateTime<Utc>, most: u32) -> Result<Vec<String>, StoreError> {
        self.query(
            "SELECT id FROM keys WHERE until <= ?1 AND state <> 'revoked' ORDER BY until LIMIT ?2",
            params![now.timestamp_millis(), most],
            |row| row.get(0),
        )
    }

    /// Changes the state of a key. If the key was revoked before, the time of its revocation does
    /// not change.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_key_state(
        &self,
        id: &str,
        state: KeyState,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let revoked_at = (state == KeyState::Revoked).then(|| now.timestamp_millis());
        self.execute(
            "UPDATE keys SET state = ?2, revoked_at = coalesce(revoked_at, ?3) WHERE id = ?1",
            params![id, state.as_str(), revoked_at],
        )?;
        Ok(())
    }

    /// Revokes the keys of a scope that is about to be removed. Each key stays in the store,
    /// together with the name of the scope.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub(super) fn revoke_keys_of_scope(
        &self,
        scope: u32,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.execute(
            "UPDATE keys SET state = 'revoked', revoked_at = coalesce(revoked_at, ?2), scope = NULL,
                    removed_scope = (SELECT name FROM scopes WHERE id = ?1)
             WHERE scope = ?1",
            params![scope, now.timestamp_millis()],
        )?;
        Ok(())
    }

    /// Adds a key of a scope that has been removed. The key is revoked.
    ///
    /// # Errors
    /// Returns an error if SQLite fails, or if the id or the digest is registered already.
    pub fn add_removed_key(&self, key: &KeyRecord) -> Result<(), StoreError> {
        let revoked_at = key.revoked_at.unwrap_or(key.created_at);
        self.execute(
            "INSERT INTO keys (id, removed_scope, digest, label, state, created_at, revoked_at)
             VALUES (?1, ?2, ?3, ?4, 'revoked', ?5, ?6)",
            params![
                key.id,
                key.scope.as_str(),
                to_bytes(key.digest).as_slice(),
                key.label,
                key.created_at.timestamp_millis(),
                revoked_at.timestamp_millis()
            ],
        )?;
        Ok(())
    }

    /// Stores the time at which a key was last used, unless a later time is stored already.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_last_used(&self, digest: Digest, at: DateTime<Utc>) -> Result<(), StoreError> {
        let digest = to_bytes(digest);
        self.execute(
            "UPDATE keys SET last_used_at = ?2
             WHERE digest = ?1 AND (last_used_at IS NULL OR last_used_at < ?2)",
            params![digest.as_slice(), at.timestamp_millis()],
        )?;
        Ok(())
    }
}
