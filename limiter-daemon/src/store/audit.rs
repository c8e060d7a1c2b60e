// SPDX-License-Identifier: MIT OR Apache-2.0

//! The audit trail, an append-only list of all changes.

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::{Store, StoreError};

/// A change to be appended to the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry<'a> {
    /// The time of the change.
    pub at: DateTime<Utc>,
    /// The author of the change: the user whose process sent the command through the control
    /// socket, the command or the signal that caused the change without the socket, or `limiter`
    /// for a change that the daemon made by itself.
    pub who: &'a str,
    /// The kind of change, for example `limits set`.
    pub action: &'a str,
    /// The name of the scope or the id of the key that the change concerns, or an empty string for
    /// a change to the daemon as a whole.
    pub object: &'a str,
    /// The details as a sentence for people, which never contains a raw key.
    pub detail: &'a str,
    /// The reason that the operator gave.
    pub note: Option<&'a str>,
}

/// A change that was read from the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// The time of the change.
    pub at: DateTime<Utc>,
    /// The author of the change, as in [`AuditEntry::who`].
    pub who: String,
    /// The kind of change.
    pub action: String,
    /// The name of the scope or the id of the key that the change concerns, or an empty string for
    /// a change to the daemon as a whole.
    pub object: String,
    /// The details as a sentence for people.
    pub detail: String,
    /// The reason that the operator gave.
    pub note: Option<String>,
}

/// Selects a part of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFilter {
    /// The name of a scope or the id of a key. If it is set, only changes to that scope or key are
    /// returned.
    pub object: Option<String>,
    /// The earliest time. If it is set, only changes at or after this time are returned.
    pub since: Option<DateTime<Utc>>,
    /// The maximum number of changes to return. If there are more, the latest ones are returned.
    pub limit: u32,
}

impl Store {
    /// Appends a change to the audit trail. Call this function within [`Store::change`], in the
    /// same transaction as the change itself.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn audit(&self, entry: &AuditEntry<'_>) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO audit (at, who, action, object, detail, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                entry.at.timestamp_millis(),
                entry.who,
                entry.action,
                entry.object,
                entry.detail,
                entry.note
            ],
        )?;
        Ok(())
    }

    /// Returns a part of the audit trail, with the oldest change first.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn audit_trail(&self, filter: &AuditFilter) -> Result<Vec<AuditRecord>, StoreError> {
        type Row = (i64, String, String, String, String, Option<String>);
        let since = filter.since.map(|since| since.timestamp_millis());
        let mut rows: Vec<Row> = self.query(
            "SELECT at, who, action, object, detail, note FROM audit
             WHERE (?1 IS NULL OR object = ?1) AND (?2 IS NULL OR at >= ?2)
             ORDER BY id DESC LIMIT ?3",
            params![filter.object, since, filter.limit],
            |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                ))
            },
        )?;
        rows.reverse();
        rows.into_iter()
            .map(|(at, who, action, object, detail, note)| {
                Ok(AuditRecord {
                    at: self.moment(at)?,
                    who,
                    action,
                    object,
                    detail,
                    note,
                })
            })
            .collect()
    }
}
