// SPDX-License-Identifier: MIT OR Apache-2.0

//! The settings of the engine, which consist of the configuration in force, the command-line
//! options, and the hash secret.

use std::collections::BTreeMap;

use limiter_common::{abi::Digest, siphash::siphash128};

use crate::{
    config::{Config, Overlay, Tables, Tier, TierName, UnknownKey},
    domain::{
        limits::Limits,
        mode::Mode,
        plain::{Shown, counted},
    },
    protocol::error::ApiError,
    secret::Secret,
    store::ScopeRecord,
    suggest::did_you_mean,
};

/// The settings of the engine.
pub(crate) struct Setup {
    config: Config,
    /// The command-line options, which override the configuration file at every reload.
    overlay: Overlay,
    secret: Secret,
}

impl Setup {
    pub(crate) fn new(config: Config, overlay: Overlay, secret: Secret) -> Self {
        Self {
            config,
            overlay,
            secret,
        }
    }

    /// Returns the configuration in force.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Replaces the configuration, and returns the previous one.
    pub(crate) fn replace_config(&mut self, config: Config) -> Config {
        std::mem::replace(&mut self.config, config)
    }

    /// Replaces the sizes of the tables in force, and returns the previous ones.
    pub(crate) fn replace_tables(&mut self, tables: Tables) -> Tables {
        std::mem::replace(&mut self.config.tables, tables)
    }

    pub(crate) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Replaces the hash secret.
    pub(crate) fn replace_secret(&mut self, secret: Secret) {
        self.secret = secret;
    }

    /// Returns the digest by which the kernel programs identify the key `raw`.
    pub(crate) fn digest(&self, raw: &str) -> Digest {
        siphash128(*self.secret, raw.as_bytes())
    }

    pub(crate) fn tier(&self, name: &str) -> Result<&Tier, ApiError> {
        self.config
            .tiers
            .get(name)
            .ok_or_else(|| self.no_tier(name))
    }

    /// Returns the error for a tier name that does not exist.
    pub(crate) fn no_tier(&self, name: &str) -> ApiError {
        let names = self.config.tiers.names().map(|name| name.as_str());
        ApiError::not_found(format!(
            "there is no tier `{}`{}; tiers are {}",
            Shown(name),
            did_you_mean(name, names),
            self.config.tiers.listed()
        ))
    }

    /// Returns the tier for the scopes of unknown keys, or `None` if unknown keys get no scopes.
    pub(crate) fn unknown_tier(&self) -> Option<&TierName> {
        match &self.config.policy.unknown_key {
            UnknownKey::Tier(name) => Some(name),
            UnknownKey::Pass | UnknownKey::Reject => None,
        }
    }

    /// Returns the limits and the mode that apply to the scope of `record`.
    pub(crate) fn effective(&self, record: &ScopeRecord) -> Result<(Limits, Mode), ApiError> {
        let tier = self.tier(&record.tier)?;
        let limits = match &record.limits_override {
            Some(own) => own.changes().apply(tier.limits)?,
            None => tier.limits,
        };
        Ok((limits, record.mode.unwrap_or_else(|| self.mode_of(tier))))
    }

    /// Returns the mode of the scopes in a tier that have no mode of their own.
    pub(crate) fn mode_of(&self, tier: &Tier) -> Mode {
        tier.mode.unwrap_or(self.config.policy.mode)
    }
}

/// Checks that `config` contains the tier of every scope.
///
/// # Errors
/// Returns an error with the name of the first missing tier and the scopes that have it.
pub(crate) fn check_tiers<'a>(
    scopes: impl IntoIterator<Item = &'a ScopeRecord>,
    config: &Config,
) -> Result<(), ApiError> {
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    // Scopes of unknown keys are skipped, because they are moved to the tier that `config` names
    // for them.
    for record in scopes.into_iter().filter(|scope| scope.unknown.is_none()) {
        if config.tiers.get(&record.tier).is_none() {
            missing
                .entry(&record.tier)
                .or_default()
                .push(record.name.as_str());
        }
    }
    let Some((tier, scopes)) = missing.first_key_value() else {
        return Ok(());
    };
    let file = config.file.as_ref().map_or_else(
        || "the configuration".to_owned(),
        |file| file.display().to_string(),
    );
    let some = scopes
        .iter()
        .take(3)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    let more = if scopes.len() > 3 { ", …" } else { "" };
    Err(ApiError::configuration(format!(
        "{file} has no tier `{tier}`, which is the tier of {} ({some}{more}): keep [tiers.{tier}]",
        counted(scopes.len(), "scope")
    )))
}
