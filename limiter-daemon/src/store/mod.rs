// SPDX-License-Identifier: MIT OR Apache-2.0

//! The store, which is one SQLite file with scopes, keys, overrides, usage and the audit trail.
//!
//! The file has a write-ahead log and is used with `synchronous = FULL`. The change that a command
//! makes is on the disk before the command is answered. The allowance of a scope is on the disk
//! before the kernel may admit requests up to it. Only the times at which keys were last used, and
//! the removal of old usage, can be lost when the host crashes.

mod audit;
mod fleet_usage;
mod history;
mod keys;
mod leases;
mod private;
mod revisions;
mod schema;
mod scopes;
mod trial;
mod usage;

use std::{
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use chrono::{DateTime, SecondsFormat, Utc};
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};
use prometheus_client::metrics::histogram::Histogram;
use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

pub use audit::{AuditEntry, AuditFilter, AuditRecord};
pub use keys::{KeyBrief, KeyFilter, KeyRecord, NewKey};
pub use scopes::ScopeRecord;
pub use trial::TrialScopes;
pub use usage::{CounterReading, DayUsage, date_of};

use crate::files::{self, AssumedRights, Rights, TrustError};
use schema::SCHEMA_VERSION;

/// The name of the file in the state directory.
const FILE: &str = "limiter.db";

/// The size of SQLite's page cache during [`Store::change_in_bulk`], in KiB. It is enough for the
/// indices of a million keys.
const BULK_CACHE_KIB: u32 = 256 * 1024;

/// The reason why the store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("the store {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's own error.
        source: rusqlite::Error,
    },
    /// A file of the store, or a directory in its path, could have been put there by another user.
    #[error("the store: {0}")]
    Untrusted(#[from] TrustError),
    /// This process cannot assume the rights of the user who owns the files.
    #[error("the store {}: {source}", path.display())]
    Rights {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The directory is not writable. SQLite's own error would only state that it cannot open the
    /// file.
    #[error("the store {} cannot be written: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error of the system call on the directory.
        source: io::Error,
    },
    /// A newer limiter has written the file.
    #[error(
        "the store {} has schema version {found}, and this limiter knows versions up to {SCHEMA_VERSION}: run the newer limiter that wrote it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of the schema in the file.
        found: i64,
    },
    /// The file has a value that this program never writes.
    #[error("the store {} is damaged, it has an invalid value ({what}): {value}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The kind of value.
        what: &'static str,
        value: String,
    },
    /// A scope with this name exists already.
    #[error("the scope {0} exists already")]
    ScopeExists(String),
    /// The key is registered already, perhaps for another scope.
    #[error("this key is registered already, as {id} of {scope}")]
    KeyExists {
        /// The id of the registered key.
        id: String,
        /// The scope of the registered key.
        scope: String,
    },
    /// The key was registered once, and has been revoked.
    #[error("{}", describe_revoked(.0))]
    KeyRevoked(Box<KeyRecord>),
}

/// Returns the message for a key that has been revoked, with its scope and the time.
fn describe_revoked(key: &KeyRecord) -> String {
    let KeyRecord { id, scope, .. } = key;
    let when = key.revoked_at.map_or_else(String::new, |at| {
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        format!(" at {at}")
    });
    let gone = match key.scope_id {
        Some(_) => "",
        None => ", a scope that has been removed",
    };
    format!(
        "this key was revoked{when}, as {id} of {scope}{gone}: a revoked key cannot be registered again, so give the customer another one"
    )
}

/// An open store.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    writes: Writes,
    /// The rights with which SQLite opens its files. They are stored here because SQLite opens some
    /// of its files later than the main file.
    rights: Rights,
}

/// The bounds of the histogram of write times, in seconds. The lowest is the write time of a fast
/// disk. After the highest, the kernel programs are unattended and no longer wait for the store.
const WRITE_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Statistics of the writes since the store was opened.
#[derive(Debug, Clone)]
pub struct Writes {
    /// The durations of the successful writes, in seconds.
    pub seconds: Histogram,
    /// The number of failed writes.
    pub failures: u64,
}

impl Store {
    /// Returns whether there is a store in `directory`.
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Opens the store in `directory`, and creates or upgrades it if necessary.
    ///
    /// # Errors
    /// Returns [`StoreError::Newer`] if the file has a later version, [`StoreError::Unwritable`] if
    /// the directory is not writable (for example, on a read-only disk), [`StoreError::Untrusted`]
    /// if another user could redirect the path, and [`StoreError::Sqlite`] for any other failure.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_in(&files::private_directory(directory)?, Rights::OWN)
    }

    /// Opens the store like [`Self::open`]. If this process runs as root and the directory belongs
    /// to another user, the files are opened with the rights of that user.
    ///
    /// # Errors
    /// Returns the same errors as [`Self::open`].
    pub fn open_as_owner(directory: &Path) -> Result<Self, StoreError> {
        let rights_error = |source| StoreError::Rights {
            path: directory.join(FILE),
            source,
        };
        // The links in the path are resolved first, so that the rights are those of the owner of
        // the real directory. A symbolic link that belongs to one user could lead to the files of
        // another user.
        let real = files::resolve(directory, &mut |_, _| Ok(()))?;
        let rights = Rights::of_owner(&real).map_err(rights_error)?;
        if rights == Rights::OWN {
            return Self::open(&real);
        }
        let _assumed = rights.assume().map_err(rights_error)?;
        Self::open_in(&real, rights)
    }

    /// Opens the store in a directory whose path contains no symbolic link.
    fn open_in(directory: &Path, rights: Rights) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        faccessat(AT_FDCWD, directory, AccessFlags::W_OK, AtFlags::AT_EACCESS).map_err(
            |error| StoreError::Unwritable {
                path: path.clone(),
                source: error.into(),
            },
        )?;
        private::prepare(&path, &rights)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let opened = Connection::open_with_flags(&path, flags);
        let connection = opened.map_err(|source| StoreError::Sqlite {
            path: path.clone(),
            source,
        })?;
        let writes = Writes {
            seconds: Histogram::new(WRITE_SECONDS),
            failures: 0,
        };
        let mut store = Self {
            connection,
            path,
            writes,
            rights,
        };
        store.prepare()?;
        Ok(store)
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        let set = |store: &Self| {
            store
                .connection
                .pragma_update(None, "journal_mode", "WAL")?;
            store
                .connection
                .pragma_update(None, "synchronous", "FULL")?;
            store.connection.pragma_update(None, "foreign_keys", true)?;
            store
                .connection
                .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
        };
        let found = set(self).map_err(|source| self.sqlite(source))?;
        if found > SCHEMA_VERSION {
            return Err(StoreError::Newer {
                path: self.path.clone(),
                found,
            });
        }
        schema::upgrade(&mut self.connection, found).map_err(|source| StoreError::Sqlite {
            path: self.path.clone(),
            source,
        })
    }

    /// Makes all further writes fail, as on a disk that has become read-only.
    #[cfg(test)]
    pub fn refuse_changes(&self) {
        self.connection
            .pragma_update(None, "query_only", true)
            .expect("a setting of SQLite");
    }

    /// Runs `work` in one transaction. If this function returns without an error, the changes are
    /// on the disk, except when [`Store::change_without_sync`] is the caller.
    ///
    /// # Errors
    /// Returns the error of `work` or of the transaction. In either case nothing is changed.
    pub fn change<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let begun = self.execute_batch("BEGIN IMMEDIATE").map_err(E::from);
        let result = begun.and_then(|()| work(self)).and_then(|value| {
            self.execute_batch("COMMIT")?;
            Ok(value)
        });
        match result {
            Ok(_) => self.writes.seconds.observe(began.elapsed().as_secs_f64()),
            Err(_) => self.writes.failures += 1,
        }
        // After some errors, SQLite has already rolled the transaction back.
        if result.is_err()
            && !self.connection.is_autocommit()
            // The caller gets the first error. If the rollback fails too, SQLite rolls back when it
            // closes the connection.
            && let Err(rollback) = self.execute_batch("ROLLBACK")
        {
            log::error!("cannot roll back a change: {rollback}");
        }
        result
    }

    /// Runs `work` like [`Store::change`], for work that changes a large part of the file. This
    /// function gives SQLite a larger page cache, and truncates the write-ahead log afterwards.
    ///
    /// # Errors
    /// Returns the error of `work` or of the transaction. In either case nothing is changed.
    pub fn change_in_bulk<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let before: Vec<i64> = self.query("PRAGMA cache_size", [], |row| row.get(0))?;
        self.execute_batch(&format!("PRAGMA cache_size = -{BULK_CACHE_KIB}"))?;
        let result = self.change(work);
        // An error here does not affect the changes of `work`, which have been committed or rolled
        // back already. The only effect is that more memory or disk space stays in use.
        let before = before.first().copied().unwrap_or_default();
        for tidy in [
            format!("PRAGMA cache_size = {before}"),
            "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
        ] {
            if let Err(error) = self.execute_batch(&tidy) {
                log::debug!("cannot tidy up after a large change: {error}");
            }
        }
        result
    }

    /// Returns the directory of the file.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Returns the statistics of the writes since the store was opened.
    pub fn writes(&self) -> Writes {
        self.writes.clone()
    }

    /// Returns the value that is stored for this installation under the name `name`.
    ///
    /// # Errors
    /// Returns [`StoreError::Sqlite`] if SQLite fails.
    pub fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        let mut rows = self.query("SELECT value FROM meta WHERE name = ?1", [name], |row| {
            row.get(0)
        })?;
        Ok(rows.pop())
    }

    /// Stores a value for this installation under the name `name`.
    ///
    /// # Errors
    /// Returns [`StoreError::Sqlite`] if SQLite fails.
    pub fn set_meta(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO meta (name, value) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            [name, value],
        )?;
        Ok(())
    }

    fn sqlite(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite {
            path: self.path.clone(),
            source,
        }
    }

    fn corrupt(&self, what: &'static str, value: impl ToString) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            what,
            value: value.to_string(),
        }
    }

    /// Assumes the rights with which SQLite opens its files, until the returned guard is dropped.
    fn assume(&self) -> Result<AssumedRights, StoreError> {
        self.rights.assume().map_err(|source| StoreError::Rights {
            path: self.path.clone(),
            source,
        })
    }

    /// Closes the store and its files.
    pub fn close(self) {
        // If the rights cannot be assumed, the store is closed without them. This is unlikely,
        // because the same rights were assumed when the store was opened.
        let _assumed = self.assume().ok();
        drop(self);
    }

    fn execute_batch(&self, sql: &str) -> Result<(), StoreError> {
        let _assumed = self.assume()?;
        self.connection
            .execute_batch(sql)
            .map_err(|source| self.sqlite(source))
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
        let _assumed = self.assume()?;
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(|source| self.sqlite(source))
    }

    fn query<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let _assumed = self.assume()?;
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, read)?.collect())
            .map_err(|source| self.sqlite(source))
    }

    /// Converts a time in the store, which is a number of milliseconds since 1970.
    fn moment(&self, millis: i64) -> Result<DateTime<Utc>, StoreError> {
        DateTime::from_timestamp_millis(millis).ok_or_else(|| self.corrupt("a time", millis))
    }
}

#[cfg(test)]
mod tests;
