// SPDX-License-Identifier: MIT OR Apache-2.0

//! The memory that new maps need, and the memory that is available for them.
//!
//! Without this check, the kernel might create some of the maps of a configuration that is too
//! large, and its OOM killer might then end a process of the host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{KernelError, pins::shapes};
use crate::config::Tables;

/// Returns an error if the maps that are missing in `directory` need more memory than is available.
/// If the available memory cannot be read, this function assumes that it suffices.
///
/// # Errors
/// Returns [`KernelError::NoMemory`], which names both numbers.
pub(super) fn ensure(directory: &Path, tables: &Tables) -> Result<(), KernelError> {
    let needed: u64 = shapes(tables)
        .iter()
        .filter(|shape| !directory.join(shape.name).exists())
        .map(|shape| shape.empty_bytes(cpus()))
        .sum();
    match available() {
        Some(available) if needed > available => Err(KernelError::NoMemory { needed, available }),
        _ => Ok(()),
    }
}

/// Returns the number of processors that are configured, for each of which the kernel allocates the
/// values of per-CPU maps.
fn cpus() -> u64 {
    aya::util::nr_cpus().map_or(1, |cpus| cpus as u64)
}

/// Returns the number of bytes that this process can allocate without another process losing its
/// own memory. This is the least of the available memory of the host, and of that of each control
/// group that this process is in.
fn available() -> Option<u64> {
    let host = fs::read_to_string("/proc/meminfo").ok();
    let host = host.as_deref().and_then(available_on_host);
    host.into_iter().chain(available_in_groups()).min()
}

/// Returns the number of available bytes in the text of `/proc/meminfo` (proc_meminfo(5)). The free
/// space for swapping counts too, since the memory of other processes can be moved there.
fn available_on_host(text: &str) -> Option<u64> {
    let bytes = |name| number(text, name).map(|kibibytes| kibibytes * 1024);
    let swap = bytes("SwapFree:").unwrap_or(0);
    bytes("MemAvailable:").map(|memory| memory + swap)
}

/// Returns the number of available bytes of each control group of version 2 that has a limit, from
/// the group of this process up to the root. A control group of version 1 has no `memory.max`.
fn available_in_groups() -> Vec<u64> {
    let Ok(text) = fs::read_to_string("/proc/self/cgroup") else {
        return Vec::new();
    };
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = path.map(|path| PathBuf::from("/sys/fs/cgroup").join(path));
    let groups = group.iter().flat_map(|group| group.ancestors());
    groups.filter_map(available_in_group).collect()
}

/// Returns the number of available bytes of one control group. The cache of files is available,
/// because the kernel drops it when the group reaches its limit. The memory of tmpfs, which the
/// number `file` includes, cannot be dropped.
fn available_in_group(group: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let [file, shmem] = ["file", "shmem"].map(|name| number(&stat, name).unwrap_or(0));
    let cache = file.saturating_sub(shmem);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// Returns the number in the line that begins with the word `name`.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_includes_space_for_swapping() {
        let text =
            "MemTotal:  2048 kB\nMemAvailable:   1000 kB\nSwapTotal: 9 kB\nSwapFree:  5 kB\n";
        assert_eq!(available_on_host(text), Some(1005 * 1024));
        let text = "MemAvailable: 1000 kB\n";
        assert_eq!(available_on_host(text), Some(1000 * 1024));
        assert_eq!(available_on_host("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn a_control_group_can_drop_its_cache_of_files() {
        let group = tempfile::tempdir().expect("a directory");
        let write = |name, text| fs::write(group.path().join(name), text).expect("a file");
        assert_eq!(available_in_group(group.path()), None);
        write("memory.max", "max\n");
        write("memory.current", "900\n");
        assert_eq!(available_in_group(group.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(available_in_group(group.path()), Some(100));
        write(
            "memory.stat",
            "anon 500\nfile_mapped 7\nfile 460\nshmem 60\n",
        );
        assert_eq!(available_in_group(group.path()), Some(500));
        write("memory.current", "2000\n");
        assert_eq!(available_in_group(group.path()), Some(0));
    }

    #[test]
    fn maps_of_the_default_sizes_need_the_documented_memory() {
        let needed: u64 = shapes(&Tables::default())
            .iter()
            .map(|shape| shape.empty_bytes(2))
            .sum();
        // docs/SIZING.md has the measured number.
        assert!((105_000_000..=110_500_000).contains(&needed), "{needed}");
    }

    #[test]
    fn maps_that_exist_need_no_memory() {
        let directory = tempfile::tempdir().expect("a directory");
        let tables = Tables {
            flows: 1 << 31,
            scopes: 1 << 31,
            keys: 1 << 31,
            ..Tables::default()
        };
        let error = ensure(directory.path(), &tables).expect_err("no host has this memory");
        assert!(matches!(error, KernelError::NoMemory { .. }), "{error}");
        for shape in shapes(&tables) {
            fs::write(directory.path().join(shape.name), "").expect("a file");
        }
        ensure(directory.path(), &tables).expect("nothing is missing");
    }
}
