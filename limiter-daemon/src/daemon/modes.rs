//! Whether a scope's limits are enforced, or what they would refuse is only counted.

use super::{
    audit::check_note,
    engine::{Caller, Engine},
};
use crate::{
    api::{ApiError, ScopeView, SetMode},
    scope::ScopeName,
    store::AuditEntry,
};

impl Engine {
    /// Gives a scope a mode of its own, or that of its tier again; from its next request on.
    ///
    /// # Errors
    /// There is no such scope, or the note says nothing; the store's and the kernel's.
    pub fn set_mode(
        &mut self,
        name: &ScopeName,
        request: &SetMode,
        caller: &Caller,
    ) -> Result<ScopeView, ApiError> {
        check_note(&request.note)?;
        self.check_registered(name)?;
        let record = &self.scope(name)?.record;
        let (id, own) = (record.id, request.mode.own());
        let was = record.mode.map_or("tier", |mode| mode.as_str());
        let detail = format!("{}, was {was}", own.map_or("tier", |mode| mode.as_str()));
        self.store.change(|store| {
            store.set_mode(id, own)?;
            let entry = caller.entry("scope mode", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(&request.note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(name) {
            scope.record.mode = own;
        }
        self.publish_scope(name)?;
        let what = format!("mode of {name} is {detail}");
        self.tell_change(caller, "scope mode", Some(name), None, what);
        self.scope_view(name)
    }
}
