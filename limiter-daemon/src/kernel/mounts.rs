// SPDX-License-Identifier: MIT OR Apache-2.0

//! Finds out whether the pins outlive this process. A BPF file system disappears with its last
//! mount, and the mounts of a mount namespace disappear with the last process in it.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

/// The link target of the initial PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const HOST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The processes or namespaces that keep the pins' file system mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// Mount namespaces that do not depend on this process.
    Others,
    /// Only other processes in this mount namespace. The number is the process id of one of them.
    Companion(u32),
    /// The container of this process, in which this process has mounted the file system.
    Container,
    /// Unknown, because other mount namespaces are not visible from here.
    Unknown,
    /// This process alone.
    ThisProcess,
}

impl Keeper {
    /// Returns a warning that states for how long limits stay in force after the daemon ends, or
    /// `None` in the usual case, in which the pins stay.
    pub fn warning(self) -> Option<String> {
        match self {
            Self::Others => None,
            Self::Companion(process) => Some(format!(
                "the BPF file system with the pins is mounted only in the mount namespace of this \
                 process, which it shares with processes like {process}, so limits end with the last \
                 of them"
            )),
            Self::Container => Some(
                "the BPF file system with the pins belongs to this container, so limits end with the \
                 container"
                    .to_owned(),
            ),
            Self::Unknown => Some(
                "this process cannot see whether the BPF file system with the pins is mounted \
                 elsewhere, and if it is not, limits end with this process"
                    .to_owned(),
            ),
            Self::ThisProcess => Some(
                "the BPF file system with the pins is mounted only in the mount namespace of this \
                 process, so limits end with it"
                    .to_owned(),
            ),
        }
    }
}

/// A line in the `mountinfo` of a process (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// The id of the mount. A copy of the mount in another namespace has a different id.
    id: String,
    /// The device number of the file system.
    device: String,
    /// The mounted directory, as a path within the file system.
    root: String,
    /// The propagation tags. With `shared:`, a mount that is made in this namespace also appears in
    /// other namespaces. With `master:`, a mount that is made in another namespace also appears in
    /// this namespace.
    propagates: Vec<String>,
}

impl Mount {
    fn has_tag(&self, tag: &str) -> bool {
        self.propagates.iter().any(|of| of.starts_with(tag))
    }
}

fn parse(line: &str) -> Option<Mount> {
    let mut words = line.split(' ');
    Some(Mount {
        id: words.next()?.to_owned(),
        device: words.nth(1)?.to_owned(),
        root: words.next()?.to_owned(),
        // This skips the mount point and the options.
        propagates: words
            .skip(2)
            .take_while(|word| *word != "-")
            .map(str::to_owned)
            .collect(),
    })
}

/// Returns the mounts in the namespace of a process, or `None` if they cannot be read.
fn mounts_of(process: &str) -> Option<Vec<Mount>> {
    let text = fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?;
    Some(text.lines().filter_map(parse).collect())
}

/// The facts that determine the keeper.
#[derive(Debug, Default)]
struct Facts {
    /// The device number of the pins' file system.
    device: String,
    /// The name of this mount namespace. A mount that keeps this namespace alive has the name as
    /// its root (`unshare --mount=FILE`).
    namespace: String,
    own: Vec<Mount>,
    /// Whether this process has mounted the file system.
    is_new: bool,
    /// Whether this process is in the PID namespace of the host rather than in that of a container.
    is_host: bool,
    /// The mounts of process 1, or `None` if this is process 1 or its mounts cannot be read.
    first: Option<Vec<Mount>>,
    /// The mounts of other processes, each with the id of the process.
    others: Vec<(u32, Vec<Mount>)>,
}

impl Facts {
    fn has_pins(&self, mounts: &[Mount]) -> bool {
        let mut mounts = mounts.iter();
        // A mount that keeps this namespace alive also keeps all mounts in it.
        mounts.any(|mount| mount.device == self.device || mount.root == self.namespace)
    }

    /// Returns the keeper if the mounts of this process and of process 1 are enough to determine
    /// it, which is the usual case.
    fn near(&self) -> Option<Keeper> {
        if self
            .first
            .as_ref()
            .is_some_and(|first| self.has_pins(first))
        {
            let is_container = self.is_new && !self.is_host;
            return Some(if is_container {
                Keeper::Container
            } else {
                Keeper::Others
            });
        }
        let mut pins = self.own.iter().filter(|mount| mount.device == self.device);
        pins.any(|mount| mount.has_tag("master:"))
            .then_some(Keeper::Others)
    }

    /// Determines the keeper from all facts.
    fn judge(&self) -> Keeper {
        if let Some(near) = self.near() {
            return near;
        }
        let mut companion = None;
        for (process, mounts) in &self.others {
            if !self.has_pins(mounts) {
                continue;
            }
            if *mounts != self.own {
                return Keeper::Others;
            }
            companion = companion.or(Some(*process));
        }
        if let Some(process) = companion {
            return Keeper::Companion(process);
        }
        let pins = || self.own.iter().filter(|mount| mount.device == self.device);
        let is_certain = match (self.is_host, self.is_new) {
            // If process 1 is visible, all other processes are visible too.
            (true, _) => self.first.is_some(),
            // Processes outside the container are not visible. A mount without the tag `shared:`
            // cannot have been propagated to these processes, so none of them has it.
            (false, true) => !pins().any(|mount| mount.has_tag("shared:")),
            (false, false) => false,
        };
        if is_certain {
            return Keeper::ThisProcess;
        }
        // If only a part of the file system is mounted in this namespace, the whole of it must be
        // mounted in another namespace.
        if pins().all(|mount| mount.root != "/") {
            return Keeper::Others;
        }
        Keeper::Unknown
    }
}

/// Finds the keeper of the file system that holds `pins`. `is_new` states whether this process has
/// mounted that file system.
///
/// # Errors
/// Returns an error if the directory does not exist, or if `/proc` is not mounted.
pub fn keeper(pins: &Path, is_new: bool) -> io::Result<Keeper> {
    let number = fs::metadata(pins)?.dev();
    let name = |path| {
        let target = fs::read_link(path)?;
        Ok::<_, io::Error>(target.to_string_lossy().into_owned())
    };
    let own = mounts_of("self");
    let this = std::process::id();
    let mut facts = Facts {
        device: format!("{}:{}", libc::major(number), libc::minor(number)),
        namespace: name("/proc/self/ns/mnt")?,
        own: own.ok_or_else(|| io::Error::other("/proc/self/mountinfo cannot be read"))?,
        is_new,
        is_host: name("/proc/self/ns/pid")? == HOST_PID_NAMESPACE,
        first: if this == 1 { None } else { mounts_of("1") },
        others: Vec::new(),
    };
    if let Some(near) = facts.near() {
        return Ok(near);
    }
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let process = name.to_str().and_then(|name| name.parse().ok());
        if let Some(process) = process.filter(|process| *process != this)
            && let Some(mounts) = mounts_of(&format!("{process}"))
        {
            facts.others.push((process, mounts));
        }
    }
    Ok(facts.judge())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str =
        "27 1 254:0 / / rw - ext4 /dev/vda rw\n44 23 0:39 / /sys/fs/bpf rw - bpf bpf rw";
    const BARE: &str = "27 1 254:0 / / rw - ext4 /dev/vda rw";
    const OWN: &str =
        "90 1 254:0 / / rw - ext4 /dev/vda rw\n91 90 0:39 / /sys/fs/bpf rw - bpf bpf rw";
    const SHARED: &str = "91 90 0:39 / /sys/fs/bpf rw shared:7 - bpf bpf rw";
    const SLAVE: &str = "91 90 0:39 / /sys/fs/bpf rw shared:7 master:3 - bpf bpf rw";
    const PART: &str = "91 90 0:39 /limiter /run/limiter/pins rw shared:7 - bpf bpf rw";
    const KEPT: &str =
        "27 1 254:0 / / rw - ext4 /dev/vda rw\n50 1 0:4 mnt:[9] /run/m rw - nsfs nsfs rw";

    fn mounts(text: &str) -> Vec<Mount> {
        text.lines().filter_map(parse).collect()
    }

    /// Returns the keeper for the mounts of this process (`own`), of process 1 (`first`) and of
    /// other processes. The pair `at` states whether this is the host, and whether this process has
    /// mounted the file system.
    fn judge(own: &str, first: Option<&str>, others: &[&str], at: (bool, bool)) -> Keeper {
        let others = others.iter().zip(100..);
        Facts {
            device: "0:39".to_owned(),
            namespace: "mnt:[9]".to_owned(),
            own: mounts(own),
            is_host: at.0,
            is_new: at.1,
            first: first.map(mounts),
            others: others
                .map(|(text, process)| (process, mounts(text)))
                .collect(),
        }
        .judge()
    }

    #[test]
    fn pins_that_go_with_the_daemon_are_distinguished_from_those_that_stay() {
        const HOST_OLD: (bool, bool) = (true, false);
        const HOST_NEW: (bool, bool) = (true, true);
        const CONTAINER_OLD: (bool, bool) = (false, false);
        const CONTAINER_NEW: (bool, bool) = (false, true);
        for (own, first, others, at, wanted) in [
            // These are the usual cases. Process 1 is in the same mount namespace, or in a
            // namespace that has a copy of the mount.
            (HOST, Some(HOST), &[][..], HOST_OLD, Keeper::Others),
            (HOST, Some(HOST), &[], HOST_NEW, Keeper::Others),
            (OWN, Some(HOST), &[BARE], HOST_OLD, Keeper::Others),
            // Only this process has the mount, as after `unshare --mount` or `ip netns exec`.
            (OWN, Some(BARE), &[BARE], HOST_NEW, Keeper::ThisProcess),
            (OWN, Some(BARE), &[BARE], HOST_OLD, Keeper::ThisProcess),
            (SHARED, Some(BARE), &[BARE], HOST_NEW, Keeper::ThisProcess),
            // In these cases the mount is kept by the shell that started this process, by another
            // namespace, or by a file that keeps this namespace alive.
            (
                OWN,
                Some(BARE),
                &[BARE, OWN],
                HOST_OLD,
                Keeper::Companion(101),
            ),
            (OWN, Some(BARE), &[OWN, HOST], HOST_OLD, Keeper::Others),
            (OWN, Some(KEPT), &[], HOST_NEW, Keeper::Others),
            (OWN, Some(BARE), &[KEPT], HOST_NEW, Keeper::Others),
            // The mount was propagated from elsewhere, or is a part of a file system that is
            // mounted elsewhere, as under the systemd unit.
            (SLAVE, None, &[], HOST_OLD, Keeper::Others),
            (PART, None, &[], HOST_OLD, Keeper::Others),
            (SHARED, None, &[], HOST_OLD, Keeper::Unknown),
            // This process is the first process of a container, or another process in a container.
            (OWN, None, &[], CONTAINER_NEW, Keeper::ThisProcess),
            (OWN, None, &[], CONTAINER_OLD, Keeper::Unknown),
            (SLAVE, None, &[], CONTAINER_OLD, Keeper::Others),
            (SHARED, None, &[], CONTAINER_NEW, Keeper::Unknown),
            (OWN, Some(OWN), &[], CONTAINER_OLD, Keeper::Others),
            (OWN, Some(OWN), &[], CONTAINER_NEW, Keeper::Container),
        ] {
            let found = judge(own, first, others, at);
            assert_eq!(found, wanted, "{own}, {first:?}, {others:?}, {at:?}");
            assert_eq!(found.warning().is_none(), wanted == Keeper::Others);
        }
    }

    #[test]
    fn this_process_has_mounts() {
        let own = mounts_of("self").unwrap();
        assert!(own.iter().any(|mount| mount.root == "/"), "{own:?}");
    }
}
