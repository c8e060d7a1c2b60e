//! `limiter check`: is the configuration valid, and what does it come to.

use serde_json::{Value, json};

use super::{args::CheckArgs, exit::Failure, render};
use crate::{
    api::TierView,
    config::{
        Config, Healing, Http2, Malformed, MissingKey, OnLimit, TableFull, UnknownKey, Untracked,
    },
    daemon::resolve_or_refuse,
};

pub(super) fn check(args: &CheckArgs, as_json: bool) -> Result<(), Failure> {
    let config = Config::load(&args.config.overlay())?;
    let interfaces = resolve_or_refuse(&config)?;
    let mut warnings: Vec<String> = interfaces
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    warnings.extend(likely_mistakes(&config));
    let names: Vec<&str> = interfaces
        .interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    let sources: Vec<String> = config.sources.iter().map(ToString::to_string).collect();
    let tiers: Vec<TierView> = config
        .tiers
        .iter()
        .map(|(name, tier)| TierView {
            tier: name.to_string(),
            limits: tier.limits,
            mode: tier.mode.unwrap_or(config.policy.mode).as_str().to_owned(),
            scopes: 0,
        })
        .collect();
    let policy = policy(&config);
    if as_json {
        let tiers: Vec<Value> = tiers
            .iter()
            .map(|tier| json!({"tier": tier.tier, "limits": tier.limits, "mode": tier.mode}))
            .collect();
        return render::json(&json!({
            "valid": true,
            "file": config.file,
            "interfaces": names,
            "guarded_ports": config.attach.ports,
            "sources": sources,
            "policy": policy,
            "tiers": tiers,
            "healing": healing(&config),
            "accounting": {
                "ahead": config.accounting.ahead,
                "unattended": config.accounting.unattended.as_str(),
            },
            "control": {
                "group": config.control.group,
                "admin_group": config.control.admin_group,
            },
            "history": {"keep": config.history.keep.to_string()},
            "metrics": {
                "listen": config.metrics.listen,
                "top_scopes": config.metrics.top_scopes,
                "program_time": config.metrics.program_time,
            },
            "warnings": warnings,
        }));
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
    if let Value::Object(entries) = &policy {
        for (name, value) in entries {
            lines.push(format!("{name:<12} {}", value.as_str().unwrap_or_default()));
        }
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
    render::tiers(&tiers, false)?;
    for warning in warnings {
        eprintln!("limiter: warning: {warning}");
    }
    Ok(())
}

fn policy(config: &Config) -> Value {
    let policy = &config.policy;
    json!({
        "mode": policy.mode.as_str(),
        "missing_key": match policy.missing_key {
            MissingKey::Pass => "pass",
            MissingKey::Reject => "reject",
        },
        "unknown_key": match &policy.unknown_key {
            UnknownKey::Pass => "pass".to_owned(),
            UnknownKey::Reject => "reject".to_owned(),
            UnknownKey::Tier(tier) => format!("tier:{tier}"),
        },
        "malformed": match policy.malformed {
            Malformed::Reject => "reject",
            Malformed::Pass => "pass",
        },
        "on_limit": match policy.on_limit {
            OnLimit::Close => "close",
            OnLimit::Reset => "reset",
            OnLimit::Drop => "drop",
        },
        "untracked": match policy.untracked {
            Untracked::Pass => "pass",
            Untracked::Reject => "reject",
        },
        "table_full": match policy.table_full {
            TableFull::Reject => "reject",
            TableFull::Pass => "pass",
        },
        "http2": match policy.http2 {
            Http2::Pass => "pass",
            Http2::Reset => "reset",
        },
    })
}

fn healing(config: &Config) -> Value {
    let Healing {
        check_interval,
        suspect_after,
        recount_interval,
    } = config.healing;
    json!({
        "check_interval": check_interval.to_string(),
        "suspect_after": suspect_after.to_string(),
        "recount_interval": recount_interval.to_string(),
    })
}

/// What is valid and probably not meant.
fn likely_mistakes(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.attach.ports.contains(&443) {
        let text = "port 443 usually carries TLS, in which no key can be read: guard the port behind the TLS terminator";
        warnings.push(text.to_owned());
    }
    for (name, tier) in config.tiers.iter() {
        // A burst beyond the quota can never be used up.
        if tier
            .limits
            .daily_quota
            .is_some_and(|quota| quota < u64::from(tier.limits.burst))
        {
            warnings.push(format!(
                "the burst of the tier {name} is larger than its daily quota"
            ));
        }
    }
    warnings
}
