//! Taking everything down, with a daemon or without one.

use std::{fs, io, path::Path};

use super::{
    Hook, KernelError, Mechanism,
    clsact::remove_filter,
    layouts,
    links::{pinned_links, unpin_link},
    netdev,
    pins::{GROWING, PinDirectory},
};

/// What was taken down, for people.
pub type Removed = Vec<String>;

/// Removes links, filters, maps and their directories. Attachments go first, so that no packet
/// meets half of the maps.
///
/// # Errors
/// The first that failed; the rest stays as it is, so that a second try can finish.
pub fn remove_all(pins: &PinDirectory) -> Result<Removed, KernelError> {
    let mut removed = remove_attachments(pins)?;
    removed.extend(remove_maps(pins.root())?);
    Ok(removed)
}

/// Removes links and filters: from then on no packet changes the maps. (Taking off a link waits for the
/// packets that are under way: `tcx_entry_sync`, `include/net/tcx.h`.)
///
/// # Errors
/// The first that failed.
pub(super) fn remove_attachments(pins: &PinDirectory) -> Result<Removed, KernelError> {
    let mut removed = Vec::new();
    for (interface, hook, pin) in pinned_links(pins)? {
        unpin_link(&pin)?;
        removed.push(format!(
            "removed the {} program of {interface} ({})",
            hook.as_str(),
            Mechanism::Tcx.as_str()
        ));
    }
    let interfaces = netdev::interfaces().map_err(|source| KernelError::Io {
        path: "network interfaces".into(),
        source,
    })?;
    for interface in interfaces {
        for hook in [Hook::Ingress, Hook::Egress] {
            if remove_filter(pins, &interface.name, hook)? {
                let kind = Mechanism::Clsact.as_str();
                removed.push(format!(
                    "removed the {} program of {} ({kind})",
                    hook.as_str(),
                    interface.name
                ));
            }
        }
    }
    Ok(removed)
}

/// Removes the pinned maps of every layout and the directories, as far as they are ours.
///
/// # Errors
/// The first that failed.
pub(super) fn remove_maps(root: &Path) -> Result<Removed, KernelError> {
    let mut removed = Vec::new();
    for directory in list(root)? {
        let name = directory
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_layout = name == layouts::UNFINISHED
            || name.strip_prefix('v').is_some_and(|version| {
                let version = version.strip_suffix(GROWING).unwrap_or(version);
                !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
            });
        if !is_layout && name != "links" {
            continue;
        }
        let pins = list(&directory)?;
        for pin in &pins {
            fs::remove_file(pin).map_err(|source| KernelError::Io {
                path: pin.clone(),
                source,
            })?;
        }
        if is_layout && !pins.is_empty() {
            removed.push(format!(
                "removed {} pinned maps in {}",
                pins.len(),
                directory.display()
            ));
        }
        fs::remove_dir(&directory).map_err(|source| KernelError::Io {
            path: directory.clone(),
            source,
        })?;
    }
    // The directory itself only if nothing of somebody else is in it, and it is not where a service manager
    // has mounted what it gives us of a BPF file system.
    match fs::remove_dir(root) {
        Ok(()) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) => {}
        Err(source) => {
            return Err(KernelError::Io {
                path: root.to_path_buf(),
                source,
            });
        }
    }
    Ok(removed)
}

fn list(directory: &Path) -> Result<Vec<std::path::PathBuf>, KernelError> {
    let io_error = |source| KernelError::Io {
        path: directory.to_path_buf(),
        source,
    };
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(io_error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_every_layout_go_and_what_is_not_ours_stays() {
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
    fn nothing_is_left_of_a_directory_that_is_ours_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("limiter");
        fs::create_dir_all(root.join(layouts::UNFINISHED)).unwrap();
        fs::create_dir(root.join("v3")).unwrap();
        remove_maps(&root).unwrap();
        assert!(!root.exists());
    }
}
