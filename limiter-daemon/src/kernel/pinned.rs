//! Sizes of maps that are pinned, whatever the configuration says by now.

use std::path::Path;

use aya::maps::MapInfo;
use limiter_common::abi::{ABI_VERSION, map};

use super::{KernelError, PinDirectory, layouts::layouts};
use crate::config::Tables;

impl PinDirectory {
    /// Tables as large as those that are pinned, in the newest layout that this program can take over;
    /// `None` when nothing is pinned that it could.
    ///
    /// # Errors
    /// [`KernelError::Io`], [`KernelError::Map`].
    pub fn pinned_tables(&self) -> Result<Option<Tables>, KernelError> {
        let layouts = layouts(self)?;
        let known = layouts
            .iter()
            .rev()
            .find(|(version, _)| *version <= ABI_VERSION);
        let Some((_, maps)) = known.filter(|(_, maps)| maps.join(map::STATE).exists()) else {
            return Ok(None);
        };
        // What is not there will be made as small as can be.
        let smallest = Tables {
            flows: 1,
            scopes: 1,
            keys: 1,
            unknown_keys: 0,
        };
        Ok(Some(sizes(maps, &smallest)?))
    }

    /// The sizes that the tables of this layout have, or will be made with if they are not pinned yet.
    pub(super) fn tables(&self, wanted: &Tables) -> Result<Tables, KernelError> {
        sizes(&self.maps(), wanted)
    }
}

fn sizes(maps: &Path, wanted: &Tables) -> Result<Tables, KernelError> {
    let scope_ids = entries(maps, map::STATE)?;
    let keys = entries(maps, map::KEYS)?;
    // Unknown keys have their scopes and keys in the same maps. As many as layouts before the fourth had
    // are not to be told from these; half of them is room enough to begin with.
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
    })
}

/// How many a map takes; `None` if it is not there.
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
