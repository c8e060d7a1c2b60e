//! Who changed what.

use super::engine::Engine;
use crate::{
    api::{ApiError, AuditView},
    store::AuditFilter,
};

/// Longest note, in bytes.
pub(crate) const MAX_NOTE: usize = 1000;

/// A note is one line that says something: it is shown in a table, on an operator's terminal.
pub(super) fn check_note(note: &str) -> Result<(), ApiError> {
    if note.trim().is_empty() {
        return Err(ApiError::invalid(
            "the note is empty: say why, for the audit trail",
        ));
    }
    if note.len() > MAX_NOTE || note.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!(
            "the note is too long or has control characters: one line of at most {MAX_NOTE} bytes"
        )));
    }
    Ok(())
}

impl Engine {
    /// A part of the audit trail, the oldest entry first.
    ///
    /// # Errors
    /// The store's.
    pub fn audit_trail(&self, filter: &AuditFilter) -> Result<Vec<AuditView>, ApiError> {
        let entries = self.store.audit_trail(filter)?;
        Ok(entries
            .into_iter()
            .map(|entry| AuditView {
                at: entry.at,
                who: entry.who,
                action: entry.action,
                object: entry.object,
                detail: entry.detail,
                note: entry.note,
            })
            .collect())
    }
}
