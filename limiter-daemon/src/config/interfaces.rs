//! From names and globs to interfaces of this host.

use super::{Attach, Problem};
use crate::{kernel::netdev::Interface, suggest::did_you_mean};

/// What patterns come to on this host.
#[derive(Debug, Default)]
pub struct Resolution {
    /// Each interface once, sorted by name.
    pub interfaces: Vec<Interface>,
    /// Globs that match nothing now.
    pub warnings: Vec<Problem>,
    /// Names that do not exist.
    pub problems: Vec<Problem>,
}

/// The interfaces that `attach` means among `present`.
pub fn resolve(attach: &Attach, present: &[Interface]) -> Resolution {
    let mut resolution = Resolution::default();
    for pattern in &attach.interfaces {
        let mut found = present
            .iter()
            .filter(|interface| pattern.matches(&interface.name))
            .peekable();
        if found.peek().is_none() {
            let at = pattern.origin.0.clone();
            if pattern.glob.is_some() {
                let message = format!("no interface matches `{}` now", pattern.text);
                resolution.warnings.push(Problem { at, message });
            } else {
                let names = present.iter().map(|interface| interface.name.as_str());
                let known: Vec<&str> = names.clone().collect();
                let message = format!(
                    "there is no interface `{}`{}; interfaces here are {}",
                    pattern.text,
                    did_you_mean(&pattern.text, names),
                    known.join(", ")
                );
                resolution.problems.push(Problem { at, message });
            }
        }
        for interface in found {
            if !resolution.interfaces.contains(interface) {
                resolution.interfaces.push(interface.clone());
            }
        }
    }
    resolution.interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    resolution
}
