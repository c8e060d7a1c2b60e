// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes the keys in the kernel consistent with the store.

use std::collections::HashMap;

use limiter_common::abi::{Digest, KEY_ADOPTED, KEY_DISABLED, KeyEntry, NO_SCOPE};

use crate::{
    domain::key_state::KeyState,
    engine::scopes::registry::Scopes,
    kernel::{KernelError, Plane},
    protocol::error::ApiError,
    store::{KeyRecord, Store},
};

/// Makes the keys in the kernel equal to those in the store, and preserves the times at which they
/// were last used. Entries that are already correct are not written again. If `adopts` is set,
/// keeps the unknown keys for which the kernel has created scopes that the store lacks or has with
/// another id, and returns these keys with the ids of their scopes.
pub(crate) fn publish(
    plane: &mut dyn Plane,
    store: &Store,
    scopes: &Scopes,
    adopts: bool,
) -> Result<Vec<(Digest, u32)>, ApiError> {
    let mut present: HashMap<Digest, KeyEntry> = plane.keys()?.into_iter().collect();
    let registered = store.key_briefs()?;
    let registered = registered.into_iter().map(|key| {
        (
            key.digest,
            scope_in_kernel(key.scope_id),
            flags(key.state, key.until),
        )
    });
    let of_unknown_keys = unknown_keys(scopes, &present);
    let mut different = Vec::new();
    let mut same = 0u64;
    for (digest, scope, flags) in registered.chain(of_unknown_keys) {
        let old = present.remove(&digest);
        let entry = KeyEntry {
            scope,
            flags,
            last_used_ns: old.map_or(0, |entry| entry.last_used_ns),
        };
        if old == Some(entry) {
            same += 1;
        } else {
            different.push((digest, entry));
        }
    }
    let (adopted, foreign): (Vec<_>, Vec<_>) = present
        .into_iter()
        .partition(|(_, entry)| adopts && entry.flags & KEY_ADOPTED != 0);
    log::info!(
        "keys in the kernel: {same} as in the store, {} entered, {} removed",
        different.len(),
        foreign.len()
    );
    // Keys that the kernel must not have are removed first, to make room for the others.
    for (digest, _) in foreign {
        plane.remove_key(&digest)?;
    }
    plane.set_keys(&different)?;
    let adopted = adopted.into_iter();
    Ok(adopted.map(|(key, entry)| (key, entry.scope)).collect())
}

/// Returns the digests, scopes and flags of the unknown keys that have scopes. Leaves out the keys
/// for which the kernel has a scope with another id, because the kernel's entry is newer.
fn unknown_keys(scopes: &Scopes, present: &HashMap<Digest, KeyEntry>) -> Vec<(Digest, u32, u32)> {
    let keys = scopes.iter().filter_map(|scope| {
        let (key, id) = (scope.record.unknown?, scope.record.id);
        let has_other = present
            .get(&key)
            .is_some_and(|entry| entry.flags & KEY_ADOPTED != 0 && entry.scope != id);
        (!has_other).then_some((key, id, KEY_ADOPTED))
    });
    keys.collect()
}

/// Returns the unknown keys for which the kernel has created scopes, with their entries.
pub(crate) fn adopted(plane: &dyn Plane) -> Result<Vec<(Digest, KeyEntry)>, KernelError> {
    let mut keys = plane.keys()?;
    keys.retain(|(_, entry)| entry.flags & KEY_ADOPTED != 0);
    Ok(keys)
}

/// Returns the entry that a registered key has in the kernel.
pub(crate) fn key_entry(key: &KeyRecord, last_used_ns: u64) -> KeyEntry {
    KeyEntry {
        scope: scope_in_kernel(key.scope_id),
        flags: flags(key.state, key.until.map(|until| until.timestamp_millis())),
        last_used_ns,
    }
}

/// Returns the entry that an unknown key has in the kernel.
pub(crate) fn unknown_entry(scope: u32, last_used_ns: u64) -> KeyEntry {
    KeyEntry {
        scope,
        flags: KEY_ADOPTED,
        last_used_ns,
    }
}

/// Returns the scope id for the kernel's entry of a key. The keys of removed scopes have no scope.
/// They are revoked, which the programs check before they look for a scope.
fn scope_in_kernel(scope_id: Option<u32>) -> u32 {
    scope_id.unwrap_or(NO_SCOPE)
}

/// Returns the flags of a key with an end in milliseconds since 1970.
fn flags(state: KeyState, until: Option<i64>) -> u32 {
    if state != KeyState::Active {
        return KEY_DISABLED;
    }
    let millis = until.and_then(|until| u64::try_from(until).ok());
    millis.map_or(0, |millis| KeyEntry::end_bits(millis.div_ceil(1_000)))
}
