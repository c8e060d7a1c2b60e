// SPDX-License-Identifier: MIT OR Apache-2.0

//! The plan of an import, with the scopes to create and the keys to add.

use chrono::{DateTime, Utc};
use limiter_common::abi;

use super::{
    csv_import::{KeyFile, Line, Problems, REPORTED},
    unknown::Unknown,
};
use crate::{
    domain::{limits::Limits, mode::Mode, scope::ScopeName},
    engine::{
        scopes::{free_ids::free_ids, look_alikes::Names, registry::Scopes},
        setup::Setup,
    },
    kernel::{KernelError, Plane},
    protocol::error::ApiError,
    store::{DayUsage, NewKey, ScopeRecord},
};

/// The scopes and keys of a file, as far as they are known without a query to the store.
pub(crate) struct Plan {
    /// The scopes that have to be created.
    pub(crate) scopes: Vec<ScopeRecord>,
    /// The keys, each with the number of its line.
    pub(crate) keys: Vec<(u64, NewKey)>,
    pub(crate) problems: Problems,
}

/// A scope that an import creates.
pub(crate) struct NewScope {
    pub(crate) record: ScopeRecord,
    /// The limits and the mode.
    pub(crate) in_force: (Limits, Mode),
    /// The limits in the form that the kernel uses.
    pub(crate) published: abi::Limits,
    /// Today's usage of an earlier scope with the same name.
    pub(crate) usage: DayUsage,
}

/// The parts of the engine on which a plan depends.
pub(crate) struct Planner<'a> {
    pub(crate) scopes: &'a Scopes,
    pub(crate) unknown: &'a Unknown,
    pub(crate) plane: &'a dyn Plane,
    pub(crate) setup: &'a Setup,
}

/// The id and the tier of a scope that the file names.
struct Target {
    id: u32,
    tier: String,
}

impl Planner<'_> {
    /// Returns the plan for a file. Problems of single lines are a part of the plan.
    ///
    /// # Errors
    /// Returns an error if the table of scopes is full.
    pub(crate) fn plan(&self, file: KeyFile, now: DateTime<Utc>) -> Result<Plan, ApiError> {
        let KeyFile {
            scopes: names,
            lines,
            mut problems,
        } = file;
        let tables = &self.setup.config().tables;
        let mut ids = free_ids(self.scopes, self.unknown, self.plane, tables);
        let full = || KernelError::scopes_full(tables.scopes);
        let mut targets: Vec<Option<Target>> =
            names.iter().map(|name| self.present(name)).collect();
        let mut new = Vec::new();
        let mut keys = Vec::with_capacity(lines.len());
        for line in lines {
            let (Some(name), Some(target)) = (names.get(line.scope), targets.get_mut(line.scope))
            else {
                continue;
            };
            let scope_id = match target {
                Some(target) => self.check_present(name, target, &line).map(|()| target.id),
                None => match self.tier_of_new(name, &line) {
                    Ok(tier) => {
                        let id = ids.next().ok_or_else(full)?;
                        new.push(ScopeRecord::new(id, name.clone(), tier.clone(), now));
                        *target = Some(Target { id, tier });
                        Ok(id)
                    }
                    Err(problem) => Err(problem),
                },
            };
            match scope_id {
                Ok(scope_id) => keys.push((line.line, key_of(line, scope_id))),
                Err(problem) => problems.note(line.line, || problem),
            }
        }
        Ok(Plan {
            scopes: new,
            keys,
            problems,
        })
    }

    fn present(&self, name: &ScopeName) -> Option<Target> {
        let record = &self.scopes.get(name)?.record;
        Some(Target {
            id: record.id,
            tier: record.tier.clone(),
        })
    }

    /// Checks that the scope of a line does not belong to an unknown key, and that the scope has
    /// the tier that the line names, if any.
    fn check_present(
        &self,
        name: &ScopeName,
        target: &Target,
        line: &Line,
    ) -> Result<(), ApiError> {
        let scope = self.scopes.get(name);
        if scope.is_some_and(|scope| scope.record.unknown.is_some()) {
            return Err(ApiError::conflict(format!(
                "the scope {name} is of an unknown key"
            )));
        }
        match &line.tier {
            Some(tier) if *tier != target.tier => Err(ApiError::conflict(format!(
                "the scope {name} has tier {}, not {tier}",
                target.tier
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the tier for a scope that will be created for a line.
    fn tier_of_new(&self, name: &ScopeName, line: &Line) -> Result<String, ApiError> {
        let tier = line.tier.clone();
        let tier = tier.unwrap_or_else(|| name.default_tier().to_owned());
        self.setup.tier(&tier)?;
        Ok(tier)
    }
}

fn key_of(line: Line, scope_id: u32) -> NewKey {
    NewKey {
        id: line.id,
        scope_id,
        digest: line.digest,
        label: line.label,
        until: None,
    }
}

/// Returns warnings about new scopes whose names differ from other names only in letter case. Only
/// the first warnings are given in full.
pub(crate) fn look_alikes(new: &[ScopeRecord], scopes: &Scopes) -> Vec<String> {
    if new.is_empty() {
        return Vec::new();
    }
    let mut names = Names::default();
    scopes.names().for_each(|name| names.add(name));
    let mut warnings = Vec::new();
    for record in new {
        warnings.extend(names.warning(&record.name));
        names.add(&record.name);
    }
    let others = warnings.len().saturating_sub(REPORTED);
    warnings.truncate(REPORTED);
    if others > 0 {
        warnings.push(format!("and {others} more scopes like these"));
    }
    warnings
}
