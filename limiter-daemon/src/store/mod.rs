//! The store: scopes, keys, overrides, usage and the audit trail in one SQLite file.
//!
//! Write-ahead log with `synchronous = FULL`: a command that has answered is on the disk, and so is a count
//! before the kernel may go beyond it; only when keys were last used may be lost with the machine.

mod audit;
mod history;
mod keys;
mod schema;
mod scopes;
mod usage;

use std::{
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use chrono::{DateTime, Utc};
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};
use prometheus_client::metrics::histogram::Histogram;
use rusqlite::Connection;
use thiserror::Error;

pub use audit::{AuditEntry, AuditFilter, AuditRecord};
pub use keys::{KeyBrief, KeyRecord, KeyState, NewKey};
pub use scopes::ScopeRecord;
pub use usage::{DayUsage, Refusals, Seen, date_of};

use schema::SCHEMA_VERSION;

/// The file in the state directory.
const FILE: &str = "limiter.db";

/// Memory for pages in [`Store::change_much`], KiB: the indexes of a million keys fit.
const MUCH_CACHE_KIB: u32 = 256 * 1024;

/// Why the store refused.
#[derive(Debug, Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("the store {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// SQLite would only say that it cannot open the file.
    #[error("the store {} cannot be written: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said of its directory.
        source: io::Error,
    },
    /// A newer limiter wrote the file.
    #[error(
        "the store {} has schema {found}, this limiter knows {SCHEMA_VERSION}: run the newer limiter that wrote it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// A value in the file is not one that this program writes.
    #[error("the store {} holds {what} that cannot be: {value}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What kind of value.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// A scope of that name is there.
    #[error("the scope {0} exists already")]
    ScopeExists(String),
    /// The key is registered, perhaps under another scope.
    #[error("this key is registered already, as {id} of {scope}")]
    KeyExists {
        /// The id it has.
        id: String,
        /// The scope it is of.
        scope: String,
    },
}

/// An open store.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    writes: Writes,
}

/// How long changes took, seconds: from what a fast disk takes to what the kernel's programs do not wait
/// for any more.
const WRITE_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// What became of changes since the store was opened.
#[derive(Debug, Clone)]
pub struct Writes {
    /// How long those took that are on the disk, s.
    pub seconds: Histogram,
    /// How many failed.
    pub failures: u64,
}

impl Store {
    /// Whether there is a store in `directory`.
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Opens the store in `directory`, making or upgrading it as needed.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a file of a later version, [`StoreError::Unwritable`] on a read-only disk,
    /// [`StoreError::Sqlite`] for all else.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        faccessat(AT_FDCWD, directory, AccessFlags::W_OK, AtFlags::AT_EACCESS).map_err(
            |error| StoreError::Unwritable {
                path: path.clone(),
                source: error.into(),
            },
        )?;
        let connection = Connection::open(&path).map_err(|source| StoreError::Sqlite {
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

    /// From now on the file takes nothing, as on a disk that has become read-only.
    #[cfg(test)]
    pub fn refuse_changes(&self) {
        self.connection
            .pragma_update(None, "query_only", true)
            .expect("a setting of SQLite");
    }

    /// Runs `work` in one transaction that is on the disk when this returns.
    ///
    /// # Errors
    /// Whatever `work` returns; nothing is changed then.
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
        // Some errors of SQLite's end the transaction by themselves.
        if result.is_err()
            && !self.connection.is_autocommit()
            // The first error is the one worth telling; a failed rollback leaves the transaction
            // to be rolled back when the connection closes.
            && let Err(rollback) = self.execute_batch("ROLLBACK")
        {
            log::error!("{rollback}");
        }
        result
    }

    /// [`Store::change`] for work on a large part of the file: with room in memory for the pages
    /// that it goes to and fro between, and with the log cut back afterwards.
    ///
    /// # Errors
    /// Whatever `work` returns; nothing is changed then.
    pub fn change_much<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let before: Vec<i64> = self.query("PRAGMA cache_size", [], |row| row.get(0))?;
        self.execute_batch(&format!("PRAGMA cache_size = -{MUCH_CACHE_KIB}"))?;
        let result = self.change(work);
        // The work is done or undone by now, whatever becomes of these: more memory for pages and a
        // log that stays long cost room, nothing else.
        let before = before.first().copied().unwrap_or_default();
        for tidy in [
            format!("PRAGMA cache_size = {before}"),
            "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
        ] {
            if let Err(error) = self.execute_batch(&tidy) {
                log::debug!("{error}");
            }
        }
        result
    }

    /// What became of changes so far.
    pub fn writes(&self) -> Writes {
        self.writes.clone()
    }

    /// A value that this installation remembers.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        let mut rows = self.query("SELECT value FROM meta WHERE name = ?1", [name], |row| {
            row.get(0)
        })?;
        Ok(rows.pop())
    }

    /// Remembers a value.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
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

    fn execute_batch(&self, sql: &str) -> Result<(), StoreError> {
        self.connection
            .execute_batch(sql)
            .map_err(|source| self.sqlite(source))
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
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
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, read)?.collect())
            .map_err(|source| self.sqlite(source))
    }

    /// A moment as the store keeps it: milliseconds since the epoch.
    fn moment(&self, millis: i64) -> Result<DateTime<Utc>, StoreError> {
        DateTime::from_timestamp_millis(millis).ok_or_else(|| self.corrupt("a time", millis))
    }
}

#[cfg(test)]
mod tests;
