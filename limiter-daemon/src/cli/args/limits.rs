// SPDX-License-Identifier: MIT OR Apache-2.0

//! The arguments of `limiter limits`.

use clap::{Args, Subcommand};

use super::note;
use crate::{
    cli::{examples, moment::Until},
    domain::{
        bound::{BURST, Bound, CONCURRENCY, CONNECTIONS, DAILY_QUOTA},
        limits::{Changes, LimitName},
        rate::Rate,
        scope::ScopeName,
    },
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum LimitsCommand {
    /// Override limits of a scope; limits that are not named stay as they are
    #[command(after_help = examples::LIMITS_SET)]
    Set(SetArgs),
    /// Remove a scope's own limits, so that those of its tier apply again; by default all of them
    #[command(after_help = examples::LIMITS_CLEAR)]
    Clear(ClearArgs),
    /// Show who would have been refused on past days with another daily quota or tier
    #[command(after_help = examples::LIMITS_TRY)]
    Try(TryArgs),
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).multiple(true)
    .args(["daily_quota", "rate", "burst", "concurrency", "connections"])))]
pub(in crate::cli) struct SetArgs {
    /// The scope
    #[arg(value_name = "SCOPE")]
    pub(in crate::cli) scope: ScopeName,
    /// The maximum number of requests in a UTC day
    #[arg(long, value_name = "N|unlimited",
        value_parser = |text: &str| DAILY_QUOTA.parse(text))]
    daily_quota: Option<Bound<u64>>,
    /// The maximum number of requests in a window, like 1/ms, 100/s, 30/min
    #[arg(long, value_name = "R|unlimited")]
    rate: Option<Bound<Rate>>,
    /// The maximum number of requests that may arrive at once after a pause
    #[arg(long, value_name = "N",
        value_parser = |text: &str| BURST.parse_number(text))]
    burst: Option<u64>,
    /// The maximum number of requests in flight
    #[arg(long, value_name = "N|unlimited",
        value_parser = |text: &str| CONCURRENCY.parse(text))]
    concurrency: Option<Bound<u64>>,
    /// The maximum number of open connections
    #[arg(long, value_name = "N|unlimited",
        value_parser = |text: &str| CONNECTIONS.parse(text))]
    connections: Option<Bound<u64>>,
    /// The end of these limits: 2026-12-31, 2026-12-31T18:00:00Z, after 90m, 36h or 7d, or never
    ///
    /// Each limit has an end of its own. Without --until, a limit keeps the end that it has.
    #[arg(long, value_name = "T|never")]
    pub(in crate::cli) until: Option<Until>,
    /// The reason, for the audit trail
    #[arg(long, value_name = "TEXT", value_parser = note)]
    pub(in crate::cli) note: String,
}

impl SetArgs {
    pub(in crate::cli) fn changes(&self) -> Changes {
        Changes {
            daily_quota: self.daily_quota,
            rate: self.rate,
            burst: self.burst,
            concurrency: self.concurrency,
            connections: self.connections,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ClearArgs {
    /// The scope
    #[arg(value_name = "SCOPE")]
    pub(in crate::cli) scope: ScopeName,
    /// The daily quota
    #[arg(long)]
    daily_quota: bool,
    /// The rate
    #[arg(long)]
    rate: bool,
    /// The burst
    #[arg(long)]
    burst: bool,
    /// The number of requests in flight
    #[arg(long)]
    concurrency: bool,
    /// The number of open connections
    #[arg(long)]
    connections: bool,
    /// The reason, for the audit trail
    #[arg(long, value_name = "TEXT", value_parser = note)]
    pub(in crate::cli) note: String,
}

impl ClearArgs {
    /// Returns the limits that are named.
    pub(in crate::cli) fn limits(&self) -> Vec<LimitName> {
        let named = [
            (self.daily_quota, LimitName::DailyQuota),
            (self.rate, LimitName::Rate),
            (self.burst, LimitName::Burst),
            (self.concurrency, LimitName::Concurrency),
            (self.connections, LimitName::Connections),
        ];
        let named = named.into_iter().filter(|(is_named, _)| *is_named);
        named.map(|(_, limit)| limit).collect()
    }
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("scopes").required(true).multiple(true)
    .args(["scope", "tier"])))]
pub(in crate::cli) struct TryArgs {
    /// One scope; without it, all scopes of the tier that have no daily quota of their own
    #[arg(value_name = "SCOPE")]
    pub(in crate::cli) scope: Option<ScopeName>,
    /// The tier; without --daily-quota, its daily quota is tried
    #[arg(long, value_name = "TIER")]
    pub(in crate::cli) tier: Option<String>,
    /// The daily quota to try
    #[arg(long, value_name = "N|unlimited", required_unless_present = "tier",
        value_parser = |text: &str| DAILY_QUOTA.parse(text))]
    pub(in crate::cli) daily_quota: Option<Bound<u64>>,
    /// The number of days before today [default: 7]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) days: Option<u32>,
}
