// SPDX-License-Identifier: MIT OR Apache-2.0

//! Read access to the engine for the control interface and the metrics page.

use chrono::{DateTime, Utc};

use super::{
    counts::figures::{Figures, ScopeFigures, Survey},
    fleet::figures::FleetFigures,
    scopes::{
        audit::view_entry,
        explain::Explainer,
        status::{Counters, attached_view},
        top::top,
        view::view_scope,
    },
    state::Engine,
};
use crate::{
    domain::scope::ScopeName,
    kernel::{KernelError, boot_ns},
    protocol::{
        error::ApiError,
        insight::{ExplainView, TopQuery, TopView},
        views::{AuditView, FlowsView, Health, ScopeDetail, ScopeView, StatusView, TierView},
    },
    store::AuditFilter,
};

impl Engine {
    /// Returns the status, which includes the attachments, sums and problems.
    ///
    /// # Errors
    /// Returns an error if the kernel or the store reports one.
    pub fn status(&self) -> Result<StatusView, ApiError> {
        let counters = Counters(self.plane.counters()?);
        let config = self.setup.config();
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            attached: attached_view(self.plane.as_ref()),
            missing: self.plane.missing(),
            since: self.record.since(),
            started_at: self.started_at,
            guarded_ports: config.attach.ports.clone(),
            mode: config.policy.mode.as_str().to_owned(),
            scopes: self.registered(),
            unknown_scopes: self.unknown.count() as u64,
            keys: self.store.key_count()?,
            totals: counters.totals(),
            coverage: counters.coverage(),
            flows: self.flows_view(),
            healed: self.corrections.view(),
            health: self.health(),
        })
    }

    /// Returns the parts of the daemon that do not work.
    pub(crate) fn health(&self) -> Vec<Health> {
        self.health.view()
    }

    /// Returns the number of scopes that operators have created.
    fn registered(&self) -> u64 {
        (self.scopes.len() - self.unknown.count()) as u64
    }

    pub(crate) fn flow_capacity(&self) -> u64 {
        u64::from(self.setup.config().tables.flows)
    }

    fn flows_view(&self) -> FlowsView {
        self.flows.view(self.flow_capacity())
    }

    /// Returns the busiest scopes in the order that `query` specifies.
    pub fn top(&self, query: &TopQuery, now: DateTime<Utc>) -> TopView {
        let leases = self.fleet.as_ref().map(|member| &member.leases);
        top(&self.scopes, self.plane.as_ref(), leases, query, now)
    }

    /// Explains whether a request would pass. `object` is the name of the request's scope or the id
    /// of its key.
    ///
    /// # Errors
    /// Returns an error if no such scope or key exists or has ever existed, or if the store or the
    /// kernel reports an error.
    pub fn explain(&self, object: &str) -> Result<ExplainView, ApiError> {
        let explainer = Explainer {
            plane: self.plane.as_ref(),
            store: &self.store,
            setup: &self.setup,
            scopes: &self.scopes,
            clock: self.clock.words(),
            boot_ns: boot_ns(),
        };
        explainer.explain(object)
    }

    /// Returns the part of the audit trail that `filter` selects, with the oldest entry first.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn audit_trail(&self, filter: &AuditFilter) -> Result<Vec<AuditView>, ApiError> {
        let entries = self.store.audit_trail(filter)?;
        Ok(entries.into_iter().map(view_entry).collect())
    }

    /// Returns all scopes.
    pub fn list_scopes(&self) -> Vec<ScopeView> {
        self.scopes.iter().map(view_scope).collect()
    }

    pub(crate) fn scope_view(&self, name: &ScopeName) -> Result<ScopeView, ApiError> {
        self.scopes.find(name).map(view_scope)
    }

    /// Returns one scope with its keys.
    ///
    /// # Errors
    /// Returns an error if there is no such scope.
    pub fn show_scope(&self, name: &ScopeName) -> Result<ScopeDetail, ApiError> {
        Ok(ScopeDetail {
            scope: self.scope_view(name)?,
            keys: self.list_keys(Some(name))?,
        })
    }

    /// Returns all tiers, each with the number of its scopes.
    pub fn list_tiers(&self) -> Vec<TierView> {
        let tiers = self.setup.config().tiers.iter();
        tiers
            .map(|(name, tier)| {
                let is_of_tier = |tier: &str| tier == name.as_str();
                let scopes = self.scopes.iter();
                TierView {
                    tier: name.to_string(),
                    limits: tier.limits,
                    mode: self.setup.mode_of(tier).as_str().to_owned(),
                    scopes: scopes
                        .filter(|scope| is_of_tier(&scope.record.tier))
                        .count() as u64,
                }
            })
            .collect()
    }

    pub(crate) fn begin_survey(&self, now: DateTime<Utc>) -> Survey {
        Survey::begin(&self.setup, &self.departed, now)
    }

    /// Reads the next scopes of a survey, and returns whether the last scope has been read.
    pub(crate) fn survey(&self, survey: &mut Survey, at_once: usize) -> bool {
        survey.read_some(&self.scopes, self.plane.as_ref(), at_once)
    }

    /// Returns the numbers on the metrics page. `survey` must have read all scopes. If a scope has
    /// left its tier since the beginning of the survey, all scopes are read again.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub(crate) fn figures(&self, mut survey: Survey) -> Result<Figures, KernelError> {
        let now = survey.now();
        if survey.is_outdated(&self.departed) {
            survey = self.begin_survey(now);
            self.survey(&mut survey, usize::MAX);
        }
        let ScopeFigures {
            tiers,
            nearest_quota,
            most_used,
            most_refused,
        } = survey.finish();
        Ok(Figures {
            tiers,
            nearest_quota,
            most_used,
            most_refused,
            counters: self.plane.counters()?,
            flows: self.flows_view(),
            tables: self.setup.config().tables,
            scopes: self.registered(),
            keys: self.store.key_count().ok(),
            unknown_keys: self.unknown.count() as u64,
            healed: self.corrections.view(),
            parts: self.health.all().collect(),
            writes: self.store.writes(),
            attached: attached_view(self.plane.as_ref()),
            missing: self.plane.missing(),
            mechanism: self.plane.mechanism(),
            programs: self.plane.program_times()?,
            started_at: self.started_at,
            since: self.record.since(),
            fleet: FleetFigures::default(),
            now,
        })
    }

    /// Makes the kernel measure the run times of the programs, if the kernel supports this.
    pub fn measure_programs(&mut self) {
        let failed = self.plane.measure_programs().err();
        self.note_health("program_time", failed.map(|error| error.to_string()));
    }
}
