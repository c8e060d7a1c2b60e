// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter check`: checks the configuration, and shows the settings that result from it.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    advice::{Host, likely_mistakes},
    args::CheckArgs,
    exit::Failure,
    fleet, render,
    terminal::warn,
};
use crate::{
    config::{Config, Healing, engine_lost_as_str},
    domain::{limits::Limits, plain::counted},
    engine::publish::reload::resolve_or_refuse,
    protocol::views::TierView,
};

pub(super) fn check(args: &CheckArgs, as_json: bool) -> Result<(), Failure> {
    let config = Config::load(&args.config.overlay())?;
    let found = resolve_or_refuse(&config)?;
    let names: Vec<&str> = found
        .interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    let mut warnings: Vec<String> = found.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(likely_mistakes(&config, &names, &Host::inspect(&names)));
    if let Some(fleet) = &config.fleet {
        warnings.extend(fleet::engine_problems(fleet));
    }
    if as_json {
        return render::json(&CheckView::new(&config, &names, warnings));
    }
    render::lines(&text(&config, &names))?;
    render::tiers(&tiers(&config).collect::<Vec<_>>(), false)?;
    warnings.iter().for_each(|text| warn(text));
    Ok(())
}

/// Returns the settings as lines of text. The last line is empty, because the table of tiers
/// follows.
fn text(config: &Config, interfaces: &[&str]) -> Vec<String> {
    let file = match &config.file {
        Some(file) => format!("{} is valid", file.display()),
        None => "the command line is valid".to_owned(),
    };
    let interfaces = match interfaces {
        [] => "none at present".to_owned(),
        names => names.join(", "),
    };
    let mut lines = vec![
        file,
        format!("interfaces   {interfaces}"),
        format!("ports        {}", joined(&config.attach.ports)),
        format!("key sources  {}", joined(&config.sources)),
    ];
    // The policies are in alphabetical order, as in JSON.
    let policy: BTreeMap<_, _> = config.policy.entries().into_iter().collect();
    lines.extend(
        policy
            .iter()
            .map(|(name, value)| format!("{name:<12} {value}")),
    );
    let Healing {
        check_interval,
        suspect_after,
        recount_interval,
    } = config.healing;
    let metrics = config.metrics.listen.map_or_else(
        || "off".to_owned(),
        |address| format!("http://{address}/metrics"),
    );
    lines.extend([
        format!(
            "healing      check connections silent for {suspect_after} every {check_interval}, recount every {recount_interval}"
        ),
        format!(
            "accounting   up to {} ahead of the store, then {}",
            counted(config.accounting.ahead, "request"),
            config.accounting.unattended.as_str()
        ),
        format!(
            "history      usage of the last {}",
            counted(config.history.keep.0, "day")
        ),
        format!(
            "control      the group {} may read, {} may make changes",
            config.control.group, config.control.admin_group
        ),
        format!("metrics      {metrics}"),
        format!("fleet        {}", fleet_text(config)),
        String::new(),
    ]);
    lines
}

fn fleet_text(config: &Config) -> String {
    let Some(fleet) = &config.fleet else {
        return "none: this host grants the whole quotas by itself".to_owned();
    };
    format!(
        "{} engine at {}, leases for {}, if it is lost: {}",
        fleet.kind_as_str(),
        joined(&fleet.engine),
        fleet.lease,
        engine_lost_as_str(fleet.engine_lost)
    )
}

fn joined(values: &[impl ToString]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    values.join(", ")
}

fn tiers(config: &Config) -> impl Iterator<Item = TierView> {
    config.tiers.iter().map(|(name, tier)| TierView {
        tier: name.to_string(),
        limits: tier.limits,
        mode: tier.mode.unwrap_or(config.policy.mode).as_str().to_owned(),
        scopes: 0,
    })
}

/// `check`: the settings that result from the configuration.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CheckView {
    /// Always true. The errors of an invalid configuration go to standard error, with exit status
    /// 2.
    valid: bool,
    /// The configuration file; `null` if all settings come from the command line.
    file: Option<PathBuf>,
    /// The interfaces that exist now.
    interfaces: Vec<String>,
    /// The server ports whose traffic is limited.
    guarded_ports: Vec<u16>,
    /// The places where requests carry their key, in the order in which they are tried.
    sources: Vec<String>,
    /// The policies, by name.
    policy: BTreeMap<&'static str, String>,
    /// All tiers, including the built-in ones.
    tiers: Vec<CheckedTier>,
    /// The intervals at which counts are checked and corrected.
    healing: HealingView,
    /// The number of requests by which counts may run ahead of the store.
    accounting: AccountingView,
    /// The groups that may use the control socket.
    control: ControlView,
    /// The period for which the usage of past days is kept.
    history: HistoryView,
    /// The page of metrics.
    metrics: MetricsView,
    /// The fleet of the host; `null` if the configuration names none.
    fleet: Option<FleetSettingsView>,
    /// Settings that are probably mistakes, and problems of the fleet's engine.
    warnings: Vec<String>,
}

impl CheckView {
    fn new(config: &Config, interfaces: &[&str], warnings: Vec<String>) -> Self {
        Self {
            valid: true,
            file: config.file.clone(),
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            guarded_ports: config.attach.ports.clone(),
            sources: config.sources.iter().map(ToString::to_string).collect(),
            policy: config.policy.entries().into_iter().collect(),
            tiers: tiers(config).map(CheckedTier::from).collect(),
            healing: HealingView {
                check_interval: config.healing.check_interval.to_string(),
                suspect_after: config.healing.suspect_after.to_string(),
                recount_interval: config.healing.recount_interval.to_string(),
            },
            accounting: AccountingView {
                ahead: config.accounting.ahead.into(),
                unattended: config.accounting.unattended.as_str().to_owned(),
            },
            control: ControlView {
                group: config.control.group.clone(),
                admin_group: config.control.admin_group.clone(),
            },
            history: HistoryView {
                keep: config.history.keep.to_string(),
            },
            metrics: MetricsView {
                listen: config.metrics.listen,
                top_scopes: config.metrics.top_scopes,
                program_time: config.metrics.program_time,
            },
            fleet: config.fleet.as_ref().map(|fleet| FleetSettingsView {
                kind: fleet.kind_as_str().to_owned(),
                engine: fleet.engine.iter().map(ToString::to_string).collect(),
                host: fleet.host.clone(),
                engine_lost: engine_lost_as_str(fleet.engine_lost).to_owned(),
                confirm: fleet.confirm,
                lease: fleet.lease.to_string(),
            }),
            warnings,
        }
    }
}

/// The section `[fleet]`. The duration includes its unit.
#[derive(Debug, Serialize, JsonSchema)]
struct FleetSettingsView {
    /// `single`, `sentinel` or `cluster`.
    kind: String,
    /// The addresses of the engine's servers, or of the Sentinels.
    engine: Vec<String>,
    /// The name of this host in the fleet; `null` for the name of the system.
    host: Option<String>,
    engine_lost: String,
    /// The number of replicas that have to confirm a grant; `null` for the default of the kind.
    confirm: Option<u32>,
    /// The time for which a lease should last.
    lease: String,
}

/// A tier.
#[derive(Debug, Serialize, JsonSchema)]
struct CheckedTier {
    /// The name of the tier.
    tier: String,
    /// The limits of the tier.
    limits: Limits,
    /// The mode in force, `enforce` or `observe`. It is the tier's own mode, or else `policy.mode`.
    mode: String,
}

impl From<TierView> for CheckedTier {
    fn from(view: TierView) -> Self {
        Self {
            tier: view.tier,
            limits: view.limits,
            mode: view.mode,
        }
    }
}

/// The section `[healing]`. Each duration includes its unit.
#[derive(Debug, Serialize, JsonSchema)]
struct HealingView {
    check_interval: String,
    suspect_after: String,
    recount_interval: String,
}

/// The section `[accounting]`.
#[derive(Debug, Serialize, JsonSchema)]
struct AccountingView {
    /// The number of requests by which counts may be ahead of the store.
    ahead: u64,
    unattended: String,
}

/// The section `[control]`.
#[derive(Debug, Serialize, JsonSchema)]
struct ControlView {
    group: String,
    admin_group: String,
}

/// The section `[metrics]`.
#[derive(Debug, Serialize, JsonSchema)]
struct MetricsView {
    /// The address of the page; `null` if the page is not served.
    listen: Option<SocketAddr>,
    top_scopes: usize,
    program_time: bool,
}

/// The section `[history]`. The period includes its unit.
#[derive(Debug, Serialize, JsonSchema)]
struct HistoryView {
    keep: String,
}
