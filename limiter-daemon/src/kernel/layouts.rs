//! Maps of another layout in the pin directory: those of an older one are carried over, a newer one is
//! left alone.

use std::{fs, io, path::PathBuf};

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use limiter_common::abi::{ABI_VERSION, counter, map};

use super::{
    KernelError,
    error::map_error,
    growth,
    pins::{COUNTERS_SINCE, PinDirectory, Shape, shapes},
};
use crate::config::Tables;

/// What has the pins of `v<number>` under way: complete when it is renamed.
pub(super) const UNFINISHED: &str = "unfinished";

/// Layouts that are pinned, by version.
pub(super) fn layouts(pins: &PinDirectory) -> Result<Vec<(u32, PathBuf)>, KernelError> {
    let root = pins.root();
    let io_error = |source| KernelError::Io {
        path: root.to_path_buf(),
        source,
    };
    let mut layouts = Vec::new();
    for entry in fs::read_dir(root).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
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

fn is_empty(path: &PathBuf) -> Result<bool, KernelError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(source) => Err(KernelError::Io {
            path: path.clone(),
            source,
        }),
    }
}

/// Pins what is still of the same layout among the maps of an older one also under this one: the programs
/// that are attached and those that will be share these maps then, and no count and no connection is lost.
///
/// # Errors
/// [`KernelError::NewerLayout`], or the system's.
pub(super) fn carry_over(pins: &PinDirectory, tables: &Tables) -> Result<(), KernelError> {
    let layouts = layouts(pins)?;
    if let Some((found, path)) = layouts.iter().find(|(version, _)| *version > ABI_VERSION) {
        return Err(KernelError::NewerLayout {
            path: path.clone(),
            found: *found,
        });
    }
    let Some((from, old)) = layouts.last().filter(|(version, _)| *version < ABI_VERSION) else {
        return Ok(());
    };
    let unfinished = pins.root().join(UNFINISHED);
    let io_error = |source| KernelError::Io {
        path: unfinished.clone(),
        source,
    };
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
        _ => {}
    }
    fs::create_dir(&unfinished).map_err(io_error)?;
    let mut left = Vec::new();
    for Shape { name, since, .. } in shapes(tables) {
        if since > *from || !old.join(name).exists() {
            left.push(name);
        } else {
            fs::hard_link(old.join(name), unfinished.join(name)).map_err(io_error)?;
        }
    }
    if !left.contains(&map::STATE) {
        growth::carry_identity(old, &unfinished)?;
    }
    fs::rename(&unfinished, pins.maps()).map_err(io_error)?;
    log::info!(
        "the maps in {} have layout {from}: carried over to layout {ABI_VERSION} but for {}, which are filled anew",
        old.display(),
        left.join(", ")
    );
    if !left.contains(&map::STATE) && !left.contains(&map::FLOWS) {
        log::info!("counts, requests in flight and connections go on");
    }
    Ok(())
}

/// Adds what the counters of an older layout have counted: each layout appends to them. A count that this
/// CPU adds meanwhile may be lost, as between any two programs.
fn carry_counters(
    pins: &PinDirectory,
    counters: &mut PerCpuArray<MapData, u64>,
) -> Result<(), KernelError> {
    let counters_error = map_error(map::COUNTERS);
    for (version, path) in layouts(pins)? {
        let pin = path.join(map::COUNTERS);
        if version >= COUNTERS_SINCE || !pin.exists() {
            // They are the same ones.
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
            let sums = PerCpuValues::try_from(sums.collect::<Vec<_>>()).map_err(|source| {
                KernelError::Io {
                    path: pin.clone(),
                    source,
                }
            })?;
            counters.set(index, sums, 0).map_err(&counters_error)?;
        }
    }
    Ok(())
}

/// Ends older layouts, whose programs have been replaced: what they counted goes on in `counters`.
///
/// # Errors
/// The kernel's and the system's.
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
            fs::remove_dir_all(&path).map_err(|source| KernelError::Io {
                path: path.clone(),
                source,
            })?;
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
    fn what_has_the_same_layout_is_carried_over_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(directory.path());
        fs::create_dir_all(pins.maps()).unwrap();
        for name in [map::STATE, map::LIMITS, "SOMETHING"] {
            pin(&pins, 2, name);
        }
        // A start that was interrupted.
        fs::create_dir(directory.path().join(UNFINISHED)).unwrap();
        fs::write(directory.path().join(UNFINISHED).join("KEYS"), "").unwrap();
        carry_over(&pins, &Tables::default()).unwrap();
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
