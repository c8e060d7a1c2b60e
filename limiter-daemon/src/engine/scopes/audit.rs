// SPDX-License-Identifier: MIT OR Apache-2.0

//! The audit trail.

use crate::{
    domain::plain::{self, MAX_NOTE},
    protocol::{error::ApiError, views::AuditView},
    store::AuditRecord,
};

/// Checks that a note is one line of text. This is required because notes are shown in a table on
/// an operator's terminal.
pub(crate) fn check_note(note: &str) -> Result<(), ApiError> {
    if note.trim().is_empty() {
        return Err(ApiError::invalid(
            "the note is empty: give the reason of the change, for the audit trail",
        ));
    }
    if note.len() > MAX_NOTE {
        return Err(ApiError::invalid(format!(
            "the note has {} bytes: write one line of at most {MAX_NOTE}",
            note.len()
        )));
    }
    plain::check(note).map_err(|unseen| ApiError::invalid(format!("the note {unseen}")))
}

/// Does the same as [`check_note`] for a note that may be missing.
pub(crate) fn check_optional_note(note: Option<&str>) -> Result<(), ApiError> {
    note.map_or(Ok(()), check_note)
}

/// Returns the view of an entry in the audit trail.
pub(crate) fn view_entry(entry: AuditRecord) -> AuditView {
    AuditView {
        at: entry.at,
        who: entry.who,
        action: entry.action,
        object: entry.object,
        detail: entry.detail,
        note: entry.note,
    }
}
