//! Taking back what a start that failed has made, and nothing that was there before it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Hook, KernelError, Removed,
    clsact::remove_filter,
    links::{pinned_links, unpin_link},
    netdev,
    pins::PinDirectory,
};

/// What was pinned before this process pinned anything.
#[derive(Debug)]
pub struct Before {
    pins: PinDirectory,
    /// Directories that were not there, the innermost first.
    new_directories: Vec<PathBuf>,
    /// Maps and links of any layout; `None` as long as nothing of ours can be among them.
    pinned: Option<BTreeSet<PathBuf>>,
}

impl Before {
    /// Looks which directories there are; to be called before [`PinDirectory::prepare`].
    pub fn look(pins: &PinDirectory) -> Self {
        let mut new_directories = vec![pins.maps(), pins.links()];
        new_directories.extend(pins.root().ancestors().map(Path::to_path_buf));
        new_directories.retain(|directory| !directory.exists());
        Self {
            pins: pins.clone(),
            new_directories,
            pinned: None,
        }
    }

    /// Notes what is pinned; to be called when the directory is locked, before the object is
    /// loaded.
    ///
    /// # Errors
    /// [`KernelError::Io`].
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

    /// Removes what has been pinned since. `attaching` says whether a program may be attached by
    /// now: one that was put under an earlier daemon's link goes on there, with its maps.
    ///
    /// # Errors
    /// The first that failed.
    pub fn restore(&self, attaching: bool) -> Result<Removed, KernelError> {
        let mut removed = Vec::new();
        if let Some(pinned) = &self.pinned {
            if attaching {
                self.release(pinned, &mut removed)?;
            }
            if !attaching || pinned.is_empty() {
                for pin in list(&self.pins.maps())? {
                    if !pinned.contains(&pin) {
                        fs::remove_file(&pin).map_err(io_error(&pin))?;
                        removed.push(format!("removed the pinned map {}", pin.display()));
                    }
                }
            }
        }
        for directory in &self.new_directories {
            // One that is not empty holds what stays.
            if let Err(error) = fs::remove_dir(directory) {
                log::debug!("{}: {error}", directory.display());
            }
        }
        Ok(removed)
    }

    fn release(
        &self,
        pinned: &BTreeSet<PathBuf>,
        removed: &mut Removed,
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
        // Filters carry no mark of who put them there: only where nothing was pinned before
        // are they surely ours.
        if !pinned.is_empty() {
            return Ok(());
        }
        let interfaces = netdev::interfaces().map_err(io_error(Path::new("network interfaces")))?;
        for interface in interfaces {
            for hook in [Hook::Ingress, Hook::Egress] {
                if remove_filter(&self.pins, &interface.name, hook)? {
                    removed.push(format!(
                        "removed the {} program of {}",
                        hook.as_str(),
                        interface.name
                    ));
                }
            }
        }
        Ok(())
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Io {
        path: path.to_path_buf(),
        source,
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(io_error(directory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error(directory)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`PinDirectory::prepare`] makes, where there is no BPF file system.
    fn prepare(pins: &PinDirectory) {
        fs::create_dir_all(pins.maps()).unwrap();
        fs::create_dir_all(pins.links()).unwrap();
    }

    #[test]
    fn a_first_start_that_fails_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(&directory.path().join("a/b"));
        let mut before = Before::look(&pins);
        prepare(&pins);
        before.note_pins().unwrap();
        fs::write(pins.maps().join("KEYS"), "").unwrap();
        assert_eq!(before.restore(false).unwrap().len(), 1);
        assert!(list(directory.path()).unwrap().is_empty());
        assert!(directory.path().exists());
    }

    #[test]
    fn what_an_earlier_daemon_pinned_stays() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(directory.path());
        prepare(&pins);
        let (old, link) = (pins.maps().join("KEYS"), pins.links().join("lo-ingress"));
        fs::write(&old, "").unwrap();
        fs::write(&link, "").unwrap();
        let mut before = Before::look(&pins);
        before.note_pins().unwrap();
        let new = pins.maps().join("STATE");
        fs::write(&new, "").unwrap();
        // A program under the earlier link may use the new map by now.
        before.restore(true).unwrap();
        assert!(new.exists());
        before.restore(false).unwrap();
        assert!(!new.exists() && old.exists() && link.exists());
    }

    #[test]
    fn nothing_is_removed_before_the_directory_is_ours() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(&directory.path().join("p"));
        let before = Before::look(&pins);
        prepare(&pins);
        let other = pins.maps().join("KEYS");
        fs::write(&other, "").unwrap();
        before.restore(false).unwrap();
        assert!(other.exists());
    }
}
