//! Larger maps in place of pinned ones, while packets go on: nothing that is counted gets lost.
//!
//! The maps that have to be larger are made beside the others, and programs loaded over both sets. On each
//! hook a program takes the place of ours that goes on as one of either set, as one word (`SWITCH`) has it
//! for all hooks at once. That word first holds all packets for a moment, in which the maps are copied, then
//! says that the new set is in force; at last the new programs take their places themselves.
//!
//! Whenever this process dies, one set is in force, and whole. Before that word says so it is the old one,
//! after the moment until which packets are held; afterwards it is the new one, whose pins the next daemon
//! moves to where they belong. A copy during which that moment has passed is not put into force.

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
    Hook, KernelError, PinDirectory,
    attach::{Attachments, hold_name, loaded, program_name},
    error::{map_error, pin_error},
    maps::{Plain, clear as clear_map, each, insert_all},
    netdev::LinkLayer,
    pins::{GROWING, key_entries, shapes},
    set::{MapSet, take},
    sys::wait_for_programs,
};
use crate::config::Tables;
use switch::{Hold, Switch};

/// Says which set of maps these go on as: a symbolic link, since nothing else can be written on a BPF file
/// system.
const IDENTITY: &str = "identity";

/// How often to copy anew when that was too short.
const TRIES: u32 = 3;

type Keys = HashMap<Digest, Plain<KeyEntry>>;

/// Maps that are to take the place of others.
pub(super) struct Larger {
    copy: Copy,
    switch: Switch,
}

/// The maps themselves.
struct Copy {
    set: MapSet,
    /// The keys that it has already.
    keys: Keys,
}

impl Larger {
    /// Makes maps of these sizes, and loads what goes on the hooks of `attachments`.
    ///
    /// # Errors
    /// The kernel's and the system's; what was made is gone again.
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
        let (mut set, _same_clock, _same_events) = MapSet::open(directory, tables)?;
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
        let pin = directory.join(map::PROGRAMS);
        programs.pin(&pin).map_err(pin_error(&pin))?;
        let keys = Keys::new();
        let mut copy = Copy { set, keys };
        // Most of what there may be many of, before anybody has to wait for it.
        copy.keys(old)?;
        copy.ended(old)?;
        Ok(Self { copy, switch })
    }

    /// Puts these maps into force in place of `old`, with all that those have in them, and returns them. On
    /// the hooks are programs that lead to them then.
    ///
    /// # Errors
    /// The kernel's; the old ones are in force.
    pub(super) fn put_in_force(
        mut self,
        pins: &PinDirectory,
        old: &mut MapSet,
        attachments: &mut Attachments,
    ) -> Result<MapSet, KernelError> {
        let pin = pins.growing().join(map::SWITCH);
        let pinned = self.switch.data().pin(&pin).map_err(pin_error(&pin));
        let done = pinned
            .and_then(|()| attachments.replace(&mut self.copy.set.ebpf, hold_name))
            .and_then(|()| self.take_over(old));
        match done {
            Ok(held) => {
                let ms = held.as_millis();
                log::info!("the tables are larger; packets were held for {ms} ms");
                Ok(self.copy.set)
            }
            Err(error) => {
                self.switch.let_go();
                // Otherwise what leads to them stays, and `follow` tries again.
                attachments.replace(&mut old.ebpf, program_name)?;
                remove(&pins.growing())?;
                Err(error)
            }
        }
    }

    /// Copies while packets are held: for how long they were.
    fn take_over(&mut self, old: &MapSet) -> Result<Duration, KernelError> {
        let begun = Instant::now();
        for _ in 0..TRIES {
            let mut hold = Hold::begin(self.switch.word()?)?;
            wait_for_programs();
            match self.copy.all(old, &mut hold).and_then(|()| hold.commit()) {
                Ok(()) => return Ok(begun.elapsed()),
                Err(KernelError::Lapsed) => log::warn!("{}, once more", KernelError::Lapsed),
                Err(error) => return Err(error),
            }
        }
        Err(KernelError::Lapsed)
    }
}

impl Copy {
    /// Copies what packets change.
    fn all(&mut self, old: &MapSet, hold: &mut Hold<'_>) -> Result<(), KernelError> {
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
        if unknown {
            self.set.unused.copy(&old.unused);
        }
        hold.renew()?;
        self.keys(old)?;
        hold.renew()?;
        if flows {
            let full = || KernelError::Full {
                what: "connections",
                entries: to.flows,
                hint: "raise `tables.flows`, and restart",
            };
            // Of an attempt that took too long.
            clear_map(&mut self.set.maps.flows, map::FLOWS)?;
            each(&old.maps.flows, map::FLOWS, |some| {
                hold.renew()?;
                insert_all(&mut self.set.maps.flows, some, map::FLOWS, full)
            })?;
        }
        Ok(())
    }

    /// Copies the keys that are new or different. None goes meanwhile: programs take none away.
    fn keys(&mut self, old: &MapSet) -> Result<(), KernelError> {
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

    /// Copies what only the daemon changes.
    fn ended(&mut self, old: &MapSet) -> Result<(), KernelError> {
        if old.tables.scope_ids() == self.set.tables.scope_ids() {
            return Ok(());
        }
        let full = || KernelError::scopes_full(self.set.tables.scopes);
        each(&old.maps.ended, map::ENDED, |some| {
            insert_all(&mut self.set.maps.ended, some, map::ENDED, full)
        })
    }
}

/// The number of a program in `PROGRAMS`.
fn number(hook: Hook, link_layer: LinkLayer) -> u32 {
    match (hook, link_layer) {
        (Hook::Ingress, LinkLayer::Ethernet) => abi::switch::INGRESS,
        (Hook::Egress, LinkLayer::Ethernet) => abi::switch::EGRESS,
        (Hook::Ingress, LinkLayer::None) => abi::switch::INGRESS_L3,
        (Hook::Egress, LinkLayer::None) => abi::switch::EGRESS_L3,
    }
}

/// Makes the directory of the new set, with those maps in it that stay what they are.
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
    made.map_err(|source| KernelError::Io {
        path: directory,
        source,
    })
}

/// What tells this set of maps from any other: map ids are never used twice before a reboot, and the boot
/// id tells reboots apart. Maps that were made larger say whose place they took.
pub(super) fn identity(maps: &Path) -> Result<String, KernelError> {
    let io_error = |path: &Path| {
        let path = path.to_path_buf();
        move |source| KernelError::Io { path, source }
    };
    let said = maps.join(IDENTITY);
    match fs::read_link(&said) {
        Ok(identity) => return Ok(identity.to_string_lossy().into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(&said)(error)),
    }
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = fs::read_to_string(path).map_err(io_error(path))?;
    let info = MapInfo::from_pin(maps.join(map::STATE)).map_err(map_error(map::STATE))?;
    Ok(format!("{}:{}", boot.trim(), info.id()))
}

/// Lets the maps in `new`, which are those in `old` as far as scopes are concerned, say so.
///
/// # Errors
/// [`KernelError::Io`].
pub(super) fn carry_identity(old: &Path, new: &Path) -> Result<(), KernelError> {
    let carried = match fs::read_link(old.join(IDENTITY)) {
        Ok(identity) => symlink(identity, new.join(IDENTITY)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    carried.map_err(|source| KernelError::Io {
        path: new.join(IDENTITY),
        source,
    })
}

impl PinDirectory {
    /// Goes on where a daemon that died while it made tables larger has left off: what is in force is where
    /// it belongs then. To be called when the directory is locked, before anything is looked at in it.
    ///
    /// # Errors
    /// [`KernelError::Io`], [`KernelError::Map`].
    pub fn settle(&self) -> Result<(), KernelError> {
        for (directory, maps) in growing(self)? {
            settle_one(&directory, &maps)?;
        }
        Ok(())
    }
}

/// Removes what no program leads to any more: to be called when all hooks have the programs of one set.
///
/// # Errors
/// [`KernelError::Io`], [`KernelError::Map`].
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
            switch.let_go();
            Ok(())
        }
        None => Ok(()),
    }
}

/// Moves the pins of maps to where they belong; what leads to them stays.
fn move_pins(from: &Path, to: &Path) -> Result<(), KernelError> {
    for pin in list(from)? {
        let Some(name) = pin.file_name() else {
            continue;
        };
        if name == map::SWITCH || name == map::PROGRAMS {
            continue;
        }
        // Of one that is the same in both nothing is moved (rename(2)).
        let moved = fs::rename(&pin, to.join(name)).and_then(|()| match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        moved.map_err(|source| KernelError::Io { path: pin, source })?;
    }
    Ok(())
}

/// Directories of maps that are to take the place of others, and where those are.
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

fn list(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
    });
    entries.map_err(|source| KernelError::Io {
        path: directory.to_path_buf(),
        source,
    })
}

fn remove(directory: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError::Io {
            path: directory.to_path_buf(),
            source: error,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pin directory with maps in it, each a file that says of which set it is.
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
    fn what_stays_as_large_is_the_same_in_both_and_pins_move_even_if_some_have_before() {
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
        // What leads to them.
        assert_eq!(
            left,
            [map::PROGRAMS, map::SWITCH].map(|name| made.join(name))
        );
    }

    #[test]
    fn what_never_came_into_force_is_cleared_away() {
        let (_directory, pins) = pinned(&ALL);
        fs::create_dir(pins.growing()).unwrap();
        // It died before anything led to it.
        fs::write(pins.growing().join(map::FLOWS), "new").unwrap();
        pins.settle().unwrap();
        clear(&pins).unwrap();
        assert!(!pins.growing().exists());
        let text = fs::read_to_string(pins.maps().join(map::FLOWS)).unwrap();
        assert_eq!(text, "old");
    }

    #[test]
    fn a_later_layout_says_the_same_of_itself() {
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
