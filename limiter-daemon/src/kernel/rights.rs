// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks whether this process has the capabilities that the programs need (capabilities(7)).

use std::{fs, io};

/// The numbers of capabilities in `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The required capabilities, each with its name and purpose. A process with CAP_SYS_ADMIN needs
/// none of them (`bpf_capable`, `perfmon_capable` of the kernel), except CAP_NET_ADMIN for changing
/// qdiscs, which is not checked in that case.
const NEEDED: [(u32, &str, &str); 3] = [
    (CAP_BPF, "CAP_BPF", "to load programs and create maps"),
    (
        CAP_NET_ADMIN,
        "CAP_NET_ADMIN",
        "to attach programs to interfaces",
    ),
    (
        CAP_PERFMON,
        "CAP_PERFMON",
        "to load programs that use pointers to packets",
    ),
];

/// Returns a description of the capabilities that loading and attaching require and that this
/// process lacks, or `None` if this process has all of them.
pub fn missing() -> Option<String> {
    // If the capabilities cannot be read, this check is skipped. The kernel then reports a missing
    // capability when a program is loaded or attached.
    let effective = effective().ok()?;
    missing_of(effective)
}

fn effective() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let digits = line.unwrap_or_default().trim();
    u64::from_str_radix(digits, 16).map_err(io::Error::other)
}

fn missing_of(effective: u64) -> Option<String> {
    let has = |capability: u32| effective >> capability & 1 == 1;
    if has(CAP_SYS_ADMIN) {
        return None;
    }
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(capability, ..)| !has(*capability))
        .map(|(_, name, why)| format!("{name} ({why})"))
        .collect();
    let names: Vec<&str> = NEEDED
        .iter()
        .filter(|(capability, ..)| !has(*capability))
        .map(|(_, name, _)| *name)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "this process lacks {}: run it as root, or give it these capabilities (in a unit \
             `AmbientCapabilities={}`, in a container `--cap-add`)",
            missing.join(", "),
            names.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let all = 1 << CAP_BPF | 1 << CAP_NET_ADMIN | 1 << CAP_PERFMON;
        assert_eq!(missing_of(all), None);
        assert_eq!(missing_of(1 << CAP_SYS_ADMIN), None);
        for (capability, name, _) in NEEDED {
            let text = missing_of(all & !(1 << capability)).unwrap();
            assert!(
                text.contains(&format!("AmbientCapabilities={name}`")),
                "{text}"
            );
        }
        let text = missing_of(0).unwrap();
        assert!(
            NEEDED.iter().all(|(_, name, _)| text.contains(name)),
            "{text}"
        );
    }
}
