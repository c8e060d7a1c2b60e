//! Who changed what.

use super::engine::Engine;
use crate::{
    api::{ApiError, AuditView},
    store::AuditFilter,
};

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
