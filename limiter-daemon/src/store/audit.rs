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
}
