// SPDX-License-Identifier: MIT OR Apache-2.0

//! Puts a new configuration into force while the daemon runs, and puts larger tables into force
//! when the daemon starts.

use super::tables::{self, larger, smaller};
use crate::{
    config::{Config, Tables},
    engine::{caller::Caller, flows::older::Arrival, state::Engine},
    kernel::{
        interfaces::{self, Resolution},
        netdev,
    },
    protocol::{error::ApiError, views::Report},
};

impl Engine {
    /// Reads the configuration again and puts it into force. An invalid configuration changes
    /// nothing.
    ///
    /// # Errors
    /// Returns an error if the configuration is invalid or the kernel refuses a change.
    pub fn reload(&mut self, caller: &Caller) -> Result<Report, ApiError> {
        let mut config = Config::load(self.setup.overlay())
            .map_err(|error| ApiError::configuration(error.to_string()))?;
        let mut report = Report::default();
        let interfaces = resolve_anew(&config, self.setup.config())?;
        self.check_tiers(&config)?;
        report.warnings.extend(self.note_tables(&config.tables));
        report
            .warnings
            .extend(keep_fixed(&mut config, self.setup.config()));
        let warnings = interfaces.warnings.iter().chain(&interfaces.problems);
        report.warnings.extend(warnings.map(ToString::to_string));
        let before = self.setup.config();
        let interfaces = &interfaces.interfaces;
        let arrival = Arrival::at_reload(before, &config, interfaces, self.plane.as_ref());
        report.done = describe_changes(before, &config);
        self.accept(config)?;
        if let Some((arrival, clock)) = arrival.as_ref().zip(self.clock.publisher()) {
            // The period for older connections has to begin before the first packet of such a
            // connection reaches the programs.
            arrival.begin(clock)?;
        }
        self.put_config_in_force(caller)?;
        let attached = self.attach_first(arrival, interfaces)?;
        report.done.extend(attached.done);
        self.store.change(|store| {
            let detail = report.done.join("; ");
            store.audit(&caller.entry("reload", "", &detail))
        })?;
        for warning in &report.warnings {
            log::warn!("{warning}");
        }
        let message = match report.done.as_slice() {
            [] => "configuration reloaded, nothing has changed".to_owned(),
            done => format!("configuration reloaded: {}", done.join("; ")),
        };
        self.events
            .add_change(caller, "reload", None, None, message);
        Ok(report)
    }

    /// Replaces the configuration in memory.
    ///
    /// # Errors
    /// Returns an error if an override is not valid with the new tiers. The previous configuration
    /// then stays in force.
    fn accept(&mut self, config: Config) -> Result<(), ApiError> {
        let previous = self.setup.replace_config(config);
        let overridden = self
            .scopes
            .iter()
            .filter(|scope| scope.record.limits_override.is_some());
        let mut effective = overridden.map(|scope| self.setup.effective(&scope.record));
        if let Some(error) = effective.find_map(Result::err) {
            drop(effective);
            self.setup.replace_config(previous);
            return Err(error);
        }
        Ok(())
    }

    fn put_config_in_force(&mut self, caller: &Caller) -> Result<(), ApiError> {
        self.follow_unknown_tier()?;
        if self.setup.unknown_tier().is_none() {
            // The configuration is published first, so that the kernel creates no more scopes for
            // unknown keys.
            self.publish_config()?;
            self.drop_all_unknown(caller.now)?;
        }
        self.publish_common_texts()?;
        self.publish_limits()?;
        self.publish_config()?;
        self.fill_unused()?;
        self.drop_unused_texts()?;
        Ok(())
    }

    /// Returns messages about the configured table sizes that differ from the sizes in force. Also
    /// records in the daemon's health the sizes in force that are larger than the configured ones.
    fn note_tables(&mut self, wanted: &Tables) -> Vec<String> {
        let in_force = &self.setup.config().tables;
        let (kept, larger) = (smaller(in_force, wanted), larger(in_force, wanted));
        // If a larger size is configured, the health may already report why the tables could not be
        // made larger. That report stays.
        if larger.is_none() {
            self.note_health(tables::PART, kept.clone());
        }
        let larger = larger.map(|larger| format!("{larger}: a restart makes them that large"));
        kept.into_iter().chain(larger).collect()
    }

    /// Creates tables of the sizes in `wanted` in addition to those in force, and returns whether
    /// [`Self::make_tables_larger`] has to be called afterwards. If the tables cannot be created,
    /// the tables in force stay as they are.
    pub fn prepare_tables(&mut self, wanted: &Tables) -> bool {
        let kept = smaller(&self.setup.config().tables, wanted);
        self.note_health(tables::PART, kept);
        let prepared = self.plane.prepare_larger(wanted);
        prepared.unwrap_or_else(|error| {
            self.note_too_small(wanted, &error);
            false
        })
    }

    /// Puts the prepared tables into force.
    ///
    /// # Errors
    /// Returns an error if the larger tables cannot be filled. It is not an error if the tables in
    /// force cannot be replaced. In that case, they stay as they are.
    pub fn make_tables_larger(&mut self, wanted: &Tables) -> Result<(), ApiError> {
        match self.plane.make_larger() {
            Ok(tables) => {
                let before = self.setup.replace_tables(tables);
                if let Some(sizes) = larger(&before, &tables) {
                    log::info!("tables made larger: {sizes}");
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
        let sizes = larger(&self.setup.config().tables, wanted).unwrap_or_default();
        let problem = format!(
            "cannot change {sizes}: {error}; the tables stay as they are, and the next start tries again"
        );
        self.note_health(tables::PART, Some(problem));
    }
}

/// Copies the settings that can change only at a restart from `before` to `config`, and returns a
/// warning for each of them that was different in `config`. Also copies the sizes of the tables,
/// about which [`Engine::note_tables`] returns warnings.
fn keep_fixed(config: &mut Config, before: &Config) -> Vec<String> {
    config.tables = before.tables;
    let mut changed = Vec::new();
    if config.attach.hook != before.attach.hook {
        config.attach.hook = before.attach.hook;
        changed.push("`attach.hook`");
    }
    if config.attach.order != before.attach.order {
        config.attach.order = before.attach.order;
        changed.push("`attach.order`");
    }
    if config.control != before.control {
        config.control = before.control.clone();
        changed.push("[control]");
    }
    if config.metrics != before.metrics {
        config.metrics = before.metrics.clone();
        changed.push("[metrics]");
    }
    if config.fleet != before.fleet {
        config.fleet = before.fleet.clone();
        // Its default depends on whether there is a fleet.
        config.accounting.unattended = before.accounting.unattended;
        changed.push("[fleet]");
    }
    let warning = |entry| format!("{entry} has changed: that takes a restart");
    changed.into_iter().map(warning).collect()
}

/// Returns the interfaces that a new configuration names. An interface that is named for the first
/// time must exist, since its name may be misspelt. An interface that the daemon already waits for
/// need not exist.
fn resolve_anew(config: &Config, before: &Config) -> Result<Resolution, ApiError> {
    let resolution = resolve(config)?;
    let before = &before.attach.interfaces;
    let is_new = |name: &&String| before.iter().all(|known| known.text != **name);
    if resolution.missing.iter().any(|name| is_new(&name)) {
        return refuse(resolution);
    }
    Ok(resolution)
}

/// Returns the interfaces of this host that `config` names, and the problems with the other names.
///
/// # Errors
/// Returns an error if the interfaces cannot be listed.
pub(crate) fn resolve(config: &Config) -> Result<Resolution, ApiError> {
    let present = netdev::interfaces()
        .map_err(|error| ApiError::failed(format!("cannot list network interfaces: {error}")))?;
    Ok(interfaces::resolve(&config.attach, &present))
}

/// Returns the interfaces of this host that `config` names.
///
/// # Errors
/// Returns an error if an interface that `config` names does not exist.
pub fn resolve_or_refuse(config: &Config) -> Result<Resolution, ApiError> {
    refuse(resolve(config)?)
}

fn refuse(resolution: Resolution) -> Result<Resolution, ApiError> {
    if resolution.problems.is_empty() {
        return Ok(resolution);
    }
    let lines: Vec<String> = resolution
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    Err(ApiError::configuration(lines.join("\n")))
}

/// Returns descriptions of the differences for operators. Does not describe changes of interfaces,
/// since they are reported when the programs are attached.
fn describe_changes(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    if old.attach.ports != new.attach.ports {
        changes.push(format!("guarded ports are now {:?}", new.attach.ports));
    }
    if old.sources != new.sources {
        let sources: Vec<String> = new.sources.iter().map(ToString::to_string).collect();
        changes.push(format!("keys are now looked for in {}", sources.join(", ")));
    }
    if old.policy != new.policy {
        changes.push("policies have changed".to_owned());
    }
    if old.accounting != new.accounting {
        changes.push("accounting has changed".to_owned());
    }
    if old.healing != new.healing {
        changes.push("times of healing have changed".to_owned());
    }
    if old.history != new.history {
        changes.push(format!("usage is now kept for {}", new.history.keep));
    }
    for (name, tier) in new.tiers.iter() {
        match old.tiers.get(name.as_str()) {
            None => changes.push(format!("tier {name} is new")),
            Some(before) if before != tier => changes.push(format!("tier {name} has changed")),
            Some(_) => {}
        }
    }
    for name in old
        .tiers
        .names()
        .filter(|name| new.tiers.get(name.as_str()).is_none())
    {
        changes.push(format!("tier {name} was removed"));
    }
    changes
}
