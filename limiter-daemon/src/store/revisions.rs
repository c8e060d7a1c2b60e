// SPDX-License-Identifier: MIT OR Apache-2.0

//! The revisions of the objects of the registry that the hosts of a fleet share.

use rusqlite::params;

use super::{
    Store, StoreError,
    usage::{signed, unsigned},
};

impl Store {
    /// Returns the revision of an object that this host has, or 0 if it has none.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn revision(&self, object: &str) -> Result<u64, StoreError> {
        self.first(
            "SELECT revision FROM revisions WHERE object = ?1",
            [object],
            |row| unsigned(row, 0),
        )
    }

    /// Returns the revisions of all objects.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn revisions(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.query("SELECT object, revision FROM revisions", [], |row| {
            Ok((row.get(0)?, unsigned(row, 1)?))
        })
    }

    /// Records that this host has a revision of an object, and that the engine has it, too.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_revision(&self, object: &str, revision: u64) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO revisions (object, revision) VALUES (?1, ?2)
             ON CONFLICT (object) DO UPDATE SET revision = ?2, pending = 0",
            params![object, signed(revision)],
        )?;
        Ok(())
    }

    /// Records that this host has changed an object, and that the engine does not know the change.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_pending(&self, object: &str) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO revisions (object, revision, pending) VALUES (?1, 0, 1)
             ON CONFLICT (object) DO UPDATE SET pending = 1",
            [object],
        )?;
        Ok(())
    }

    /// Returns whether there are objects that this host has changed and the engine does not know.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn has_pending(&self) -> Result<bool, StoreError> {
        self.first(
            "SELECT EXISTS (SELECT 1 FROM revisions WHERE pending <> 0)",
            [],
            |row| row.get(0),
        )
    }

    /// Marks a key that was revoked on this host before it joined the fleet.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_only_here(&self, object: &str) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO revisions (object, revision, only_here) VALUES (?1, 0, 1)
             ON CONFLICT (object) DO UPDATE SET only_here = 1",
            [object],
        )?;
        Ok(())
    }

    /// Returns whether a key was revoked on this host before it joined the fleet.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn is_only_here(&self, object: &str) -> Result<bool, StoreError> {
        self.first(
            "SELECT only_here <> 0 FROM revisions WHERE object = ?1",
            [object],
            |row| row.get(0),
        )
    }

    /// Returns the objects that this host has changed and the engine does not know, with the
    /// revisions on which the changes are based.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn pending(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.query(
            "SELECT object, revision FROM revisions WHERE pending <> 0 ORDER BY object DESC",
            [],
            |row| Ok((row.get(0)?, unsigned(row, 1)?)),
        )
    }

    /// Keeps the generation of the counts of a scope that is removed.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn remember_generation(&self, scope: &str, generation: u64) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO revisions (object, revision, generation) VALUES ('s:' || ?1, 0, ?2)
             ON CONFLICT (object) DO UPDATE SET generation = ?2",
            params![scope, signed(generation)],
        )?;
        Ok(())
    }

    /// Returns the generation that the counts of a removed scope had, or 0 for other names.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn removed_generation(&self, scope: &str) -> Result<u64, StoreError> {
        self.first(
            "SELECT generation FROM revisions WHERE object = 's:' || ?1",
            [scope],
            |row| unsigned(row, 0),
        )
    }

    /// Forgets all revisions, because this host leaves the fleet.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn clear_revisions(&self) -> Result<(), StoreError> {
        self.execute("DELETE FROM revisions", [])?;
        Ok(())
    }

    /// Returns the only row of a query, or the default value if there is none.
    fn first<T: Default>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut rows = self.query(sql, params, read)?;
        Ok(rows.pop().unwrap_or_default())
    }
}
