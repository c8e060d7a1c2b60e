//! Attaching, reading the configuration again, letting go, and what comes round every second.

use chrono::{DateTime, Utc};

use super::{
    clock::ClockPublisher,
    engine::{Caller, Engine, Scope},
};
use crate::{
    api::{ApiError, Report},
    config::{self, Config, Resolution},
    kernel::netdev::{self, Interface},
};

impl Engine {
    /// Attaches to the configured interfaces, and lets go of others: limits are in force when
    /// this returns.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&mut self, interfaces: &[Interface]) -> Result<Report, ApiError> {
        let done = self.plane.follow(interfaces)?;
        for line in &done {
            log::info!("{line}");
            self.events.say(line.as_str());
        }
        Ok(Report {
            done,
            warnings: Vec::new(),
        })
    }

    /// Attaches again what vanished and came back, and what a glob matches only now.
    pub fn follow_interfaces(&mut self) {
        if self.detached {
            return;
        }
        let present = match netdev::interfaces() {
            Ok(present) => present,
            Err(error) => {
                self.note_health("interfaces", Some(format!("cannot list them: {error}")));
                return;
            }
        };
        let Resolution {
            interfaces,
            problems,
            ..
        } = config::resolve(&self.config.attach, &present);
        let missing = problems.first().map(|problem| problem.message.clone());
        self.note_health("interfaces", missing);
        let failed = self.attach(&interfaces).err().map(|error| error.message);
        self.note_health("attach", failed);
    }

    /// Reads the configuration again and puts it into force; a bad one changes nothing.
    ///
    /// # Errors
    /// Why the file is bad, or what the kernel refused.
    pub fn reload(&mut self, caller: &Caller) -> Result<Report, ApiError> {
        let mut config = Config::load(&self.overlay)
            .map_err(|error| ApiError::configuration(error.to_string()))?;
        let interfaces = resolve_or_refuse(&config)?;
        self.check_tiers(&config)?;
        let mut report = Report::default();
        // Sizes are those of the pinned maps, and links stay what they are.
        report.warnings.extend(self.note_tables(&config.tables));
        config.tables = self.config.tables;
        if config.attach.hook != self.config.attach.hook {
            config.attach.hook = self.config.attach.hook;
            report
                .warnings
                .push("`attach.hook` has changed: that takes a restart".to_owned());
        }
        if config.control != self.config.control {
            config.control = self.config.control.clone();
            report
                .warnings
                .push("[control] has changed: that takes a restart".to_owned());
        }
        if config.metrics != self.config.metrics {
            config.metrics = self.config.metrics.clone();
            report
                .warnings
                .push("[metrics] has changed: that takes a restart".to_owned());
        }
        report
            .warnings
            .extend(interfaces.warnings.iter().map(ToString::to_string));
        let previous = std::mem::replace(&mut self.config, config);
        if let Err(error) = self.check_overrides() {
            self.config = previous;
            return Err(error);
        }
        report.done = describe_changes(&previous, &self.config);
        self.follow_unknown_tier()?;
        if self.unknown_tier().is_none() {
            // The kernel makes no more of them first.
            self.publish_config()?;
            self.drop_all_unknown(caller.now)?;
        }
        self.publish_limits()?;
        self.publish_config()?;
        self.fill_unused()?;
        self.drop_unused_texts()?;
        report
            .done
            .extend(self.attach(&interfaces.interfaces)?.done);
        self.store.change(|store| {
            let detail = report.done.join("; ");
            store.audit(&caller.entry("reload", "", &detail))
        })?;
        for warning in &report.warnings {
            log::warn!("{warning}");
        }
        let what = match report.done.as_slice() {
            [] => "configuration read again, nothing has changed".to_owned(),
            done => format!("configuration read again: {}", done.join("; ")),
        };
        self.tell_change(caller, "reload", None, None, what);
        Ok(report)
    }

    /// Overrides must make sense over the new tiers.
    fn check_overrides(&self) -> Result<(), ApiError> {
        let own = |scope: &&Scope| scope.record.own.is_some();
        for scope in self.scopes.values().filter(own) {
            self.effective(&scope.record)?;
        }
        Ok(())
    }

    /// Removes attachments, maps and pins; counts are written in between, when they stand still.
    ///
    /// # Errors
    /// The kernel's; the store's are only told, since nothing is in force any more then.
    pub fn detach(&mut self, caller: &Caller) -> Result<Report, ApiError> {
        self.detached = true;
        let mut done = self.plane.release()?;
        let written = self
            .flush(caller.now)
            .and_then(|()| self.record_unheard(caller.now))
            .and_then(|()| self.save_last_used());
        done.extend(self.plane.detach()?);
        let detail = done.join("; ");
        let entry = caller.entry("detach", "", &detail);
        let closed = written.and_then(|()| self.close(&entry));
        let warnings: Vec<_> = closed
            .err()
            .map(|error| lost_counts(&error))
            .into_iter()
            .collect();
        for warning in &warnings {
            log::error!("{warning}");
        }
        self.tell_change(caller, "detach", None, None, "detached");
        Ok(Report { done, warnings })
    }

    /// Everything that comes round every second, but the clock.
    pub fn tick(&mut self, now: DateTime<Utc>) {
        if self.detached {
            return;
        }
        let expired = self.expire_overrides(now).err().map(|error| error.message);
        self.note_health("overrides", expired);
        let flushed = self.flush(now).and_then(|()| self.note_day(now));
        if flushed.is_ok() {
            self.attend();
        }
        let flushed = flushed.err().map(|error| error.message);
        self.note_health("store", flushed);
        let unknown = self.tend_unknown(now).err().map(|error| error.message);
        self.note_health("unknown_keys", unknown);
        let forgotten = self.forget_old_days(now).err().map(|error| error.message);
        self.note_health("history", forgotten);
    }

    /// As [`Self::tick`]. If the kernel has not held requests to what the store allows until then, it hears
    /// at once to do so again, and what it has admitted meanwhile is written as well: before anybody sees
    /// that the store works again.
    pub fn round(&mut self, now: DateTime<Utc>, clock: &ClockPublisher) {
        self.tick(now);
        if self.is_attended() && !clock.is_attended() {
            // A failure is told by the next round.
            let _kept = clock.publish();
            self.tick(now);
        }
    }

    /// Notes whether UTC could be published.
    pub fn note_clock(&mut self, problem: Option<String>) {
        self.note_health("clock", problem);
    }
}

/// What an operator has to know when the maps are gone and the store does not have what they counted.
pub(super) fn lost_counts(why: &impl std::fmt::Display) -> String {
    format!("today's counts since they were last written are lost: {why}")
}

/// The interfaces that `config` means here, all of which must exist.
///
/// # Errors
/// One that is named does not exist.
pub fn resolve_or_refuse(config: &Config) -> Result<Resolution, ApiError> {
    let present = netdev::interfaces()
        .map_err(|error| ApiError::failed(format!("cannot list network interfaces: {error}")))?;
    let resolution = config::resolve(&config.attach, &present);
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

/// What differs, for people; interfaces are told when they are attached.
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
        changes.push("policies changed".to_owned());
    }
    if old.accounting != new.accounting {
        changes.push("accounting changed".to_owned());
    }
    if old.healing != new.healing {
        changes.push("times of healing changed".to_owned());
    }
    if old.history != new.history {
        changes.push(format!("usage is now kept for {}", new.history.keep));
    }
    for (name, tier) in new.tiers.iter() {
        match old.tiers.get(name.as_str()) {
            None => changes.push(format!("tier {name} is new")),
            Some(before) if before != tier => changes.push(format!("tier {name} changed")),
            Some(_) => {}
        }
    }
    for name in old
        .tiers
        .names()
        .filter(|name| new.tiers.get(name.as_str()).is_none())
    {
        changes.push(format!("tier {name} is gone"));
    }
    changes
}
