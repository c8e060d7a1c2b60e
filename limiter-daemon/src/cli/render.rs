// SPDX-License-Identifier: MIT OR Apache-2.0

//! The output of commands, as tables for people and as JSON for programs.

use std::io::{self, Write as _};

use anstyle::Style;
use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;

use super::{
    exit::Failure,
    table::Table,
    terminal::{BAD, GOOD, NOTABLE, paint, warn},
};
use crate::{
    domain::{bound::Bound, limits::Limits, plain::escaped_json, refusals::Refusals},
    protocol::{
        overrides::{OverrideView, Replaced},
        views::{
            AuditView, ChangedScope, Report, ScopeDetail, ScopeView, TierView, UsageView, rfc3339,
        },
    },
};

/// Prints lines, in colour if the terminal supports it. Does not fail if the reader has closed
/// standard output (`| head`).
pub(super) fn lines(lines: &[String]) -> Result<(), Failure> {
    let mut text = lines.join("\n");
    text.push('\n');
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written
            .context("cannot write to standard output")
            .map_err(Failure::from),
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    lines(&[escaped_json(&text)])
}

fn or_unlimited<T: ToString>(limit: Option<T>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn limit_cells(limits: &Limits) -> [String; 5] {
    [
        or_unlimited(limits.daily_quota),
        Bound::from(limits.rate).to_string(),
        limits.burst.to_string(),
        or_unlimited(limits.concurrency),
        or_unlimited(limits.connections),
    ]
}

/// Returns the style for the number of requests that are left.
fn left(text: &str) -> Style {
    if text == "0" { BAD } else { Style::new() }
}

/// Returns the style for a count that is usually 0.
fn some(text: &str) -> Style {
    if text == "0" { Style::new() } else { NOTABLE }
}

pub(super) fn state(text: &str) -> Style {
    match text {
        "active" => GOOD,
        "disabled" => NOTABLE,
        _ => BAD,
    }
}

fn mode(text: &str) -> Style {
    if text == "observe" {
        NOTABLE
    } else {
        Style::new()
    }
}

fn tier(view: &UsageView) -> String {
    let gone = || "removed".to_owned();
    view.tier.clone().unwrap_or_else(gone)
}

/// Returns the text of a limit. For a removed scope, `None` means that there is no limit to show.
/// For any other scope, it means unlimited.
fn limit<T: ToString>(view: &UsageView, limit: Option<T>) -> String {
    if view.removed {
        or_dash(limit)
    } else {
        or_unlimited(limit)
    }
}

pub(super) fn usage(views: &[UsageView], is_past: bool, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(&views);
    }
    if views.is_empty() {
        let text = if is_past {
            "no scope has usage on that day, or the day is no longer kept (`[history] keep`): `limiter usage` shows today"
        } else {
            "there are no scopes yet: `limiter scope add acme/web` adds one"
        };
        return lines(&[text.to_owned()]);
    }
    let mut table = Table::new(&[
        "~SCOPE",
        "?~TIER",
        "?DAY",
        ">USED",
        ">QUOTA",
        ">LEFT",
        "?>RATE",
        "?>IN FLIGHT",
        "?>CONNECTIONS",
        ">REFUSED",
        "?RESETS AT",
    ])
    .styled("LEFT", left)
    .styled("REFUSED", some);
    for view in views {
        table.row([
            view.scope.to_string(),
            tier(view),
            view.day.to_string(),
            view.used.to_string(),
            limit(view, view.daily_quota),
            limit(view, view.remaining),
            limit(view, view.rate),
            or_dash(view.in_flight),
            or_dash(view.connections),
            view.refused.total().to_string(),
            rfc3339(&view.resets_at),
        ]);
    }
    lines(&table.lines())
}

pub(super) fn usage_of(view: &UsageView, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(view);
    }
    let mut text = vec![
        format!("scope        {} ({})", view.scope, tier(view)),
        format!("day          {} (UTC)", view.day),
        format!(
            "used         {}{}{}",
            view.used,
            of_host(view.host_used),
            lost(view.lost)
        ),
        format!("daily quota  {}", limit(view, view.daily_quota)),
        format!("left         {}", limit(view, view.remaining)),
        format!("rate         {}", limit(view, view.rate)),
        format!("in flight    {}", or_dash(view.in_flight)),
        format!("connections  {}", or_dash(view.connections)),
        format!("refused      {}", refusals(view.refused)),
    ];
    if let Some(leased) = view.leased {
        text.insert(4, format!("leased       {leased}"));
    }
    if view.would_refuse.total() > 0 {
        text.push(format!("would refuse {}", refusals(view.would_refuse)));
    }
    text.push(format!("resets at    {}", rfc3339(&view.resets_at)));
    lines(&text)
}

/// Returns a note about this host's part of the count of a fleet.
fn of_host(used: Option<u64>) -> String {
    used.map_or_else(String::new, |used| format!(" ({used} on this host)"))
}

/// Returns a note about the part of the count that a crash made uncertain, or an empty text if
/// there is no such part.
fn lost(lost: u64) -> String {
    if lost == 0 {
        String::new()
    } else {
        format!(", of which {lost} were allowed before a crash and may not have been used")
    }
}

pub(super) fn refusals(refused: Refusals) -> String {
    let Refusals {
        rate,
        concurrency,
        connections,
        daily_quota,
    } = refused;
    format!(
        "{} (rate {rate}, concurrency {concurrency}, connections {connections}, daily quota {daily_quota})",
        refused.total()
    )
}

pub(super) fn scopes(views: &[ScopeView], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(&views);
    }
    if views.is_empty() {
        return lines(&[
            "there are no scopes yet: `limiter scope add acme/web` adds one".to_owned(),
        ]);
    }
    let mut table = Table::new(&[
        "~SCOPE",
        "~TIER",
        ">QUOTA",
        ">RATE",
        "?>BURST",
        "?>CONCURRENCY",
        "?>CONNECTIONS",
        "MODE",
        "?~OVERRIDE",
    ])
    .styled("MODE", mode);
    for view in views {
        let [quota, rate, burst, concurrency, connections] = limit_cells(&view.limits);
        let limits_override = view
            .limits_override
            .as_ref()
            .map(|limits_override| limits_override.note.clone());
        table.row([
            view.scope.to_string(),
            view.tier.clone(),
            quota,
            rate,
            burst,
            concurrency,
            connections,
            view.mode.clone(),
            or_dash(limits_override),
        ]);
    }
    lines(&table.lines())
}

fn scope_lines(view: &ScopeView) -> Vec<String> {
    let [quota, rate, burst, concurrency, connections] = limit_cells(&view.limits);
    let mut text = vec![
        format!("scope        {}", view.scope),
        format!("tier         {}", view.tier),
        format!("daily quota  {quota}"),
        format!("rate         {rate}"),
        format!("burst        {burst}"),
        format!("concurrency  {concurrency}"),
        format!("connections  {connections}"),
        match &view.own_mode {
            Some(own) => format!("mode         {own} (its own)"),
            None => format!("mode         {}", view.mode),
        },
    ];
    text.extend(view.limits_override.iter().flat_map(override_lines));
    text
}

/// Returns a line for each limit of a scope's own, with its end and its note.
pub(super) fn override_lines(view: &OverrideView) -> Vec<String> {
    let lines = view
        .terms
        .iter()
        .enumerate()
        .map(|(number, (limit, terms))| {
            let title = if number == 0 { "override" } else { "" };
            let until = terms.until.as_ref().map(rfc3339);
            let until = until.map(|until| format!(", until {until}"));
            let until = until.unwrap_or_default();
            format!("{title:<12} {limit}{until}: {}", terms.note)
        });
    lines.collect()
}

/// Prints a scope after a change. Without `as_json`, the replaced values and the warnings go to
/// standard error, where the operator notices them.
pub(super) fn changed_scope(view: &ChangedScope, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(view);
    }
    for Replaced { what, from, to } in &view.changed {
        let (from, to) = (replaced(what, from), replaced(what, to));
        anstream::eprintln!(
            "limiter: {}: {what} was {from} and is now {to}",
            paint(NOTABLE, "changed")
        );
    }
    view.warnings.iter().for_each(|text| warn(text));
    lines(&scope_lines(&view.scope))
}

/// Returns the text of a value before or after a change.
fn replaced(what: &str, value: &Value) -> String {
    let part = what.split_once('.').map(|(_, part)| part);
    match (value, part) {
        (Value::Null, Some("until")) => "never".to_owned(),
        (Value::Null, _) => "unlimited".to_owned(),
        (Value::String(text), Some("note")) => format!("`{text}`"),
        (Value::String(text), _) => text.clone(),
        (other, _) => other.to_string(),
    }
}

pub(super) fn scope_detail(view: &ScopeDetail, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(view);
    }
    let mut text = scope_lines(&view.scope);
    text.push(String::new());
    lines(&text)?;
    super::keys::keys(&view.keys, Some(&view.scope.scope), false)
}

pub(super) fn tiers(views: &[TierView], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(&views);
    }
    let mut table = Table::new(&[
        "~TIER",
        ">QUOTA",
        ">RATE",
        "?>BURST",
        "?>CONCURRENCY",
        "?>CONNECTIONS",
        "MODE",
        "?>SCOPES",
    ])
    .styled("MODE", mode);
    for view in views {
        let [quota, rate, burst, concurrency, connections] = limit_cells(&view.limits);
        table.row([
            view.tier.clone(),
            quota,
            rate,
            burst,
            concurrency,
            connections,
            view.mode.clone(),
            view.scopes.to_string(),
        ]);
    }
    lines(&table.lines())
}

pub(super) fn audit(entries: &[AuditView], nothing: &str, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(&entries);
    }
    if entries.is_empty() {
        return lines(&[nothing.to_owned()]);
    }
    let mut table = Table::new(&["AT", "~WHO", "ACTION", "~OBJECT", "?~DETAIL", "~NOTE"]);
    for entry in entries {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        table.row([
            rfc3339(&entry.at),
            entry.who.clone(),
            entry.action.clone(),
            or_dash(some(&entry.object)),
            or_dash(some(&entry.detail)),
            or_dash(entry.note.as_ref()),
        ]);
    }
    lines(&table.lines())
}

pub(super) fn report(report: &Report, nothing: &str, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(report);
    }
    report.warnings.iter().for_each(|text| warn(text));
    if report.done.is_empty() {
        return lines(&[nothing.to_owned()]);
    }
    lines(&report.done)
}
