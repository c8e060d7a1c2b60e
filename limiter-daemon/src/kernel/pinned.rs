// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the sizes of the pinned maps, which may differ from the configuration.

use std::path::Path;

use aya::maps::MapInfo;
use limiter_common::abi::{ABI_VERSION, map};

use super::{KernelError, PinDirectory, layouts::layouts};
use crate::config::Tables;

impl PinDirectory {
    /// Returns the sizes of the pinned tables in the newest layout that this program can take over.
    /// Returns `None` if no such layout is pinned.
    ///
    /// # Errors
    /// Returns [`KernelError::Io`] if a directory cannot be read, and [`KernelError::Map`] if a map
    /// cannot be opened.
    pub fn pinned_tables(&self) -> Result<Option<Tables>, KernelError> {
        let layouts = layouts(self)?;
        let known = layouts
            .iter()
            .rev()
            .find(|(version, _)| *version <= ABI_VERSION);
        let Some((_, maps)) = known.filter(|(_, maps)| maps.join(map::STATE).exists()) else {
            return Ok(None);
        };
        // Maps that are not pinned will be created with the smallest size, because they have no
        // contents that could be taken over.
        let smallest = Tables {
            flows: 1,
            scopes: 1,
            keys: 1,
            unknown_keys: 0,
            leases: false,
        };
        Ok(Some(sizes(maps, &smallest)?))
    }

    /// Returns the sizes of the pinned tables of the current layout, and those in `wanted` for
    /// tables that are not pinned yet.
    pub(super) fn tables(&self, wanted: &Tables) -> Result<Tables, KernelError> {
        sizes(&self.maps(), wanted)
    }
}

fn sizes(maps: &Path, wanted: &Tables) -> Result<Tables, KernelError> {
    let scope_ids = entries(maps, map::STATE)?;
    let keys = entries(maps, map::KEYS)?;
    // Unknown keys share the maps of scopes and keys with registered keys. A layout before version
    // 4 does not record how many entries are for unknown keys. For such a layout, the number in
    // `wanted` is assumed, but at most half of the entries.
    let unknown = match entries(maps, map::UNUSED)? {
        Some(entries) => entries.saturating_sub(1),
        None => [scope_ids, keys]
            .into_iter()
            .flatten()
            .map(|entries| entries / 2)
            .fold(wanted.unknown_keys, u32::min),
    };
    let registered = |entries: Option<u32>, wanted: u32| {
        entries.map_or(wanted, |entries| entries.saturating_sub(unknown))
    };
    Ok(Tables {
        flows: entries(maps, map::FLOWS)?.unwrap_or(wanted.flows),
        scopes: registered(scope_ids, wanted.scopes),
        keys: registered(keys, wanted.keys),
        unknown_keys: unknown,
        leases: entries(maps, map::LEASES)?.map_or(wanted.leases, |entries| entries > 1),
    })
}

/// Returns the number of entries that a map can hold, or `None` if it is not pinned.
fn entries(maps: &Path, name: &'static str) -> Result<Option<u32>, KernelError> {
    let pin = maps.join(name);
    if !pin.exists() {
        return Ok(None);
    }
    let info = MapInfo::from_pin(&pin).map_err(|source| KernelError::Map {
        name,
        source: Box::new(source),
    })?;
    Ok(Some(info.max_entries()))
}
