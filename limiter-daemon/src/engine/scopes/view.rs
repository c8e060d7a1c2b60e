// SPDX-License-Identifier: MIT OR Apache-2.0

//! Scopes in the form that the control interface shows.

use super::registry::Scope;
use crate::protocol::{overrides::OverrideView, views::ScopeView};

pub(crate) fn view_scope(scope: &Scope) -> ScopeView {
    ScopeView {
        scope: scope.record.name.clone(),
        tier: scope.record.tier.clone(),
        limits: scope.limits,
        limits_override: scope
            .record
            .limits_override
            .as_ref()
            .map(OverrideView::from),
        mode: scope.mode.as_str().to_owned(),
        own_mode: scope.record.mode.map(|mode| mode.as_str().to_owned()),
        unknown_key: scope.record.unknown.is_some(),
        created_at: scope.record.created_at,
    }
}
