// SPDX-License-Identifier: MIT OR Apache-2.0

//! Names that contain the pid of their owner, and the removal of objects whose owner is gone.
//!
//! Destructors clean up, but they do not run in a process that is killed. The name of every object
//! that can outlive its process (a network namespace, a pin, a directory) therefore contains the
//! pid of the process. The next run removes the objects of processes that no longer exist.

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

/// Returns a name that no other lab on this machine has.
pub fn unique_name() -> String {
    SWEEP.call_once(sweep_orphans);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", process::id())
}

/// Returns the directory of the lab `name`.
pub fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Returns the pin directory of the lab `name`.
pub fn pins(name: &str) -> PathBuf {
    Path::new(BPF_FS).join(name)
}

/// Returns the cgroup of the lab `name`, directly below the root of the cgroup v2 hierarchy.
///
/// # Panics
/// Panics if the cgroup v2 hierarchy is not mounted.
pub fn cgroup(name: &str) -> PathBuf {
    cgroups()
        .expect("cgroups of version 2 are mounted")
        .join(name)
}

/// Returns the mount point of the cgroup v2 hierarchy (proc_pid_mounts(5)).
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// Removes a cgroup and its children, and returns whether the cgroup is gone. A cgroup that still
/// contains processes cannot be removed.
pub fn remove_cgroup(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
    !path.exists()
}

/// Removes everything that the labs of this process have created. This function is called before an
/// exit that runs no destructors, for example after an interrupt.
pub fn everything_of_this_process() {
    crate::process::kill_all();
    let own = process::id();
    sweep(|pid| pid == own);
}

fn sweep_orphans() {
    // An earlier process may have had the id of this process, which has created nothing yet.
    let own = process::id();
    sweep(|pid| pid == own || !Path::new("/proc").join(pid.to_string()).exists());
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

/// Returns the pid in a name from [`unique_name`], or `None` for any other name.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_read_from_own_names_only() {
        assert_eq!(owner(&unique_name()), Some(process::id()));
        for foreign in ["lt", "lt12", "ltx-1", "limiter", "lima-1"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
