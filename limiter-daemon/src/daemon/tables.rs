//! Sizes of the kernel's tables: a start makes them larger where the configuration says so, and nothing
//! makes them smaller while they are in force.

use super::engine::Engine;
use crate::{api::ApiError, config::Tables};

/// The part of the daemon's health that is about sizes.
const PART: &str = "tables";

/// The sizes by their names in the configuration.
fn named(tables: &Tables) -> [(&'static str, u32); 4] {
    [
        ("flows", tables.flows),
        ("scopes", tables.scopes),
        ("keys", tables.keys),
        ("unknown_keys", tables.unknown_keys),
    ]
}

/// What the tables have, and the configuration wants less of.
fn smaller(in_force: &Tables, wanted: &Tables) -> Option<String> {
    let kept: Vec<String> = named(in_force)
        .iter()
        .zip(named(wanted))
        .filter(|((_, has), (_, wanted))| has > wanted)
        .map(|((name, has), (_, wanted))| {
            format!("`tables.{name}` stays {has} instead of {wanted}")
        })
        .collect();
    let hint = "a table that is there is made smaller by `limiter detach` and a new start";
    (!kept.is_empty()).then(|| format!("{}: {hint}", kept.join(", ")))
}

/// What the configuration wants more of than the tables have.
fn larger(in_force: &Tables, wanted: &Tables) -> Option<String> {
    let asked: Vec<String> = named(in_force)
        .iter()
        .zip(named(wanted))
        .filter(|((_, has), (_, wanted))| has < wanted)
        .map(|((name, has), (_, wanted))| format!("`tables.{name}` from {has} to {wanted}"))
        .collect();
    (!asked.is_empty()).then(|| asked.join(", "))
}

impl Engine {
    /// Notes what the configuration says of sizes now, and says what becomes of it.
    pub(super) fn note_tables(&mut self, wanted: &Tables) -> Vec<String> {
        let (kept, asked) = {
            let in_force = &self.config.tables;
            (smaller(in_force, wanted), larger(in_force, wanted))
        };
        // Why it could not be had before stays true.
        if asked.is_none() {
            self.note_health(PART, kept.clone());
        }
        let asked = asked.map(|asked| format!("{asked}: a restart makes them so large"));
        kept.into_iter().chain(asked).collect()
    }

    /// Makes tables of these sizes beside those in force; whether [`Self::make_tables_larger`] is to
    /// follow. Where that cannot be done the tables stay what they are.
    pub fn prepare_tables(&mut self, wanted: &Tables) -> bool {
        self.note_health(PART, smaller(&self.config.tables, wanted));
        let prepared = self.plane.prepare_larger(wanted);
        prepared.unwrap_or_else(|error| {
            self.note_too_small(wanted, &error);
            false
        })
    }

    /// Puts them into force.
    ///
    /// # Errors
    /// What comes after that, as at a start.
    pub fn make_tables_larger(&mut self, wanted: &Tables) -> Result<(), ApiError> {
        match self.plane.make_larger() {
            Ok(tables) => {
                let before = std::mem::replace(&mut self.config.tables, tables);
                if let Some(sizes) = larger(&before, &tables) {
                    log::info!("made larger: {sizes}");
                }
                self.fill_unused()
            }
            Err(error) => {
                self.note_too_small(wanted, &error);
                Ok(())
            }
        }
    }

    fn note_too_small(&mut self, wanted: &Tables, error: &dyn std::fmt::Display) {
        let sizes = larger(&self.config.tables, wanted).unwrap_or_default();
        let problem = format!(
            "cannot change {sizes}: {error}; all goes on as it was, and the next start tries again"
        );
        self.note_health(PART, Some(problem));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAS: Tables = Tables {
        flows: 100,
        scopes: 200,
        keys: 300,
        unknown_keys: 400,
    };

    #[test]
    fn what_is_larger_and_what_is_smaller_is_told_apart() {
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
