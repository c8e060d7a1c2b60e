// SPDX-License-Identifier: MIT OR Apache-2.0

//! Resolves names and globs to interfaces of this host.

use crate::{
    config::{Attach, InterfacePattern, Problem},
    kernel::netdev::Interface,
    suggest::did_you_mean,
};

/// The interfaces of this host that the configured patterns match.
#[derive(Debug, Default)]
pub struct Resolution {
    /// The matching interfaces, each once, sorted by name.
    pub interfaces: Vec<Interface>,
    /// Globs that match no interface at present.
    pub warnings: Vec<Problem>,
    /// Configured names that no interface has, either by mistake or because the interface does not
    /// exist yet.
    pub problems: Vec<Problem>,
    /// The names that `problems` is about, in the same order.
    pub missing: Vec<String>,
}

/// Returns the interfaces among `present` that the patterns of `attach` match.
pub fn resolve(attach: &Attach, present: &[Interface]) -> Resolution {
    let mut resolution = Resolution::default();
    for pattern in &attach.interfaces {
        let mut found = present
            .iter()
            .filter(|interface| matches(pattern, interface))
            .peekable();
        if found.peek().is_none() {
            let at = pattern.origin.0.clone();
            if pattern.glob.is_some() {
                let message = format!("no interface matches `{}` now", pattern.text);
                resolution.warnings.push(Problem { at, message });
            } else {
                let message = no_interface(&pattern.text, present);
                resolution.problems.push(Problem { at, message });
                resolution.missing.push(pattern.text.clone());
            }
        }
        for interface in found {
            let is_new = |known: &Interface| known.index != interface.index;
            if resolution.interfaces.iter().all(is_new) {
                resolution.interfaces.push(interface.clone());
            }
        }
    }
    resolution.interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    resolution
}

/// Returns the message for a name `text` that no interface has. The message suggests a valid name
/// and lists the interfaces.
fn no_interface(text: &str, present: &[Interface]) -> String {
    let named = |wanted: &str| {
        let mut names = present.iter().flat_map(Interface::names);
        names.any(|name| name == wanted)
    };
    // The text may be copied from the output of a tool. `ip link` prints `name@parent`, other tools
    // print a colon after a name, and ifconfig shows further addresses as `name:1`.
    let shorter = text.split(['@', ':']).next().unwrap_or_default();
    let by_index = present
        .iter()
        .find(|interface| interface.index.to_string() == text);
    let hint = match (text, by_index) {
        ("any" | "all", _) => ": write `*` for all interfaces".to_owned(),
        (_, Some(interface)) => format!(": that is its index, write `{}`", interface.name),
        _ if shorter != text && named(shorter) => {
            let rest = text.get(shorter.len()..).unwrap_or_default();
            format!(": `{rest}` is not a part of its name, write `{shorter}`")
        }
        _ => did_you_mean(text, present.iter().flat_map(Interface::names)),
    };
    let known: Vec<String> = present
        .iter()
        .map(|interface| match interface.alternative_names.as_slice() {
            [] => interface.name.clone(),
            others => format!("{} (also {})", interface.name, others.join(", ")),
        })
        .collect();
    format!(
        "there is no interface `{text}`{hint}; interfaces here are {}",
        known.join(", ")
    )
}

/// Returns whether `pattern` matches one of the names of `interface`.
fn matches(pattern: &InterfacePattern, interface: &Interface) -> bool {
    interface.names().any(|name| {
        let glob = pattern.glob.as_ref();
        glob.map_or(pattern.text == name, |glob| glob.matches(name))
    })
}
