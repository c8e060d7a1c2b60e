// SPDX-License-Identifier: MIT OR Apache-2.0

//! The choice of ids for new scopes.

use super::registry::{Scopes, is_quiet};
use crate::{
    config::Tables,
    engine::keys::unknown::Unknown,
    kernel::{KernelError, Plane},
    protocol::error::ApiError,
};

/// Returns an id that no scope has and that no flow in the kernel can still use.
///
/// # Errors
/// Returns an error if the table of scopes is full.
pub(crate) fn free_id(
    scopes: &Scopes,
    unknown: &Unknown,
    plane: &dyn Plane,
    tables: &Tables,
) -> Result<u32, ApiError> {
    let full = || KernelError::scopes_full(tables.scopes).into();
    let mut ids = free_ids(scopes, unknown, plane, tables);
    ids.next().ok_or_else(full)
}

/// Returns distinct ids that are available for new scopes. There are at most as many as scopes can
/// still be added.
pub(crate) fn free_ids(
    scopes: &Scopes,
    unknown: &Unknown,
    plane: &dyn Plane,
    tables: &Tables,
) -> impl Iterator<Item = u32> {
    let (limit, all) = (tables.scopes, tables.scope_ids());
    let next = scopes.next_id().min(limit);
    let is_quiet = move |id: &u32| is_quiet(&plane.state(*id));
    let unused = move |id: &u32| !scopes.is_taken(*id) && !unknown.may_take(*id) && is_quiet(id);
    // The ids of removed scopes can be used again when nothing in the kernel uses them any more.
    let retired = scopes.retired();
    let busy = retired.clone().filter(|id| !is_quiet(id)).count();
    let registered = scopes.len() - unknown.count();
    // Ids from `limit` upwards are meant for unknown keys. Unknown keys may also have ids below
    // `limit` that they got when the limit was lower.
    (next..limit)
        .chain(0..next)
        .filter(unused)
        .chain(retired.filter(is_quiet))
        .chain((limit..all).filter(unused))
        .take((limit as usize).saturating_sub(registered + busy))
}
