//! Names that say whose they are, and the removal of what nobody owns.
//!
//! Destructors do the cleaning. They do not run in a process that is killed,
//! so everything that outlives a process carries its pid in its name:
//! namespaces, pins and directories of a process that is gone are removed by
//! the next one.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

const PREFIX: &str = "lt";
const NAMESPACES: &str = "/run/netns";
const BPF_FS: &str = "/sys/fs/bpf";

static COUNTER: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A name that no other lab has, on this machine and in this process.
pub fn unique_name() -> String {
    SWEEP.call_once(sweep_orphans);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", process::id())
}

/// The directory of the lab `name`.
pub fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// The pin directory of the lab `name`.
pub fn pins(name: &str) -> PathBuf {
    Path::new(BPF_FS).join(name)
}

/// The cgroup of the lab `name`, directly below the root of the hierarchy of version 2.
///
/// # Panics
/// When that is mounted nowhere.
pub fn cgroup(name: &str) -> PathBuf {
    cgroups()
        .expect("cgroups of version 2 are mounted")
        .join(name)
}

/// Where cgroups of version 2 are mounted (proc_pid_mounts(5)).
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// Removes a cgroup with those in it; tells whether it is gone. It stays while there are processes in it.
pub fn remove_cgroup(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
    !path.exists()
}

/// Removes what labs of this process have made, for use before an exit that
/// runs no destructors (an interrupt).
pub fn everything_of_this_process() {
    crate::process::kill_all();
    let own = process::id();
    sweep(|pid| pid == own);
}

fn sweep_orphans() {
    sweep(|pid| !Path::new("/proc").join(pid.to_string()).exists());
}

fn sweep(chosen: impl Fn(u32) -> bool) {
    let chosen = |name: &str| owner(name).is_some_and(&chosen);
    for pins in entries(Path::new(BPF_FS), chosen) {
        let _ = fs::remove_dir_all(pins);
    }
    for namespace in entries(Path::new(NAMESPACES), chosen) {
        let name = namespace.file_name().unwrap_or_default();
        let _ = Command::new("ip").args(["netns", "del"]).arg(name).output();
    }
    for cgroup in cgroups().iter().flat_map(|root| entries(root, chosen)) {
        remove_cgroup(&cgroup);
    }
    for directory in entries(&std::env::temp_dir(), chosen) {
        let _ = fs::remove_dir_all(directory);
    }
}

fn entries(directory: &Path, chosen: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(&chosen))
        .map(|entry| entry.path())
        .collect()
}

/// The pid in a name made by [`unique_name`].
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_owner_and_foreign_names_have_none() {
        assert_eq!(owner(&unique_name()), Some(process::id()));
        for foreign in ["lt", "lt12", "ltx-1", "limiter", "lima-1"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
