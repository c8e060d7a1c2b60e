// SPDX-License-Identifier: MIT OR Apache-2.0

//! Undoes the changes of a start that failed, and keeps everything that existed before.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    KernelError, Removals,
    clsact::remove_all_filters,
    directory::list,
    error::{io_error, list_error},
    links::{pinned_links, unpin_link},
    netdev,
    pins::PinDirectory,
};

/// The state of the pin directory before this process changed it.
#[derive(Debug)]
pub struct PinSnapshot {
    pins: PinDirectory,
    /// The directories that did not exist, with the innermost first.
    new_directories: Vec<PathBuf>,
    /// The pinned maps and links of all layouts. This is `None` until [`Self::note_pins`] is
    /// called, because this process creates no pins before that.
    pinned: Option<BTreeSet<PathBuf>>,
}

impl PinSnapshot {
    /// Records which directories exist. Call this function before [`PinDirectory::prepare`].
    pub fn take(pins: &PinDirectory) -> Self {
        let mut new_directories = vec![pins.maps(), pins.links()];
        new_directories.extend(pins.root().ancestors().map(Path::to_path_buf));
        new_directories.retain(|directory| !directory.exists());
        Self {
            pins: pins.clone(),
            new_directories,
            pinned: None,
        }
    }

    /// Records which pins exist. Call this function after the directory is locked, and before the
    /// object is loaded.
    ///
    /// # Errors
    /// Returns [`KernelError::Io`] if a file operation fails.
    pub fn note_pins(&mut self) -> Result<(), KernelError> {
        let mut pinned = BTreeSet::new();
        for directory in list(self.pins.root())? {
            if directory.is_dir() {
                pinned.extend(list(&directory)?);
            }
        }
        self.pinned = Some(pinned);
        Ok(())
    }

    /// Removes the pins that have been created since [`Self::note_pins`], and the new directories
    /// if they are empty. `attaching` states whether this process could have attached a program. If
    /// a program has replaced another one in a link of an earlier daemon, the new program stays
    /// attached, and its maps stay pinned.
    ///
    /// # Errors
    /// Returns the first error.
    pub fn restore(&self, attaching: bool) -> Result<Removals, KernelError> {
        let mut removed = Vec::new();
        if let Some(pinned) = &self.pinned {
            if attaching {
                self.release(pinned, &mut removed)?;
            }
            if !attaching || pinned.is_empty() {
                for pin in list(&self.pins.maps())? {
                    if !pinned.contains(&pin) {
                        fs::remove_file(&pin).map_err(io_error("remove", &pin))?;
                        removed.push(format!("removed the pinned map {}", pin.display()));
                    }
                }
            }
        }
        for directory in &self.new_directories {
            // A directory that is not empty holds pins that stay.
            if let Err(error) = fs::remove_dir(directory) {
                log::debug!("cannot remove {}: {error}", directory.display());
            }
        }
        Ok(removed)
    }

    fn release(
        &self,
        pinned: &BTreeSet<PathBuf>,
        removed: &mut Removals,
    ) -> Result<(), KernelError> {
        for (interface, hook, pin) in pinned_links(&self.pins)? {
            if !pinned.contains(&pin) {
                unpin_link(&pin)?;
                removed.push(format!(
                    "removed the {} program of {interface}",
                    hook.as_str()
                ));
            }
        }
        // A filter does not show which process has attached it. If anything was pinned before, an
        // earlier daemon could have attached the filters with our handles, so they stay.
        if !pinned.is_empty() {
            return Ok(());
        }
        let interfaces = netdev::interfaces().map_err(list_error("network interfaces"))?;
        for (interface, hook) in remove_all_filters(&self.pins, &interfaces)? {
            removed.push(format!(
                "removed the {} program of {interface}",
                hook.as_str()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates the directories that [`PinDirectory::prepare`] would create, but not on a BPF file
    /// system.
    fn prepare(pins: &PinDirectory) {
        fs::create_dir_all(pins.maps()).unwrap();
        fs::create_dir_all(pins.links()).unwrap();
    }

    #[test]
    fn a_first_start_that_fails_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(&directory.path().join("a/b"));
        let mut before = PinSnapshot::take(&pins);
        prepare(&pins);
        before.note_pins().unwrap();
        fs::write(pins.maps().join("KEYS"), "").unwrap();
        assert_eq!(before.restore(false).unwrap().len(), 1);
        assert!(list(directory.path()).unwrap().is_empty());
        assert!(directory.path().exists());
    }

    #[test]
    fn pins_of_an_earlier_daemon_stay() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(directory.path());
        prepare(&pins);
        let (old, link) = (pins.maps().join("KEYS"), pins.links().join("lo-ingress"));
        fs::write(&old, "").unwrap();
        fs::write(&link, "").unwrap();
        let mut before = PinSnapshot::take(&pins);
        before.note_pins().unwrap();
        let new = pins.maps().join("STATE");
        fs::write(&new, "").unwrap();
        // The new map stays, because a program on the earlier link may use it already.
        before.restore(true).unwrap();
        assert!(new.exists());
        before.restore(false).unwrap();
        assert!(!new.exists() && old.exists() && link.exists());
    }

    #[test]
    fn nothing_is_removed_before_the_directory_is_locked() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(&directory.path().join("p"));
        let before = PinSnapshot::take(&pins);
        prepare(&pins);
        let other = pins.maps().join("KEYS");
        fs::write(&other, "").unwrap();
        before.restore(false).unwrap();
        assert!(other.exists());
    }
}
