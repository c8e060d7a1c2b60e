// SPDX-License-Identifier: MIT OR Apache-2.0

//! Keys in the form that the control interface shows.

use crate::{
    engine::time::ClockWords,
    kernel::{KernelError, Plane},
    protocol::views::KeyView,
    store::KeyRecord,
};

/// Returns the view of a key, with the time at which it was last used.
///
/// # Errors
/// Returns an error if the kernel reports one.
pub(crate) fn view_key(
    record: KeyRecord,
    plane: &dyn Plane,
    clock: &ClockWords,
) -> Result<KeyView, KernelError> {
    let entry = plane.key(&record.digest)?;
    // The kernel knows only uses of the key since the maps were created. The time of an earlier use
    // is in the store.
    let in_kernel = entry.and_then(|entry| clock.utc(entry.last_used_ns));
    Ok(KeyView {
        last_used_at: in_kernel.max(record.last_used_at),
        id: record.id,
        scope: record.scope,
        label: record.label,
        state: record.state,
        created_at: record.created_at,
        revoked_at: record.revoked_at,
        until: record.until,
        scope_removed: record.scope_id.is_none(),
    })
}
