// SPDX-License-Identifier: MIT OR Apache-2.0

//! Scopes and their overrides.

use chrono::{DateTime, Utc};
use limiter_common::abi::Digest;

use super::{
    Store, StoreError,
    keys::{from_bytes, to_bytes},
    usage::{signed, unsigned},
};
use crate::domain::{
    limits::{Changes, LimitName, Override, Terms},
    mode::Mode,
    scope::ScopeName,
};
use rusqlite::params;
use serde_json::Value;
use std::collections::HashMap;

/// A scope in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRecord {
    /// The id, which is the index of the scope in the kernel's arrays.
    pub id: u32,
    pub name: ScopeName,
    /// The name of the scope's tier, which may no longer be in the configuration.
    pub tier: String,
    /// The time at which the scope was added.
    pub created_at: DateTime<Utc>,
    /// The override of the scope, if it has one.
    pub limits_override: Option<Override>,
    /// The scope's own mode, or `None` if the mode of its tier applies.
    pub mode: Option<Mode>,
    /// The digest of the scope's key, if the kernel programs have created the scope for an unknown
    /// key.
    pub unknown: Option<Digest>,
    /// The generation of the scope's counts, which each reset in a fleet raises.
    pub generation: u64,
}

impl ScopeRecord {
    /// Returns a scope that has neither an override nor a mode of its own.
    pub fn new(id: u32, name: ScopeName, tier: String, created_at: DateTime<Utc>) -> Self {
        Self {
            id,
            name,
            tier,
            created_at,
            limits_override: None,
            mode: None,
            unknown: None,
            generation: 0,
        }
    }
}

impl Store {
    /// Returns all scopes, sorted by name.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn scopes(&self) -> Result<Vec<ScopeRecord>, StoreError> {
        type Row = (
            u32,
            String,
            String,
            i64,
            Option<String>,
            Option<Vec<u8>>,
            u64,
        );
        let mut overrides = self.overrides()?;
        let rows: Vec<Row> = self.query(
            "SELECT id, name, tier, created_at, mode, unknown, generation
             FROM scopes ORDER BY name",
            [],
            |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    unsigned(row, 6)?,
                ))
            },
        )?;
        rows.into_iter()
            .map(|row| {
                let (id, name, tier, created_at, mode, unknown, generation) = row;
                Ok(ScopeRecord {
                    id,
                    name: name
                        .parse()
                        .map_err(|_| self.corrupt("a scope's name", &name))?,
                    tier,
                    created_at: self.moment(created_at)?,
                    limits_override: overrides.remove(&id),
                    mode: match mode {
                        None => None,
                        Some(mode) => Some(
                            Mode::named(&mode)
                                .ok_or_else(|| self.corrupt("a scope's mode", &mode))?,
                        ),
                    },
                    unknown: unknown.as_deref().and_then(from_bytes),
                    generation,
                })
            })
            .collect()
    }

    /// Returns the overrides of all scopes that have one, by the ids of the scopes.
    fn overrides(&self) -> Result<HashMap<u32, Override>, StoreError> {
        type Row = (u32, String, String, Option<i64>, String);
        let rows: Vec<Row> = self.query(
            "SELECT scope, name, value, until, note FROM overrides",
            [],
            |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ))
            },
        )?;
        let mut overrides: HashMap<u32, Override> = HashMap::new();
        for (scope, name, value, until, note) in rows {
            let corrupt = || self.corrupt("a limit of a scope", format!("{name} {value}"));
            let limit = LimitName::named(&name).ok_or_else(corrupt)?;
            let value: Value = serde_json::from_str(&value).map_err(|_| corrupt())?;
            let changes = Changes::of(limit, value).map_err(|_| corrupt())?;
            let until = until.map(|until| self.moment(until)).transpose()?;
            let own = overrides.entry(scope).or_default();
            own.set(limit, &changes, Terms { until, note });
        }
        Ok(overrides)
    }

    /// Adds a scope with the id `id`.
    ///
    /// # Errors
    /// Returns [`StoreError::ScopeExists`] if a scope has the same name.
    pub fn add_scope(
        &self,
        id: u32,
        name: &ScopeName,
        tier: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let added = self.execute(
            "INSERT INTO scopes (id, name, tier, created_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (name) DO NOTHING",
            params![id, name.as_str(), tier, now.timestamp_millis()],
        )?;
        if added == 0 {
            return Err(StoreError::ScopeExists(name.to_string()));
        }
        Ok(())
    }

    /// Adds the scope that the kernel programs have created with the id `id` for an unknown key. If
    /// the key has a scope already, that scope gets the id `id`.
    ///
    /// # Errors
    /// Returns [`StoreError::ScopeExists`] if another scope has the same name.
    pub fn add_unknown(
        &self,
        id: u32,
        name: &ScopeName,
        tier: &str,
        key: Digest,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let added = self.execute(
            "INSERT INTO scopes (id, name, tier, created_at, unknown) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (unknown) WHERE unknown IS NOT NULL DO UPDATE SET id = ?1
             ON CONFLICT (name) DO NOTHING",
            params![
                id,
                name.as_str(),
                tier,
                now.timestamp_millis(),
                to_bytes(key)
            ],
        )?;
        if added == 0 {
            return Err(StoreError::ScopeExists(name.to_string()));
        }
        Ok(())
    }

    /// Sets the tier of all scopes of unknown keys.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_unknown_tier(&self, tier: &str) -> Result<(), StoreError> {
        self.execute(
            "UPDATE scopes SET tier = ?1 WHERE unknown IS NOT NULL AND tier <> ?1",
            [tier],
        )?;
        Ok(())
    }

    /// Removes the scope of an unknown key, so that its id can be used again. The usage of the
    /// scope is kept.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn forget_unknown(&self, id: u32) -> Result<(), StoreError> {
        self.execute("DELETE FROM seen WHERE scope = ?1", [id])?;
        self.execute(
            "DELETE FROM scopes WHERE id = ?1 AND unknown IS NOT NULL",
            [id],
        )?;
        Ok(())
    }

    /// Removes a scope and its override. The id of the scope is retired, because flows in the
    /// kernel may still refer to it. The scope's keys are revoked, but they and the usage of the
    /// scope stay in the store.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn remove_scope(&self, id: u32, now: DateTime<Utc>) -> Result<(), StoreError> {
        self.revoke_keys_of_scope(id, now)?;
        self.execute("DELETE FROM overrides WHERE scope = ?1", [id])?;
        self.execute("DELETE FROM seen WHERE scope = ?1", [id])?;
        self.execute("DELETE FROM scopes WHERE id = ?1", [id])?;
        self.execute("INSERT OR IGNORE INTO retired (id) VALUES (?1)", [id])?;
        Ok(())
    }

    /// Returns the ids of removed scopes to which flows in the kernel may still refer.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn retired(&self) -> Result<Vec<u32>, StoreError> {
        self.query("SELECT id FROM retired ORDER BY id", [], |row| row.get(0))
    }

    /// Releases a retired id, so that it can be used again.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn release(&self, id: u32) -> Result<(), StoreError> {
        self.execute("DELETE FROM retired WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Sets or replaces the override of a scope.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_override(
        &self,
        scope: u32,
        limits_override: &Override,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        for limit in LimitName::ALL {
            let Some(terms) = limits_override.terms().get(&limit) else {
                self.execute(
                    "DELETE FROM overrides WHERE scope = ?1 AND name = ?2",
                    params![scope, limit.as_str()],
                )?;
                continue;
            };
            self.execute(
                "INSERT INTO overrides (scope, name, value, until, note, set_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (scope, name) DO UPDATE
                 SET value = ?3, until = ?4, note = ?5, set_at = ?6
                 WHERE value <> ?3 OR until IS NOT ?4 OR note <> ?5",
                params![
                    scope,
                    limit.as_str(),
                    limits_override.changes().value(limit).to_string(),
                    terms.until.map(|until| until.timestamp_millis()),
                    terms.note,
                    now.timestamp_millis()
                ],
            )?;
        }
        Ok(())
    }

    /// Sets the tier of a scope.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_tier(&self, scope: u32, tier: &str) -> Result<(), StoreError> {
        self.execute(
            "UPDATE scopes SET tier = ?2 WHERE id = ?1",
            params![scope, tier],
        )?;
        Ok(())
    }

    /// Sets the scope's own mode. If `mode` is `None`, the mode of the tier applies again.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_mode(&self, scope: u32, mode: Option<Mode>) -> Result<(), StoreError> {
        self.execute(
            "UPDATE scopes SET mode = ?2 WHERE id = ?1",
            params![scope, mode.map(Mode::as_str)],
        )?;
        Ok(())
    }

    /// Sets the generation of a scope's counts.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_generation(&self, scope: u32, generation: u64) -> Result<(), StoreError> {
        self.execute(
            "UPDATE scopes SET generation = ?2 WHERE id = ?1",
            params![scope, signed(generation)],
        )?;
        Ok(())
    }
}
