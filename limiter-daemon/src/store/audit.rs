//! The audit trail: every change, append-only.

use chrono::{DateTime, Utc};
use rusqlite::params;

use super::{Store, StoreError};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry<'a> {
    /// When.
    pub at: DateTime<Utc>,
    /// Who, by the credentials of the control socket's other end.
    pub who: &'a str,
    /// What kind of change, like `limits set`.
    pub action: &'a str,
    /// The scope or key id it concerns; empty for the daemon as a whole.
    pub object: &'a str,
    /// What changed, for people; never a raw key.
    pub detail: &'a str,
    /// The operator's reason.
    pub note: Option<&'a str>,
}

/// One change, as it stands in the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub who: String,
    /// What kind of change.
    pub action: String,
    /// The scope or key id it concerns; empty for the daemon as a whole.
    pub object: String,
    /// What changed.
    pub detail: String,
    /// The operator's reason.
    pub note: Option<String>,
}

/// Which part of the trail is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only what concerns this scope or key id.
    pub object: Option<String>,
    /// Only from this moment on.
    pub since: Option<DateTime<Utc>>,
    /// The last so many of these.
    pub limit: u32,
}

impl Store {
    /// Appends to the audit trail; within [`Store::change`], with the change itself.
    ///
    /// # Errors
    /// [`StoreError`].
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

    /// A part of the audit trail, the oldest entry first.
    ///
    /// # Errors
    /// [`StoreError`].
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
