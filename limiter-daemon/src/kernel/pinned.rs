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
        // Unknown keys have their scopes and keys in the same maps.
        Ok(Some(Tables {
            flows: entries(maps, map::FLOWS)?,
            scopes: entries(maps, map::STATE)?,
            keys: entries(maps, map::KEYS)?,
            unknown_keys: 0,
        }))
    }
}

/// How many a map takes; one that is not there will be made as small as can be.
fn entries(maps: &Path, name: &'static str) -> Result<u32, KernelError> {
    let pin = maps.join(name);
    if !pin.exists() {
        return Ok(1);
    }
    let info = MapInfo::from_pin(&pin).map_err(|source| KernelError::Map {
        name,
        source: Box::new(source),
    })?;
    Ok(info.max_entries())
}
