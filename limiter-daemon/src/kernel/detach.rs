//! Taking everything down, with a daemon or without one.

use std::{fs, io, path::Path};

use super::{
    Hook, KernelError, Mechanism,
    clsact::remove_filter,
    links::{pinned_links, unpin_link},
    netdev,
    pins::PinDirectory,
};

/// What was taken down, for people.
pub type Removed = Vec<String>;

/// Removes links, filters, maps and their directories. Attachments go first, so that no packet
/// meets half of the maps.
///
/// # Errors
/// The first that failed; the rest stays as it is, so that a second try can finish.
pub fn remove_all(pins: &PinDirectory) -> Result<Removed, KernelError> {
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
    removed.extend(remove_maps(pins.root())?);
    Ok(removed)
}

/// Removes the pinned maps of every layout and the directories, as far as they are ours.
fn remove_maps(root: &Path) -> Result<Removed, KernelError> {
    let mut removed = Vec::new();
    for directory in list(root)? {
        let name = directory
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let is_layout = name.strip_prefix('v').is_some_and(|version| {
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
