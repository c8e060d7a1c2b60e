// SPDX-License-Identifier: MIT OR Apache-2.0

//! Handles maps of other layouts in the pin directory. Maps of an older layout are carried over,
//! and maps of a newer layout are not touched.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use limiter_common::abi::{ABI_VERSION, counter, map};

use super::{
    KernelError,
    directory::remove,
    error::{io_error, map_error},
    growth,
    pins::{COUNTERS_SINCE, PinDirectory, Shape, shapes},
};
use crate::{config::Tables, domain::hook::Hook};

/// The directory in which the pins of `v<number>` are prepared. It is renamed to `v<number>` when
/// it is complete.
pub(super) const UNFINISHED: &str = "unfinished";

/// Returns the version and the path of each pinned layout, sorted by version.
pub(super) fn layouts(pins: &PinDirectory) -> Result<Vec<(u32, PathBuf)>, KernelError> {
    let root = pins.root();
    let failed = io_error("list", root);
    let mut layouts = Vec::new();
    for entry in fs::read_dir(root).map_err(&failed)? {
        let path = entry.map_err(&failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let version = name.and_then(|name| name.strip_prefix('v')?.parse().ok());
        if let Some(version) = version
            && !is_empty(&path)?
        {
            layouts.push((version, path));
        }
    }
    layouts.sort();
    Ok(layouts)
}

fn is_empty(path: &Path) -> Result<bool, KernelError> {
    let mut entries = fs::read_dir(path).map_err(io_error("list", path))?;
    Ok(entries.next().is_none())
}

/// Pins the maps of an older layout in the directory of the current layout as well, except maps
/// whose shape has changed since. The old and the new programs then share the maps that are pinned
/// in both directories, so the contents of these maps are not lost. Returns the order in which the
/// two hooks of an interface get their programs.
///
/// # Errors
/// Returns [`KernelError::NewerLayout`] if a newer layout is pinned, or another error if the file
/// system rejects an operation.
pub(super) fn carry_over(pins: &PinDirectory, tables: &Tables) -> Result<[Hook; 2], KernelError> {
    let layouts = layouts(pins)?;
    if let Some((found, path)) = layouts.iter().find(|(version, _)| *version > ABI_VERSION) {
        return Err(KernelError::NewerLayout {
            path: path.clone(),
            found: *found,
        });
    }
    let Some((from, old)) = layouts.last().filter(|(version, _)| *version < ABI_VERSION) else {
        return Ok(Hook::ATTACH_ORDER);
    };
    let unfinished = pins.root().join(UNFINISHED);
    remove(&unfinished)?;
    let failed = io_error("create", &unfinished);
    fs::create_dir(&unfinished).map_err(&failed)?;
    let mut left = Vec::new();
    for Shape { name, since, .. } in shapes(tables) {
        if since > *from || !old.join(name).exists() {
            left.push(name);
        } else {
            fs::hard_link(old.join(name), unfinished.join(name)).map_err(&failed)?;
        }
    }
    if !left.contains(&map::STATE) {
        growth::carry_identity(old, &unfinished)?;
    }
    fs::rename(&unfinished, pins.maps()).map_err(io_error("rename", &unfinished))?;
    log::info!(
        "the maps in {} have layout {from}, and were carried over to layout {ABI_VERSION}, except \
         {}, which are filled anew",
        old.display(),
        left.join(", ")
    );
    if left.contains(&map::FLOWS) {
        return Ok(Hook::TAKEOVER_ORDER);
    }
    if !left.contains(&map::STATE) {
        log::info!("counts, requests in flight and connections were kept");
    }
    Ok(Hook::ATTACH_ORDER)
}

/// Adds the counts of older layouts to `counters`. An older layout has fewer counters, which have
/// the same indices in the current layout. A count that a program adds to `counters` between the
/// read and the write of a counter can be lost.
fn carry_counters(
    pins: &PinDirectory,
    counters: &mut PerCpuArray<MapData, u64>,
) -> Result<(), KernelError> {
    let counters_error = map_error(map::COUNTERS);
    for (version, path) in layouts(pins)? {
        let pin = path.join(map::COUNTERS);
        if version >= COUNTERS_SINCE || !pin.exists() {
            // Layouts from `COUNTERS_SINCE` on share their map of counters with the current layout.
            continue;
        }
        let data = MapData::from_pin(&pin).map_err(&counters_error)?;
        let map = Map::from_map_data(data).map_err(&counters_error)?;
        let old = PerCpuArray::<_, u64>::try_from(map).map_err(&counters_error)?;
        for index in 0..old.len().min(counter::COUNT) {
            let before = old.get(&index, 0).map_err(&counters_error)?;
            let now = counters.get(&index, 0).map_err(&counters_error)?;
            let sums = before
                .iter()
                .zip(now.iter())
                .map(|(before, now)| before + now);
            let sums =
                PerCpuValues::try_from(sums.collect::<Vec<_>>()).map_err(io_error("read", &pin))?;
            counters.set(index, sums, 0).map_err(&counters_error)?;
        }
    }
    Ok(())
}

/// Adds the counts of older layouts to `counters`, and removes these layouts. Call this function
/// after the programs of these layouts have been replaced.
///
/// # Errors
/// Returns an error if the kernel or the file system rejects an operation.
pub(super) fn retire(
    pins: &PinDirectory,
    counters: &mut PerCpuArray<MapData, u64>,
) -> Result<(), KernelError> {
    carry_counters(pins, counters)?;
    drop_older(pins)
}

fn drop_older(pins: &PinDirectory) -> Result<(), KernelError> {
    for (version, path) in layouts(pins)? {
        if version < ABI_VERSION {
            remove(&path)?;
            log::info!("removed the maps of layout {version}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use super::*;

    fn pin(pins: &PinDirectory, version: u32, name: &str) {
        let directory = pins.root().join(format!("v{version}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), version.to_string()).unwrap();
    }

    fn pinned(pins: &PinDirectory, name: &str) -> Option<String> {
        fs::read_to_string(pins.maps().join(name)).ok()
    }

    #[test]
    fn only_maps_of_the_same_layout_are_carried_over() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(directory.path());
        fs::create_dir_all(pins.maps()).unwrap();
        for name in [map::STATE, map::LIMITS, "SOMETHING"] {
            pin(&pins, 2, name);
        }
        // This directory is left over from an earlier start that was interrupted.
        fs::create_dir(directory.path().join(UNFINISHED)).unwrap();
        fs::write(directory.path().join(UNFINISHED).join("KEYS"), "").unwrap();
        let hooks = carry_over(&pins, &Tables::default()).unwrap();
        assert_eq!(hooks, Hook::TAKEOVER_ORDER, "no map of flows");
        assert_eq!(pinned(&pins, map::STATE).as_deref(), Some("2"));
        for name in [map::LIMITS, "SOMETHING", map::KEYS] {
            assert_eq!(pinned(&pins, name), None, "{name}");
        }
        drop_older(&pins).unwrap();
        assert!(!directory.path().join("v2").exists());
        assert_eq!(pinned(&pins, map::STATE).as_deref(), Some("2"));
    }

    #[test]
    fn maps_of_this_layout_are_not_replaced_by_older_ones() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(directory.path());
        pin(&pins, 2, map::STATE);
        pin(&pins, ABI_VERSION, map::STATE);
        carry_over(&pins, &Tables::default()).unwrap();
        let this = ABI_VERSION.to_string();
        assert_eq!(pinned(&pins, map::STATE), Some(this));
    }

    #[test]
    fn a_newer_layout_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(directory.path());
        pin(&pins, ABI_VERSION + 1, map::STATE);
        let error = carry_over(&pins, &Tables::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("newer limiter"), "{error}");
        assert!(!pins.maps().exists());
    }
}
