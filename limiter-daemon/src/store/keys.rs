//! Keys, as digests only.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use limiter_common::abi::Digest;
use rusqlite::params;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::scope::ScopeName;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Its requests are admitted within the scope's limits.
    Active,
    /// Its requests get 401 until it is enabled again.
    Disabled,
    /// Its requests get 401 for ever.
    Revoked,
}

impl KeyState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeyState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Active, Self::Disabled, Self::Revoked]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(())
    }
}

/// A key as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Short and stable.
    pub id: String,
    /// The scope it is of.
    pub scope: ScopeName,
    /// That scope's id.
    pub scope_id: u32,
    /// What the kernel looks up.
    pub digest: Digest,
    /// What the operator calls it.
    pub label: Option<String>,
    /// What it may do.
    pub state: KeyState,
    /// When it was made or imported.
    pub created_at: DateTime<Utc>,
    /// When a request last carried it, as far as the store knows.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A key to add.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Short and unique.
    pub id: String,
    /// The scope's id.
    pub scope_id: u32,
    /// What the kernel will look up.
    pub digest: Digest,
    /// What the operator calls it.
    pub label: Option<String>,
}

/// What the kernel has to know of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBrief {
    /// What the kernel looks up.
    pub digest: Digest,
    /// The id of the scope it is of.
    pub scope_id: u32,
    /// What it may do.
    pub state: KeyState,
}

/// A digest's 16 bytes, first half first, each little-endian, as SipHash defines its output.
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
    "SELECT k.id, s.name, k.scope, k.digest, k.label, k.state, k.created_at, k.last_used_at
     FROM keys k JOIN scopes s ON s.id = k.scope";

impl Store {
    /// How many keys there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn key_count(&self) -> Result<u64, StoreError> {
        let counts = self.query("SELECT count(*) FROM keys", [], |row| row.get::<_, i64>(0))?;
        Ok(counts.first().copied().unwrap_or(0).unsigned_abs())
    }

    /// All keys, or those of one scope, by scope and age.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keys(&self, scope: Option<u32>) -> Result<Vec<KeyRecord>, StoreError> {
        self.select(
            &format!(
                "{SELECT} WHERE ?1 IS NULL OR k.scope = ?1 ORDER BY s.name, k.created_at, k.id"
            ),
            params![scope],
        )
    }

    /// All keys, in no order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn key_briefs(&self) -> Result<Vec<KeyBrief>, StoreError> {
        let rows = self.query("SELECT digest, scope, state FROM keys", [], |row| {
            let digest = row.get_ref(0)?.as_blob().ok().and_then(from_bytes);
            let state = row.get_ref(2)?.as_str().ok();
            Ok((
                digest,
                row.get(1)?,
                state.and_then(|state| state.parse().ok()),
            ))
        })?;
        rows.into_iter()
            .map(|(digest, scope_id, state)| {
                Ok(KeyBrief {
                    digest: digest.ok_or_else(|| self.corrupt("a digest of scope", scope_id))?,
                    scope_id,
                    state: state.ok_or_else(|| self.corrupt("a key's state of scope", scope_id))?,
                })
            })
            .collect()
    }

    /// Keys that are registered although scopes of unknown keys are there for them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn registered_unknown_keys(&self) -> Result<Vec<Digest>, StoreError> {
        let digests = self.query(
            "SELECT k.digest FROM scopes s JOIN keys k ON k.digest = s.unknown
             WHERE s.unknown IS NOT NULL",
            [],
            |row| Ok(row.get_ref(0)?.as_blob().ok().and_then(from_bytes)),
        )?;
        Ok(digests.into_iter().flatten().collect())
    }

    /// The key of that id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn key(&self, id: &str) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self
            .select(&format!("{SELECT} WHERE k.id = ?1"), params![id])?
            .pop())
    }

    /// The key of that digest.
    ///
    /// # Errors
    /// [`StoreError`].
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
            u32,
            Vec<u8>,
            Option<String>,
            String,
            i64,
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
            ))
        })?;
        rows.into_iter()
            .map(
                |(id, scope, scope_id, digest, label, state, created_at, last_used_at)| {
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
    /// [`StoreError::KeyExists`] when its digest is known, in whatever scope and state.
    pub fn add_key(&self, key: &NewKey, now: DateTime<Utc>) -> Result<(), StoreError> {
        if self.try_add_key(key, now)? {
            return Ok(());
        }
        let known = self.key_by_digest(key.digest)?;
        let known = known.ok_or_else(|| self.corrupt("twice the key id", &key.id))?;
        Err(StoreError::KeyExists {
            id: known.id,
            scope: known.scope.to_string(),
        })
    }

    /// Adds an active key, unless its digest or its id is known; whether it was added.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn try_add_key(&self, key: &NewKey, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let digest = to_bytes(key.digest);
        let added = self.execute(
            "INSERT INTO keys (id, scope, digest, label, state, created_at)
             VALUES (?1, ?2, ?3, ?4, 'active', ?5) ON CONFLICT DO NOTHING",
            params![
                key.id,
                key.scope_id,
                digest.as_slice(),
                key.label,
                now.timestamp_millis()
            ],
        )?;
        Ok(added == 1)
    }

    /// Changes a key's state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_key_state(&self, id: &str, state: KeyState) -> Result<(), StoreError> {
        self.execute(
            "UPDATE keys SET state = ?2 WHERE id = ?1",
            [id, state.as_str()],
        )?;
        Ok(())
    }

    /// Remembers when a key was last used; an earlier time than the one that is known changes
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError`].
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
