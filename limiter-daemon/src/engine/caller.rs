// SPDX-License-Identifier: MIT OR Apache-2.0

//! The author of a change.

use chrono::{DateTime, Utc};

use crate::store::AuditEntry;

/// The author and the time of a change.
pub struct Caller {
    /// The user whose process sent the command through the control socket, the command or the
    /// signal that caused the change without the socket, or `limiter` for a change that the daemon
    /// made by itself.
    pub who: String,
    /// The time of the change.
    pub now: DateTime<Utc>,
}

impl Caller {
    /// Returns an entry for the audit trail with this author and this time, and without a note.
    pub(crate) fn entry<'a>(
        &'a self,
        action: &'a str,
        object: &'a str,
        detail: &'a str,
    ) -> AuditEntry<'a> {
        AuditEntry {
            at: self.now,
            who: &self.who,
            action,
            object,
            detail,
            note: None,
        }
    }
}
