// SPDX-License-Identifier: MIT OR Apache-2.0

//! The selection of the parts to run, and the test runs that it requires.

use std::collections::{BTreeMap, BTreeSet};

use super::parts::{Kinds, LIBRARY, Part, SEPARATOR, UNIT_CRATES};

/// The parts to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub units: BTreeSet<&'static str>,
    pub integration: Integration,
    /// The plans of the emulated machines, or `None` if none of them is selected. An empty set
    /// stands for all plans.
    pub machines: Option<BTreeSet<&'static str>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub enum Integration {
    #[default]
    Nothing,
    All,
    /// The programs to run, each with the modules to run. An empty set stands for all modules.
    Programs(BTreeMap<String, BTreeSet<String>>),
}

/// A run of some test programs with the same filters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The arguments with which cargo selects the targets. If there are none, all targets are
    /// selected.
    pub targets: Vec<String>,
    /// The filters for the paths of the tests. If there are none, all tests are selected.
    pub filters: Vec<String>,
}

impl Selection {
    pub fn all(kinds: Kinds) -> Self {
        Self {
            units: UNIT_CRATES.into_iter().filter(|_| kinds.unit).collect(),
            integration: if kinds.integration {
                Integration::All
            } else {
                Integration::Nothing
            },
            machines: kinds.machines.then(BTreeSet::new),
        }
    }

    pub fn add(&mut self, part: Part) {
        match part {
            Part::Unit(name) => {
                self.units.insert(name);
            }
            Part::Integration { program, module } => self.integration.add(program, module),
            Part::Machine(plan) => match (&mut self.machines, plan) {
                (Some(plans), Some(plan)) if !plans.is_empty() => {
                    plans.insert(plan);
                }
                (Some(plans), _) => plans.clear(),
                (machines, plan) => *machines = Some(plan.into_iter().collect()),
            },
        }
    }
}

impl Integration {
    /// Returns the runs that this selection requires.
    pub fn runs(&self) -> Vec<Run> {
        let programs = match self {
            Self::Nothing => return Vec::new(),
            Self::All => return vec![Run::default()],
            Self::Programs(programs) => programs,
        };
        let target = |program: &String| match program.as_str() {
            LIBRARY => vec!["--lib".to_owned()],
            _ => vec!["--test".to_owned(), program.clone()],
        };
        let (whole, partial): (Vec<_>, Vec<_>) =
            programs.iter().partition(|(_, modules)| modules.is_empty());
        let whole: Vec<String> = whole
            .into_iter()
            .flat_map(|(name, _)| target(name))
            .collect();
        let whole = (!whole.is_empty()).then_some(Run {
            targets: whole,
            filters: Vec::new(),
        });
        let partial = partial.into_iter().map(|(program, modules)| Run {
            targets: target(program),
            filters: modules.iter().map(|module| filter(module)).collect(),
        });
        whole.into_iter().chain(partial).collect()
    }

    /// Returns whether tests of a program are selected.
    pub fn has_some(&self, program: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Programs(programs) => programs.contains_key(program),
        }
    }

    /// Returns whether tests of a module are selected.
    pub fn has(&self, program: &str, module: &str) -> bool {
        let programs = match self {
            Self::Nothing => return false,
            Self::All => return true,
            Self::Programs(programs) => programs,
        };
        let is_in_module = |chosen: &String| {
            let rest = chosen.strip_prefix(module);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(SEPARATOR))
        };
        programs
            .get(program)
            .is_some_and(|modules| modules.is_empty() || modules.iter().any(is_in_module))
    }

    fn add(&mut self, program: String, module: Option<String>) {
        if !matches!(self, Self::Programs(_)) {
            *self = Self::Programs(BTreeMap::new());
        }
        let Self::Programs(programs) = self else {
            return;
        };
        match (programs.get_mut(&program), module) {
            (Some(modules), Some(module)) if !modules.is_empty() => {
                modules.insert(module);
            }
            (Some(modules), _) => modules.clear(),
            (None, module) => {
                programs.insert(program, module.into_iter().collect());
            }
        }
    }
}

/// Returns the filter that selects the tests of `module` by their paths. If `module` already
/// contains the first letters of the names of tests, it is returned as the filter.
fn filter(module: &str) -> String {
    if module.contains(SEPARATOR) {
        module.to_owned()
    } else {
        format!("{module}{SEPARATOR}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(targets: &[&str], filters: &[&str]) -> Run {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Run {
            targets: owned(targets),
            filters: owned(filters),
        }
    }

    #[test]
    fn without_names_everything_of_a_kind_is_selected() {
        let selection = Selection::all(Kinds {
            unit: true,
            integration: true,
            machines: true,
        });
        assert_eq!(selection.units, UNIT_CRATES.into());
        assert_eq!(selection.integration.runs(), [Run::default()]);
        assert_eq!(selection.machines, Some(BTreeSet::new()));
        let machines = Selection::all(Kinds {
            unit: false,
            integration: false,
            machines: true,
        });
        assert!(machines.units.is_empty() && machines.integration.runs().is_empty());
    }

    fn selected(parts: &[Part]) -> Selection {
        let mut selection = Selection::default();
        for part in parts {
            selection.add(part.clone());
        }
        selection
    }

    fn part(program: &str, module: &str) -> Part {
        Part::Integration {
            program: program.to_owned(),
            module: (!module.is_empty()).then(|| module.to_owned()),
        }
    }

    #[test]
    fn modules_of_a_program_share_a_run_and_whole_programs_share_another() {
        let selection = selected(&[
            part("counts", "quota"),
            part("traffic", ""),
            part("counts", "leaks::a_test"),
            part(LIBRARY, ""),
            part("evasion", "keys"),
            Part::Unit("xtask"),
        ]);
        assert_eq!(selection.units, ["xtask"].into());
        let runs = [
            run(&["--lib", "--test", "traffic"], &[]),
            run(&["--test", "counts"], &["leaks::a_test", "quota::"]),
            run(&["--test", "evasion"], &["keys::"]),
        ];
        assert_eq!(selection.integration.runs(), runs);
        let has = |program, module| selection.integration.has(program, module);
        assert!(has("counts", "quota") && has("counts", "leaks") && has("traffic", "lab"));
        assert!(!has("counts", "leak") && !has("counts", "midnight") && !has("cli", "keys"));
        assert_eq!(selection.machines, None);
    }

    #[test]
    fn a_whole_program_replaces_its_modules() {
        for order in [[0, 1], [1, 0]] {
            let of_program = [part("counts", "quota"), part("counts", "")];
            let selection = selected(&order.map(|at| of_program[at].clone()));
            assert_eq!(
                selection.integration.runs(),
                [run(&["--test", "counts"], &[])]
            );
            let of_machines = [Part::Machine(Some("memory")), Part::Machine(None)];
            let selection = selected(&order.map(|at| of_machines[at].clone()));
            assert_eq!(selection.machines, Some(BTreeSet::new()));
        }
        let plans = ["memory", "tests"];
        let selection = selected(&plans.map(|plan| Part::Machine(Some(plan))));
        assert_eq!(selection.machines, Some(plans.into()));
    }
}
