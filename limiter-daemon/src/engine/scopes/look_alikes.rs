// SPDX-License-Identifier: MIT OR Apache-2.0

//! Scopes whose names differ only in letter case. They are separate scopes with their own limits
//! and counts, although the operator probably means a single scope.

use std::collections::{BTreeSet, HashMap};

use crate::domain::scope::ScopeName;

/// The names of scopes and accounts, grouped by their form in lower case.
#[derive(Default)]
pub(crate) struct Names<'a> {
    whole: HashMap<String, BTreeSet<&'a str>>,
    accounts: HashMap<String, BTreeSet<&'a str>>,
}

impl<'a> Names<'a> {
    /// Returns only those names that can cause a warning about `new`, which are usually few.
    pub(crate) fn like(new: &ScopeName, all: impl Iterator<Item = &'a ScopeName>) -> Self {
        let account = new.account();
        let mut names = Self::default();
        all.filter(|name| name.account().eq_ignore_ascii_case(account))
            .for_each(|name| names.add(name));
        names
    }

    pub(crate) fn add(&mut self, name: &'a ScopeName) {
        for (names, text) in [
            (&mut self.whole, name.as_str()),
            (&mut self.accounts, name.account()),
        ] {
            names
                .entry(text.to_ascii_lowercase())
                .or_default()
                .insert(text);
        }
    }

    /// Returns a warning if `new` differs from another name only in letter case.
    pub(crate) fn warning(&self, new: &ScopeName) -> Option<String> {
        let other = |names: &HashMap<String, BTreeSet<&'a str>>, text: &str| {
            let same = names.get(&text.to_ascii_lowercase())?;
            let other = same.first().filter(|_| !same.contains(text))?;
            Some((*other).to_owned())
        };
        if let Some(other) = other(&self.whole, new.as_str()) {
            return Some(format!(
                "the scope {new} differs from {other} only in letter case: they are two scopes, each with limits and counts of its own"
            ));
        }
        let account = new.account();
        let other = other(&self.accounts, account)?;
        Some(format!(
            "the account {account} of the scope {new} differs from {other} only in letter case: they are two accounts"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ScopeName {
        text.parse().unwrap()
    }

    #[test]
    fn names_that_differ_only_in_letter_case_are_reported() {
        let there = ["acme/web", "beta", "Zeta/x", "zeta"].map(name);
        for (new, wanted) in [
            (
                "ACME/web",
                Some("the scope ACME/web differs from acme/web only"),
            ),
            (
                "acme/Web",
                Some("the scope acme/Web differs from acme/web only"),
            ),
            (
                "Acme/app",
                Some("the account Acme of the scope Acme/app differs from acme only"),
            ),
            (
                "Acme",
                Some("the account Acme of the scope Acme differs from acme only"),
            ),
            ("BETA", Some("the scope BETA differs from beta only")),
            (
                "Beta/web",
                Some("the account Beta of the scope Beta/web differs from beta only"),
            ),
            ("acme/app", None),
            ("acme", None),
            ("beta/web", None),
            // There is no warning about the account, because both spellings of it already exist.
            ("zeta/y", None),
            ("Zeta/y", None),
            ("acme-web", None),
        ] {
            let new = name(new);
            let warning = Names::like(&new, there.iter()).warning(&new);
            assert_eq!(warning.is_some(), wanted.is_some(), "{new}: {warning:?}");
            assert!(
                warning
                    .unwrap_or_default()
                    .contains(wanted.unwrap_or_default()),
                "{new}"
            );
        }
    }
}
