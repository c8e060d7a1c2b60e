// SPDX-License-Identifier: MIT OR Apache-2.0

//! Removes everything that limiter has put into the kernel, whether or not a daemon is running.

use std::{fs, io, path::Path};

use super::{
    KernelError,
    clsact::remove_all_filters,
    directory::list,
    error::{io_error, list_error},
    expedite::ShortGracePeriods,
    layouts,
    links::{pinned_links, unpin_link},
    netdev,
    pins::{GROWING, LINKS, PinDirectory},
};
use crate::domain::hook::Mechanism;

/// Messages for the operator. Each message names one thing that was removed.
pub type Removals = Vec<String>;

/// Removes links, filters, maps and their directories. The attachments are removed first, so that
/// no program runs while some of its maps are missing.
///
/// # Errors
/// Returns the first error. Objects that have not been removed before the error stay, and a second
/// call can remove them.
pub fn remove_all(pins: &PinDirectory) -> Result<Removals, KernelError> {
    let mut removed = remove_attachments(pins)?;
    removed.extend(remove_maps(pins.root())?);
    Ok(removed)
}

/// Removes links and filters. Afterwards no packet changes the maps, because detaching a link waits
/// until the running programs have ended (`tcx_entry_sync`, `include/net/tcx.h`).
///
/// # Errors
/// Returns the first error.
pub(super) fn remove_attachments(pins: &PinDirectory) -> Result<Removals, KernelError> {
    let mut removed = Vec::new();
    let links = pinned_links(pins)?;
    let short = ShortGracePeriods::during(links.len());
    for (interface, hook, pin) in links {
        unpin_link(&pin)?;
        removed.push((interface, hook, Mechanism::Tcx));
    }
    drop(short);
    let interfaces = netdev::interfaces().map_err(list_error("network interfaces"))?;
    let filters = remove_all_filters(pins, &interfaces)?.into_iter();
    removed.extend(filters.map(|(interface, hook)| (interface, hook, Mechanism::Clsact)));
    let lines = removed.into_iter().map(|(interface, hook, mechanism)| {
        format!(
            "removed the {} program of {interface} ({})",
            hook.as_str(),
            mechanism.as_str()
        )
    });
    Ok(lines.collect())
}

/// Removes the pinned maps of all layouts, and the directories that limiter created.
///
/// # Errors
/// Returns the first error.
pub(super) fn remove_maps(root: &Path) -> Result<Removals, KernelError> {
    let mut removed = Vec::new();
    for directory in list(root)? {
        let name = directory
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_layout = is_layout(name);
        if !is_layout && name != LINKS {
            continue;
        }
        let pins = list(&directory)?;
        for pin in &pins {
            fs::remove_file(pin).map_err(io_error("remove", pin))?;
        }
        if is_layout && !pins.is_empty() {
            removed.push(format!(
                "removed the pinned maps in {} ({})",
                directory.display(),
                pins.len()
            ));
        }
        fs::remove_dir(&directory).map_err(io_error("remove", &directory))?;
    }
    // The root directory stays if it is not empty, or if it is a mount point (EBUSY), for example
    // because a service manager has mounted a directory of a BPF file system there for this daemon.
    match fs::remove_dir(root) {
        Ok(()) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) => {}
        Err(error) => return Err(io_error("remove", root)(error)),
    }
    Ok(removed)
}

/// Returns whether `name` is the name of a directory that holds the maps of a layout.
pub(super) fn is_layout(name: &str) -> bool {
    name == layouts::UNFINISHED
        || name.strip_prefix('v').is_some_and(|version| {
            let version = version.strip_suffix(GROWING).unwrap_or(version);
            !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_every_layout_are_removed_and_other_directories_stay() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for ours in ["v1", "v12", "v12-growing", layouts::UNFINISHED, "links"] {
            fs::create_dir(root.join(ours)).unwrap();
            fs::write(root.join(ours).join("STATE"), "").unwrap();
        }
        for other in ["v", "vmlinux", "v1x"] {
            fs::create_dir(root.join(other)).unwrap();
        }
        let removed = remove_maps(root).unwrap();
        assert_eq!(removed.len(), 4, "{removed:?}");
        let mut left: Vec<_> = list(root).unwrap();
        left.sort();
        assert_eq!(left, ["v", "v1x", "vmlinux"].map(|name| root.join(name)));
    }

    #[test]
    fn a_directory_with_only_our_pins_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("limiter");
        fs::create_dir_all(root.join(layouts::UNFINISHED)).unwrap();
        fs::create_dir(root.join("v3")).unwrap();
        remove_maps(&root).unwrap();
        assert!(!root.exists());
    }
}
