//! `limiter check`: is the configuration valid, and what does it come to.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    advice::{Host, likely_mistakes},
    args::CheckArgs,
    exit::Failure,
    render,
    terminal::warn,
};
use crate::{
    api::TierView,
    config::{
        Config, Handshake, Healing, Http2, Malformed, MissingKey, OnLimit, TableFull, UnknownKey,
        Untracked,
    },
    daemon::resolve_or_refuse,
    limits::Limits,
};

pub(super) fn check(args: &CheckArgs, as_json: bool) -> Result<(), Failure> {
    let config = Config::load(&args.config.overlay())?;
    let interfaces = resolve_or_refuse(&config)?;
    let mut warnings: Vec<String> = interfaces
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    let names: Vec<&str> = interfaces
        .interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    warnings.extend(likely_mistakes(&config, &names, &Host::look()));
    let sources: Vec<String> = config.sources.iter().map(ToString::to_string).collect();
    let policy = policy(&config);
    if as_json {
        return render::json(&CheckView {
            valid: true,
            file: config.file.clone(),
            interfaces: names.into_iter().map(str::to_owned).collect(),
            guarded_ports: config.attach.ports.clone(),
            sources,
            policy,
            tiers: tiers(&config).map(CheckedTier::from).collect(),
            healing: healing(&config),
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
            warnings,
        });
    }
    let file = config.file.as_ref().map_or_else(
        || "the command line alone".to_owned(),
        |file| file.display().to_string(),
    );
    let ports: Vec<String> = config
        .attach
        .ports
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut lines = vec![
        format!("{file} is valid"),
        format!(
            "interfaces   {}",
            if names.is_empty() {
                "none now".to_owned()
            } else {
                names.join(", ")
            }
        ),
        format!("ports        {}", ports.join(", ")),
        format!("keys from    {}", sources.join(", ")),
    ];
    for (name, value) in &policy {
        lines.push(format!("{name:<12} {value}"));
    }
    let Healing {
        check_interval,
        suspect_after,
        recount_interval,
    } = config.healing;
    lines.push(format!(
        "healing      check every {check_interval} what is silent for {suspect_after}, recount every {recount_interval}"
    ));
    lines.push(format!(
        "accounting   {} requests ahead of the store, then {}",
        config.accounting.ahead,
        config.accounting.unattended.as_str()
    ));
    lines.push(format!(
        "history      usage of the last {} days",
        config.history.keep.0
    ));
    lines.push(format!(
        "control      the group {} reads, {} changes",
        config.control.group, config.control.admin_group
    ));
    lines.push(match config.metrics.listen {
        Some(address) => format!("metrics      http://{address}/metrics"),
        None => "metrics      nowhere".to_owned(),
    });
    lines.push(String::new());
    render::lines(&lines)?;
    render::tiers(&tiers(&config).collect::<Vec<_>>(), false)?;
    warnings.iter().for_each(|text| warn(text));
    Ok(())
}

fn tiers(config: &Config) -> impl Iterator<Item = TierView> {
    config.tiers.iter().map(|(name, tier)| TierView {
        tier: name.to_string(),
        limits: tier.limits,
        mode: tier.mode.unwrap_or(config.policy.mode).as_str().to_owned(),
        scopes: 0,
    })
}

/// `check`: what the configuration comes to.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CheckView {
    /// It is: what is not valid is told on standard error, with exit status 2.
    valid: bool,
    /// Its file; `null` when the command line said all.
    file: Option<PathBuf>,
    /// Interfaces that are there now.
    interfaces: Vec<String>,
    /// Server ports whose traffic is limited.
    guarded_ports: Vec<u16>,
    /// Where requests carry their key, in order.
    sources: Vec<String>,
    /// What happens in each case, by name.
    policy: BTreeMap<&'static str, String>,
    /// All tiers, the built-in ones too.
    tiers: Vec<CheckedTier>,
    /// How often counts are checked.
    healing: HealingView,
    /// How far counts may run ahead of the store.
    accounting: AccountingView,
    /// Who may use the control socket.
    control: ControlView,
    /// How long past days are kept.
    history: HistoryView,
    /// The page for Prometheus.
    metrics: MetricsView,
    /// What is probably not meant.
    warnings: Vec<String>,
}

/// A tier.
#[derive(Debug, Serialize, JsonSchema)]
struct CheckedTier {
    /// Its name.
    tier: String,
    /// Its limits.
    limits: Limits,
    /// `enforce` or `observe`, as it comes to with `policy.mode`.
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

/// `[healing]`, with units.
#[derive(Debug, Serialize, JsonSchema)]
struct HealingView {
    check_interval: String,
    suspect_after: String,
    recount_interval: String,
}

/// `[accounting]`.
#[derive(Debug, Serialize, JsonSchema)]
struct AccountingView {
    /// Requests.
    ahead: u64,
    unattended: String,
}

/// `[control]`.
#[derive(Debug, Serialize, JsonSchema)]
struct ControlView {
    group: String,
    admin_group: String,
}

/// `[metrics]`.
#[derive(Debug, Serialize, JsonSchema)]
struct MetricsView {
    /// Where it is; `null`: nowhere.
    listen: Option<SocketAddr>,
    top_scopes: usize,
    program_time: bool,
}

/// `[history]`, with its unit.
#[derive(Debug, Serialize, JsonSchema)]
struct HistoryView {
    keep: String,
}

fn policy(config: &Config) -> BTreeMap<&'static str, String> {
    let policy = &config.policy;
    let unknown_key = match &policy.unknown_key {
        UnknownKey::Pass => "pass".to_owned(),
        UnknownKey::Reject => "reject".to_owned(),
        UnknownKey::Tier(tier) => format!("tier:{tier}"),
    };
    let words = [
        ("mode", policy.mode.as_str()),
        (
            "missing_key",
            match policy.missing_key {
                MissingKey::Pass => "pass",
                MissingKey::Reject => "reject",
            },
        ),
        (
            "malformed",
            match policy.malformed {
                Malformed::Reject => "reject",
                Malformed::Pass => "pass",
            },
        ),
        (
            "on_limit",
            match policy.on_limit {
                OnLimit::Close => "close",
                OnLimit::Reset => "reset",
                OnLimit::Drop => "drop",
            },
        ),
        (
            "untracked",
            match policy.untracked {
                Untracked::Pass => "pass",
                Untracked::Reject => "reject",
            },
        ),
        (
            "table_full",
            match policy.table_full {
                TableFull::Reject => "reject",
                TableFull::Pass => "pass",
            },
        ),
        (
            "http2",
            match policy.http2 {
                Http2::Pass => "pass",
                Http2::Reset => "reset",
            },
        ),
        (
            "handshake",
            match policy.handshake {
                Handshake::Pass => "pass",
                Handshake::Defer => "defer",
            },
        ),
    ];
    let mut policy: BTreeMap<_, _> = words.map(|(name, word)| (name, word.to_owned())).into();
    policy.insert("unknown_key", unknown_key);
    policy
}

fn healing(config: &Config) -> HealingView {
    let Healing {
        check_interval,
        suspect_after,
        recount_interval,
    } = config.healing;
    HealingView {
        check_interval: check_interval.to_string(),
        suspect_after: suspect_after.to_string(),
        recount_interval: recount_interval.to_string(),
    }
}
