// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sizes of the kernel's tables. They become larger at a start if the configuration requires
//! it, and never become smaller while the tables are in force.

use crate::config::Tables;

/// The name under which the daemon's health reports problems with the table sizes.
pub(crate) const PART: &str = "tables";

/// Returns the sizes with the names that they have in the configuration.
fn named(tables: &Tables) -> [(&'static str, u32); 4] {
    [
        ("flows", tables.flows),
        ("scopes", tables.scopes),
        ("keys", tables.keys),
        ("unknown_keys", tables.unknown_keys),
    ]
}

/// Returns a message about the sizes in force that are larger than the configured ones.
pub(crate) fn smaller(in_force: &Tables, wanted: &Tables) -> Option<String> {
    let kept: Vec<String> = named(in_force)
        .iter()
        .zip(named(wanted))
        .filter(|((_, has), (_, wanted))| has > wanted)
        .map(|((name, has), (_, wanted))| {
            format!("`tables.{name}` stays {has} instead of {wanted}")
        })
        .collect();
    let hint = "to make an existing table smaller, run `limiter detach` and start again";
    (!kept.is_empty()).then(|| format!("{}: {hint}", kept.join(", ")))
}

/// Returns a message about the sizes in force that are smaller than the configured ones.
pub(crate) fn larger(in_force: &Tables, wanted: &Tables) -> Option<String> {
    let asked: Vec<String> = named(in_force)
        .iter()
        .zip(named(wanted))
        .filter(|((_, has), (_, wanted))| has < wanted)
        .map(|((name, has), (_, wanted))| format!("`tables.{name}` from {has} to {wanted}"))
        .collect();
    (!asked.is_empty()).then(|| asked.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAS: Tables = Tables {
        flows: 100,
        scopes: 200,
        keys: 300,
        unknown_keys: 400,
        leases: false,
    };

    #[test]
    fn larger_and_smaller_sizes_are_reported_apart() {
        let wanted = Tables {
            flows: 101,
            scopes: 199,
            ..HAS
        };
        let kept = smaller(&HAS, &wanted).unwrap();
        assert!(kept.starts_with("`tables.scopes` stays 200 instead of 199: "));
        assert!(kept.contains("limiter detach"));
        let asked = larger(&HAS, &wanted);
        assert_eq!(asked.as_deref(), Some("`tables.flows` from 100 to 101"));
        assert_eq!((smaller(&HAS, &HAS), larger(&HAS, &HAS)), (None, None));
        assert_eq!(HAS.at_least(&wanted), Tables { flows: 101, ..HAS });
    }
}
