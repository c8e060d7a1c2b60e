//! Scopes and their overrides.

use chrono::{DateTime, Utc};
use limiter_common::abi::Digest;
use rusqlite::params;

use super::{
    Store, StoreError,
    keys::{from_bytes, to_bytes},
};
use crate::{
    config::Mode,
    limits::{Changes, Override},
    scope::ScopeName,
};

/// A scope as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRecord {
    /// Its index in the kernel's arrays.
    pub id: u32,
    /// Its name.
    pub name: ScopeName,
    /// Its tier's name; the tier may have gone from the configuration since.
    pub tier: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Limits of its own.
    pub own: Option<Override>,
    /// A mode of its own; `None` follows its tier.
    pub mode: Option<Mode>,
    /// The key that it is of, if that is known by nothing else: the kernel has made the scope.
    pub unknown: Option<Digest>,
}

impl ScopeRecord {
    /// A scope as its tier has it.
    pub fn new(id: u32, name: ScopeName, tier: String, created_at: DateTime<Utc>) -> Self {
        Self {
            id,
            name,
            tier,
            created_at,
            own: None,
            mode: None,
            unknown: None,
        }
    }
}

impl Store {
    /// All scopes by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn scopes(&self) -> Result<Vec<ScopeRecord>, StoreError> {
        type Row = (
            u32,
            String,
            String,
            i64,
            Option<String>,
            Option<i64>,
            Option<String>,
            Option<String>,
            Option<Vec<u8>>,
        );
        let rows: Vec<Row> = self.query(
            "SELECT s.id, s.name, s.tier, s.created_at, o.changes, o.until, o.note, s.mode,
                    s.unknown
             FROM scopes s LEFT JOIN overrides o ON o.scope = s.id ORDER BY s.name",
            [],
            |row| {
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
                ))
            },
        )?;
        rows.into_iter()
            .map(|row| {
                let (id, name, tier, created_at, changes, until, note, mode, unknown) = row;
                let own = match changes {
                    None => None,
                    Some(changes) => Some(Override {
                        changes: serde_json::from_str::<Changes>(&changes)
                            .map_err(|_| self.corrupt("an override", &changes))?,
                        until: until.map(|until| self.moment(until)).transpose()?,
                        note: note.unwrap_or_default(),
                    }),
                };
                Ok(ScopeRecord {
                    id,
                    name: name
                        .parse()
                        .map_err(|_| self.corrupt("a scope's name", &name))?,
                    tier,
                    created_at: self.moment(created_at)?,
                    own,
                    mode: match mode {
                        None => None,
                        Some(mode) => Some(
                            Mode::named(&mode)
                                .ok_or_else(|| self.corrupt("a scope's mode", &mode))?,
                        ),
                    },
                    unknown: unknown.as_deref().and_then(from_bytes),
                })
            })
            .collect()
    }

    /// Adds a scope under the id `id`.
    ///
    /// # Errors
    /// [`StoreError::ScopeExists`].
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

    /// Adds the scope of an unknown key, which the kernel has made under the id `id`; if the key has one
    /// already, that has another id now.
    ///
    /// # Errors
    /// [`StoreError::ScopeExists`]: the name is another scope's.
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

    /// The scopes of unknown keys get this tier.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_unknown_tier(&self, tier: &str) -> Result<(), StoreError> {
        self.execute(
            "UPDATE scopes SET tier = ?1 WHERE unknown IS NOT NULL AND tier <> ?1",
            [tier],
        )?;
        Ok(())
    }

    /// Forgets the scope of an unknown key, whose id is free then. Its usage stays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn forget_unknown(&self, id: u32) -> Result<(), StoreError> {
        self.execute("DELETE FROM seen WHERE scope = ?1", [id])?;
        self.execute(
            "DELETE FROM scopes WHERE id = ?1 AND unknown IS NOT NULL",
            [id],
        )?;
        Ok(())
    }

    /// Removes a scope with its keys and override, and retires its id: flows of the kernel may
    /// still name it. Its usage stays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_scope(&self, id: u32) -> Result<(), StoreError> {
        self.execute("DELETE FROM keys WHERE scope = ?1", [id])?;
        self.execute("DELETE FROM overrides WHERE scope = ?1", [id])?;
        self.execute("DELETE FROM seen WHERE scope = ?1", [id])?;
        self.execute("DELETE FROM scopes WHERE id = ?1", [id])?;
        self.execute("INSERT OR IGNORE INTO retired (id) VALUES (?1)", [id])?;
        Ok(())
    }

    /// Ids of removed scopes that the kernel may still name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn retired(&self) -> Result<Vec<u32>, StoreError> {
        self.query("SELECT id FROM retired ORDER BY id", [], |row| row.get(0))
    }

    /// Takes an id out of retirement.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn release(&self, id: u32) -> Result<(), StoreError> {
        self.execute("DELETE FROM retired WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Sets or replaces a scope's override.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_override(
        &self,
        scope: u32,
        own: &Override,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let changes = serde_json::to_string(&own.changes)
            .map_err(|error| self.corrupt("an override", error))?;
        self.execute(
            "INSERT OR REPLACE INTO overrides (scope, changes, until, note, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                scope,
                changes,
                own.until.map(|until| until.timestamp_millis()),
                own.note,
                now.timestamp_millis()
            ],
        )?;
        Ok(())
    }

    /// Sets a scope's own mode; `None` follows its tier.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_mode(&self, scope: u32, mode: Option<Mode>) -> Result<(), StoreError> {
        self.execute(
            "UPDATE scopes SET mode = ?2 WHERE id = ?1",
            params![scope, mode.map(Mode::as_str)],
        )?;
        Ok(())
    }

    /// Ends a scope's override; whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn clear_override(&self, scope: u32) -> Result<bool, StoreError> {
        Ok(self.execute("DELETE FROM overrides WHERE scope = ?1", [scope])? > 0)
    }
}
