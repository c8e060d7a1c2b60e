// SPDX-License-Identifier: MIT OR Apache-2.0

//! Replaces pinned maps with larger ones while packets flow, without losing a count.
//!
//! The larger maps are created beside the old ones, and programs are loaded for both sets of maps.
//! On each hook a switching program replaces our program, and tail-calls the program of one of the
//! two sets. A 64-bit word in the map `SWITCH` selects the set for all hooks at once. First this
//! word is set to a value that makes the switching programs hold all packets while the maps are
//! copied. Then the word is set to the value that selects the new set. Finally the new programs
//! replace the switching programs.
//!
//! At whatever point this process dies, one complete set is in force. If the process dies before
//! the word selects the new set, the old set is in force, at the latest when the time for holding
//! packets has passed. If the process dies later, the new set is in force, and the next daemon
//! moves the pins of this set to their final place. If the time for holding packets passes during a
//! copy, the copy is not put into force.

mod switch;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::maps::{MapInfo, ProgramArray};
use limiter_common::abi::{self, Digest, KeyEntry, map};

use super::{
    KernelError, PinDirectory,
    attach::Attachments,
    directory::{list, remove},
    error::{io_error, map_error, pin_error},
    maps::{Plain, clear as clear_map, each, insert_all},
    netdev::LinkLayer,
    pins::{GROWING, key_entries, lease_entries, shapes, untracked_entries},
    programs::{FORGET_PROGRAM, SWEEP_PROGRAM, hold_name, loaded, program_name},
    set::{MapSet, take},
    sys::wait_for_programs,
};
use crate::{config::Tables, domain::hook::Hook};

use switch::{Hold, Switch};

/// The name of the symbolic link whose target is the identity of a set of maps. The identity is
/// stored as the target of a link because bytes cannot be written to the files of a BPF file
/// system.
pub(super) const IDENTITY: &str = "identity";

/// The maximum number of attempts to copy the maps. An attempt fails if it takes longer than the
/// time for which packets can be held.
const ATTEMPTS: u32 = 3;

type Keys = HashMap<Digest, Plain<KeyEntry>>;

/// Maps that will replace smaller ones, and the word that puts them into force.
pub(super) struct LargerMaps {
    maps: NewMaps,
    switch: Switch,
}

/// The new set of maps.
struct NewMaps {
    set: MapSet,
    /// The keys that have been copied to the new map.
    keys: Keys,
}

impl LargerMaps {
    /// Creates maps with the sizes in `tables`, and loads the programs for the hooks in
    /// `attachments`.
    ///
    /// # Errors
    /// Returns an error if the kernel or the file system rejects an operation. In that case
    /// everything that was created is removed again.
    pub(super) fn prepare(
        pins: &PinDirectory,
        old: &mut MapSet,
        tables: &Tables,
        attachments: &Attachments,
        identity: &str,
    ) -> Result<Self, KernelError> {
        let directory = pins.growing();
        remove(&directory)?;
        let made = make_directory(pins, &old.tables, tables, identity)
            .and_then(|()| Self::make(&directory, old, tables, attachments));
        if made.is_err() {
            remove(&directory)?;
        }
        made
    }

    fn make(
        directory: &Path,
        old: &mut MapSet,
        tables: &Tables,
        attachments: &Attachments,
    ) -> Result<Self, KernelError> {
        let (mut set, _same_clock, _same_rings) = MapSet::open(directory, tables)?;
        let switch = Switch::new(take(&mut set.ebpf, map::SWITCH)?)?;
        let mut programs = ProgramArray::try_from(take(&mut set.ebpf, map::PROGRAMS)?)
            .map_err(map_error(map::PROGRAMS))?;
        for (hook, link_layer) in attachments.programs()? {
            let number = number(hook, link_layer);
            for (set, number) in [
                (&mut *old, number),
                (&mut set, abi::switch::PROGRAMS + number),
            ] {
                let name = program_name(hook, link_layer);
                let program = loaded(&mut set.ebpf, name)?;
                let fd = program.fd().map_err(|source| KernelError::Program {
                    name: name.to_owned(),
                    source: Box::new(source),
                })?;
                programs
                    .set(number, fd, 0)
                    .map_err(map_error(map::PROGRAMS))?;
            }
            loaded(&mut set.ebpf, hold_name(hook, link_layer))?;
        }
        // Loading a program requires all maps of this set. The clock and the rings, which both sets
        // share, are closed when this function returns, so these programs are loaded here.
        for name in [SWEEP_PROGRAM, FORGET_PROGRAM] {
            loaded(&mut set.ebpf, name)?;
        }
        let pin = directory.join(map::PROGRAMS);
        programs.pin(&pin).map_err(pin_error(&pin))?;
        let keys = Keys::new();
        let mut maps = NewMaps { set, keys };
        // These entries are copied before packets are held, to shorten the time for which packets
        // are held. Entries that change in the meantime are copied again later.
        maps.copy_keys(old)?;
        maps.copy_ended(old)?;
        Ok(Self { maps, switch })
    }

    /// Copies all entries of `old` into the maps in `self`, puts the maps in `self` into force in
    /// place of `old`, and returns the new set. Afterwards the hooks have switching programs that
    /// call the programs of the new set.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects an operation. In that case the old maps are in force.
    pub(super) fn put_in_force(
        mut self,
        pins: &PinDirectory,
        old: &mut MapSet,
        attachments: &mut Attachments,
    ) -> Result<MapSet, KernelError> {
        let pin = pins.growing().join(map::SWITCH);
        let pinned = self.switch.data().pin(&pin).map_err(pin_error(&pin));
        let done = pinned
            .and_then(|()| attachments.replace(&mut self.maps.set.ebpf, hold_name))
            .and_then(|()| self.take_over(old));
        match done {
            Ok(held) => {
                let ms = held.as_millis();
                log::info!("the tables have their new sizes; packets were held for {ms} ms");
                Ok(self.maps.set)
            }
            Err(error) => {
                self.switch.release();
                // If the replacement fails, the switching programs stay, and the next call to
                // `follow` tries again to replace them.
                attachments.replace(&mut old.ebpf, program_name)?;
                remove(&pins.growing())?;
                Err(error)
            }
        }
    }

    /// Copies the maps while packets are held. Returns the time for which packets were held.
    fn take_over(&mut self, old: &MapSet) -> Result<Duration, KernelError> {
        let begun = Instant::now();
        for _ in 0..ATTEMPTS {
            let mut hold = Hold::begin(self.switch.word()?)?;
            wait_for_programs();
            match self.maps.copy(old, &mut hold).and_then(|()| hold.commit()) {
                Ok(()) => return Ok(begun.elapsed()),
                Err(KernelError::Lapsed) => log::warn!("{}: trying again", KernelError::Lapsed),
                Err(error) => return Err(error),
            }
        }
        Err(KernelError::Lapsed)
    }
}

impl NewMaps {
    /// Copies the maps whose sizes differ. `ENDED` is left out, because only the daemon changes it
    /// and [`Self::copy_ended`] has copied it already.
    fn copy(&mut self, old: &MapSet, hold: &mut Hold<'_>) -> Result<(), KernelError> {
        let (from, to) = (old.tables, self.set.tables);
        let (scopes, unknown, flows) = (
            from.scope_ids() != to.scope_ids(),
            from.unknown_keys != to.unknown_keys,
            from.flows != to.flows,
        );
        if scopes {
            self.set.limits.copy(&old.limits);
            self.set.state.copy(&old.state);
        }
        if lease_entries(&from) != lease_entries(&to) {
            self.set.leases.copy(&old.leases);
        }
        if unknown {
            self.set.unused.copy(&old.unused);
        }
        hold.renew()?;
        self.copy_keys(old)?;
        hold.renew()?;
        if flows {
            let full = || KernelError::Full {
                table: "connections",
                entries: to.flows,
                hint: "raise `tables.flows` and restart the daemon",
            };
            // Removes entries that are left over from an attempt that took too long.
            clear_map(&mut self.set.maps.flows, map::FLOWS)?;
            each(&old.maps.flows, map::FLOWS, |some| {
                hold.renew()?;
                insert_all(&mut self.set.maps.flows, some, map::FLOWS, full)
            })?;
            clear_map(&mut self.set.maps.unfinished, map::UNFINISHED)?;
            each(&old.maps.unfinished, map::UNFINISHED, |some| {
                hold.renew()?;
                insert_all(&mut self.set.maps.unfinished, some, map::UNFINISHED, full)
            })?;
        }
        if untracked_entries(&from) != untracked_entries(&to) {
            let full = || KernelError::untracked_full(untracked_entries(&to));
            clear_map(&mut self.set.maps.untracked, map::UNTRACKED)?;
            each(&old.maps.untracked, map::UNTRACKED, |some| {
                hold.renew()?;
                insert_all(&mut self.set.maps.untracked, some, map::UNTRACKED, full)
            })?;
        }
        Ok(())
    }

    /// Copies the keys that are new, or have changed since the last copy. No key has to be removed
    /// from the copy, because the kernel programs never remove keys.
    fn copy_keys(&mut self, old: &MapSet) -> Result<(), KernelError> {
        if key_entries(&old.tables) == key_entries(&self.set.tables) {
            return Ok(());
        }
        let full = || KernelError::keys_full(self.set.tables.keys);
        let mut changed = Vec::new();
        each(&old.maps.keys, map::KEYS, |some| {
            changed.clear();
            for (key, entry) in some {
                if self.keys.insert(*key, *entry) != Some(*entry) {
                    changed.push((*key, *entry));
                }
            }
            insert_all(&mut self.set.maps.keys, &changed, map::KEYS, full)
        })
    }

    /// Copies the map that only the daemon changes.
    fn copy_ended(&mut self, old: &MapSet) -> Result<(), KernelError> {
        if old.tables.scope_ids() == self.set.tables.scope_ids() {
            return Ok(());
        }
        let full = || KernelError::scopes_full(self.set.tables.scopes);
        each(&old.maps.ended, map::ENDED, |some| {
            insert_all(&mut self.set.maps.ended, some, map::ENDED, full)
        })
    }
}

/// Returns the index of a program in the map `PROGRAMS`.
fn number(hook: Hook, link_layer: LinkLayer) -> u32 {
    match (hook, link_layer) {
        (Hook::Ingress, LinkLayer::Ethernet) => abi::switch::INGRESS,
        (Hook::Egress, LinkLayer::Ethernet) => abi::switch::EGRESS,
        (Hook::Ingress, LinkLayer::None) => abi::switch::INGRESS_L3,
        (Hook::Egress, LinkLayer::None) => abi::switch::EGRESS_L3,
    }
}

/// Creates the directory of the new set, and pins in it the maps that keep their size.
fn make_directory(
    pins: &PinDirectory,
    old: &Tables,
    new: &Tables,
    identity: &str,
) -> Result<(), KernelError> {
    let (maps, directory) = (pins.maps(), pins.growing());
    let made = fs::create_dir(&directory).and_then(|()| {
        for (old, new) in shapes(old).iter().zip(shapes(new)) {
            if old.entries == new.entries {
                fs::hard_link(maps.join(new.name), directory.join(new.name))?;
            }
        }
        symlink(identity, directory.join(IDENTITY))
    });
    made.map_err(io_error("create", &directory))
}

/// Returns the identity of a set of maps. The identity consists of the boot id and the id of one of
/// the maps. The kernel does not reuse the id of a map before a reboot. Larger maps keep the
/// identity of the maps that they replace.
pub(super) fn identity(maps: &Path) -> Result<String, KernelError> {
    let link = maps.join(IDENTITY);
    match fs::read_link(&link) {
        Ok(identity) => return Ok(identity.to_string_lossy().into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("read", &link)(error)),
    }
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = fs::read_to_string(path).map_err(io_error("read", path))?;
    let info = MapInfo::from_pin(maps.join(map::STATE)).map_err(map_error(map::STATE))?;
    Ok(format!("{}:{}", boot.trim(), info.id()))
}

/// Copies the identity from the directory `old` to the directory `new`, because the maps in both
/// directories hold the same state of scopes.
///
/// # Errors
/// Returns [`KernelError::Io`] if a file operation fails.
pub(super) fn carry_identity(old: &Path, new: &Path) -> Result<(), KernelError> {
    let carried = match fs::read_link(old.join(IDENTITY)) {
        Ok(identity) => symlink(identity, new.join(IDENTITY)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    carried.map_err(io_error("create", &new.join(IDENTITY)))
}

impl PinDirectory {
    /// Finishes or abandons a replacement of maps during which a daemon died. Afterwards the pins
    /// of the maps in force are in their final place. Call this function after the directory is
    /// locked, and before anything in the directory is read.
    ///
    /// # Errors
    /// Returns [`KernelError::Io`] if a directory cannot be read or changed, and
    /// [`KernelError::Map`] if a map cannot be opened.
    pub fn settle(&self) -> Result<(), KernelError> {
        for (directory, maps) in growing(self)? {
            settle_one(&directory, &maps)?;
        }
        Ok(())
    }
}

/// Removes the directories of finished or abandoned replacements, which no program uses any more.
/// Call this function when the programs on all hooks belong to one set.
///
/// # Errors
/// Returns [`KernelError::Io`] if a directory cannot be read or changed, and [`KernelError::Map`]
/// if a map cannot be opened.
pub(super) fn clear(pins: &PinDirectory) -> Result<(), KernelError> {
    for (directory, maps) in growing(pins)? {
        settle_one(&directory, &maps)?;
        remove(&directory)?;
    }
    Ok(())
}

fn settle_one(directory: &Path, maps: &Path) -> Result<(), KernelError> {
    match Switch::of(directory)? {
        Some(switch) if switch.is_new() => move_pins(directory, maps),
        Some(switch) => {
            switch.release();
            Ok(())
        }
        None => Ok(()),
    }
}

/// Moves the pins of maps to their final place. `SWITCH` and `PROGRAMS` stay, because the switching
/// programs use them.
fn move_pins(from: &Path, to: &Path) -> Result<(), KernelError> {
    for pin in list(from)? {
        let Some(name) = pin.file_name() else {
            continue;
        };
        if name == map::SWITCH || name == map::PROGRAMS {
            continue;
        }
        // If both pins are hard links to the same inode, rename(2) leaves both in place, so the pin
        // in `from` is removed here.
        let moved = fs::rename(&pin, to.join(name)).and_then(|()| match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        moved.map_err(io_error("move", &pin))?;
    }
    Ok(())
}

/// Returns each directory with maps that will replace other maps, together with the directory of
/// the maps that will be replaced.
fn growing(pins: &PinDirectory) -> Result<Vec<(PathBuf, PathBuf)>, KernelError> {
    let paths = list(pins.root())?.into_iter();
    Ok(paths
        .filter_map(|path| {
            let maps = path.file_name()?.to_str()?.strip_suffix(GROWING)?;
            let maps = pins.root().join(maps);
            Some((path, maps))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a pin directory with maps. An ordinary file stands for each map. Its contents state
    /// to which set the map belongs.
    fn pinned(names: &[&str]) -> (tempfile::TempDir, PinDirectory) {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDirectory::new(directory.path());
        fs::create_dir_all(pins.maps()).unwrap();
        for name in names {
            fs::write(pins.maps().join(name), "old").unwrap();
        }
        (directory, pins)
    }

    const ALL: [&str; 6] = [
        map::FLOWS,
        map::STATE,
        map::KEYS,
        map::LIMITS,
        map::ENDED,
        map::UNUSED,
    ];

    #[test]
    fn maps_of_the_same_size_are_shared_and_an_interrupted_move_of_pins_is_completed() {
        let old = Tables::default();
        let new = Tables {
            flows: old.flows + 1,
            ..old
        };
        let names = shapes(&old).map(|shape| shape.name);
        let (_directory, pins) = pinned(&names);
        make_directory(&pins, &old, &new, "boot:1").unwrap();
        let made = pins.growing();
        assert!(!made.join(map::FLOWS).exists());
        for name in [map::FLOWS, map::SWITCH, map::PROGRAMS] {
            fs::write(made.join(name), "new").unwrap();
        }
        let one = made.join(map::STATE);
        fs::rename(&one, pins.maps().join(map::STATE)).unwrap();
        fs::remove_file(&one).unwrap();
        move_pins(&made, &pins.maps()).unwrap();
        for name in names {
            let text = fs::read_to_string(pins.maps().join(name)).unwrap();
            let wanted = if name == map::FLOWS { "new" } else { "old" };
            assert_eq!(text, wanted, "{name}");
        }
        assert_eq!(identity(&pins.maps()).unwrap(), "boot:1");
        let mut left: Vec<_> = list(&made).unwrap();
        left.sort();
        // `SWITCH` and `PROGRAMS` stay, because the switching programs use them.
        assert_eq!(
            left,
            [map::PROGRAMS, map::SWITCH].map(|name| made.join(name))
        );
    }

    #[test]
    fn maps_that_never_came_into_force_are_removed() {
        let (_directory, pins) = pinned(&ALL);
        fs::create_dir(pins.growing()).unwrap();
        // This is the state after a daemon died before any program used the new maps.
        fs::write(pins.growing().join(map::FLOWS), "new").unwrap();
        pins.settle().unwrap();
        clear(&pins).unwrap();
        assert!(!pins.growing().exists());
        let text = fs::read_to_string(pins.maps().join(map::FLOWS)).unwrap();
        assert_eq!(text, "old");
    }

    #[test]
    fn a_later_layout_keeps_the_identity() {
        let (_directory, pins) = pinned(&ALL);
        let later = pins.root().join("later");
        fs::create_dir(&later).unwrap();
        carry_identity(&pins.maps(), &later).unwrap();
        assert!(list(&later).unwrap().is_empty());
        symlink("boot:7", pins.maps().join(IDENTITY)).unwrap();
        carry_identity(&pins.maps(), &later).unwrap();
        assert_eq!(identity(&later).unwrap(), "boot:7");
    }
}
