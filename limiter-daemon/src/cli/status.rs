// SPDX-License-Identifier: MIT OR Apache-2.0

//! The output of `limiter status`.

use std::collections::BTreeSet;

use super::{
    exit::Failure,
    render::{json, lines, refusals},
    table::Table,
    terminal::{BAD, GOOD, paint},
};
use crate::{
    domain::plain::counted,
    protocol::views::{FlowsView, HealedView, Health, StatusView, Totals, rfc3339},
};

/// One kind of traffic to guarded ports. `count` is the counter of its connections or segments, and
/// `bytes` is the counter of its bytes.
struct Line {
    what: &'static str,
    count: Option<&'static str>,
    bytes: Option<&'static str>,
}

const fn line(
    what: &'static str,
    count: Option<&'static str>,
    bytes: Option<&'static str>,
) -> Line {
    Line { what, count, bytes }
}

/// The kinds of traffic that limiter lets through, with counts of connections. The first line is
/// the normal case. The other lines are subsets of the first line or exceptions to it.
const PASSED: [Line; 8] = [
    line(
        "inspected as HTTP/1.x",
        Some("flows_opened"),
        Some("inspected_bytes"),
    ),
    line("  retransmitted", None, Some("retransmitted_bytes")),
    line(
        "untracked: older than the limiter",
        Some("untracked_connections"),
        Some("untracked_bytes"),
    ),
    line(
        "outbound: opened from a guarded port",
        Some("outbound_connections"),
        Some("outbound_bytes"),
    ),
    line(
        "table_full: no room in the table",
        Some("table_full"),
        Some("table_full_bytes"),
    ),
    line(
        "malformed: not parsed any further",
        Some("malformed_connections"),
        Some("malformed_bytes"),
    ),
    line("http2: HTTP/2 in clear text", Some("http2"), None),
    line(
        "tunnels: Upgrade, CONNECT and HTTP/2",
        Some("tunnels"),
        Some("tunnel_bytes"),
    ),
];

/// The kinds of traffic that limiter drops, with counts of segments.
const DROPPED: [Line; 18] = [
    line(
        "refused, or sent after a refusal",
        None,
        Some("refused_bytes"),
    ),
    line("dropped", None, Some("dropped_bytes")),
    line("  out of order", Some("out_of_order_dropped"), None),
    line(
        "  different content than before",
        Some("conflict_dropped"),
        None,
    ),
    line("  a part of an earlier segment", Some("part_dropped"), None),
    line(
        "  too much unacknowledged",
        Some("unacknowledged_dropped"),
        None,
    ),
    line("  bad checksum", Some("bad_checksum_dropped"), None),
    line("  old timestamp", Some("stale_dropped"), None),
    line("  out of window", Some("out_of_window_dropped"), None),
    line("  invalid for any server", Some("invalid_dropped"), None),
    line("  data in a SYN", Some("syn_data_dropped"), None),
    line("  IP fragments", Some("fragment_dropped"), None),
    line("  unreadable headers", Some("unreadable_dropped"), None),
    line("  after the end", Some("after_end_dropped"), None),
    line("  deferred handshakes", Some("handshakes_deferred"), None),
    line(
        "  over a limit (on_limit = drop)",
        Some("limit_dropped"),
        None,
    ),
    line(
        "  refusals that have to wait",
        Some("not_quiet_dropped"),
        None,
    ),
    line(
        "  flow locked by another CPU or a growing table",
        Some("contended_dropped"),
        None,
    ),
];

pub(super) fn status(view: &StatusView, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(view);
    }
    lines(&text(view))
}

fn text(view: &StatusView) -> Vec<String> {
    let healed = healed(&view.healed).map(|line| vec![line]);
    let parts = [
        Some(daemon(view)),
        Some(attachments(view)),
        Some(totals(&view.totals)),
        Some(coverage(view)),
        healed,
        Some(health(&view.health)),
    ];
    let parts: Vec<Vec<String>> = parts.into_iter().flatten().collect();
    // Empty lines separate the parts.
    parts.join(&String::new())
}

fn daemon(view: &StatusView) -> Vec<String> {
    let ports: Vec<String> = view.guarded_ports.iter().map(ToString::to_string).collect();
    let FlowsView {
        open,
        half_open,
        unconfirmed,
        untracked,
        capacity,
    } = view.flows;
    vec![
        format!("limiter {} (pid {}), {}", view.version, view.pid, view.mode),
        format!("in force since  {}", rfc3339(&view.since)),
        format!("daemon since    {}", rfc3339(&view.started_at)),
        format!("guarded ports   {}", ports.join(", ")),
        format!(
            "scopes, keys    {}, {}{}",
            view.scopes,
            view.keys,
            unknown_scopes(view.unknown_scopes)
        ),
        format!(
            "connections     {open} ({half_open} half open, {unconfirmed} unconfirmed) of {capacity}"
        ),
        format!("untracked       {untracked}"),
    ]
}

/// Returns lines about the attached programs, and about the hooks at which a program is missing.
fn attachments(view: &StatusView) -> Vec<String> {
    let mut text = if view.attached.is_empty() {
        vec![paint(
            BAD,
            "not attached to any interface: `limiter check` shows the interfaces of [attach]",
        )]
    } else {
        let mut table = Table::new(&["INTERFACE", "HOOK", "MECHANISM", "BEHIND"]);
        for attached in &view.attached {
            let before: Vec<String> = attached.before.iter().map(ToString::to_string).collect();
            table.row([
                attached.interface.clone(),
                attached.hook.as_str().to_owned(),
                attached.mechanism.as_str().to_owned(),
                before.join(", "),
            ]);
        }
        table.lines()
    };
    text.extend(view.missing.iter().map(|missing| {
        let (interface, hook) = (&missing.interface, missing.hook.as_str());
        paint(BAD, &format!("not attached to {interface} ({hook})"))
    }));
    text
}

fn totals(totals: &Totals) -> Vec<String> {
    vec![
        format!("admitted        {}", totals.admitted),
        format!("refused         {}", refusals(totals.refused)),
        format!("malformed       {}", totals.malformed),
        format!("missing key     {}", totals.missing_key),
        format!("unknown key     {}", totals.unknown_key),
    ]
}

fn health(problems: &[Health]) -> Vec<String> {
    if problems.is_empty() {
        return vec![paint(GOOD, "everything works")];
    }
    let label = paint(BAD, "PROBLEM");
    let lines = problems
        .iter()
        .map(|Health { part, message }| format!("{label}  {part}: {message}"));
    lines.collect()
}

/// Returns the tables of the traffic of guarded ports. The lines of `PASSED`, and the lines of
/// `DROPPED` with a count of bytes, are always shown. The other lines of `DROPPED`, and all other
/// counters, are shown only if they are not 0.
fn coverage(view: &StatusView) -> Vec<String> {
    let count = |name: &str| view.coverage.get(name).and_then(serde_json::Value::as_u64);
    let cell = |name: Option<&str>| {
        let number = name.and_then(count);
        number.map_or_else(String::new, |number| number.to_string())
    };
    let mut told = BTreeSet::new();
    let mut add = |table: &mut Table, line: &Line, always: bool| {
        let names = [line.count, line.bytes];
        told.extend(names.into_iter().flatten());
        if always
            || names
                .into_iter()
                .flatten()
                .any(|name| count(name) > Some(0))
        {
            table.row([line.what.to_owned(), cell(line.count), cell(line.bytes)]);
        }
    };
    let mut passed = Table::new(&["LET THROUGH", ">CONNECTIONS", ">BYTES"]);
    for line in &PASSED {
        add(&mut passed, line, true);
    }
    let mut dropped = Table::new(&["NOT LET THROUGH", ">SEGMENTS", ">BYTES"]);
    for line in &DROPPED {
        add(&mut dropped, line, line.bytes.is_some());
    }
    let mut text = passed.lines();
    text.push(String::new());
    text.extend(dropped.lines());
    let mut others = Table::new(&["OTHER COUNTERS", ">COUNT"]);
    let mut any = false;
    for (name, value) in &view.coverage {
        if !told.contains(name.as_str()) && value.as_u64() != Some(0) {
            any = true;
            others.row([name.replace('_', " "), value.to_string()]);
        }
    }
    if any {
        text.push(String::new());
        text.extend(others.lines());
    }
    text
}

fn healed(healed: &HealedView) -> Option<String> {
    let HealedView {
        slots,
        connections,
        orphaned_flows,
        orphaned_slots,
        ..
    } = healed;
    let mut parts = Vec::new();
    if slots + connections > 0 {
        parts.push(format!(
            "counts were wrong by {} in flight and {}, and were corrected",
            counted(slots, "request"),
            counted(connections, "connection")
        ));
    }
    if *orphaned_flows > 0 {
        parts.push(format!(
            "{} without a socket removed, with {} in flight",
            counted(orphaned_flows, "connection"),
            counted(orphaned_slots, "request")
        ));
    }
    (!parts.is_empty()).then(|| format!("healed: {}", parts.join("; ")))
}

/// Returns a note about the number of scopes of unknown keys, or an empty text if there are none.
fn unknown_scopes(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(" (and {} of unknown keys)", counted(count, "scope")),
    }
}

#[cfg(test)]
mod tests {
    use limiter_common::abi::counter;

    use super::*;

    #[test]
    fn each_line_has_counters_that_no_other_line_has() {
        let mut names = BTreeSet::new();
        for line in PASSED.iter().chain(&DROPPED) {
            for name in [line.count, line.bytes].into_iter().flatten() {
                assert!(counter::NAMES.contains(&name), "{name}");
                assert!(names.insert(name), "{name} twice");
            }
        }
        // Counters of dropped segments and of bytes must be in one of the two tables.
        for name in counter::NAMES {
            if name.ends_with("_dropped") || name.ends_with("_bytes") {
                assert!(names.contains(name), "{name} has no line");
            }
        }
    }

    #[test]
    fn traffic_without_inspection_has_a_line_even_if_there_was_none() {
        let view: StatusView = serde_json::from_value(serde_json::json!({
            "version": "1", "pid": 1, "attached": [], "since": "2026-11-24T00:00:00Z",
            "started_at": "2026-11-24T00:00:00Z", "guarded_ports": [80], "mode": "enforce",
            "scopes": 0, "keys": 0,
            "totals": {"admitted": 0, "refused": {"rate": 0, "concurrency": 0, "connections": 0,
                "daily_quota": 0}, "malformed": 0, "missing_key": 0, "unknown_key": 0},
            "coverage": {"flows_opened": 2, "inspected_bytes": 300, "untracked_connections": 0,
                "untracked_bytes": 0, "stale_dropped": 1, "trimmed": 4},
            "healed": {"checks": 1, "recounts": 1, "slots": 5, "connections": 0,
                "orphaned_flows": 0, "orphaned_slots": 0},
            "health": [],
        }))
        .unwrap();
        let text: Vec<String> = text(&view)
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for wanted in [
            "connections 0 (0 half open, 0 unconfirmed) of 0",
            "untracked 0",
            "inspected as HTTP/1.x 2 300",
            "untracked: older than the limiter 0 0",
            "old timestamp 1",
            "trimmed 4",
            "healed: counts were wrong by 5 requests in flight and 0 connections, and were corrected",
        ] {
            assert!(
                text.iter().any(|line| line == wanted),
                "no {wanted:?} in {text:#?}"
            );
        }
        let out_of_order = text.iter().any(|line| line.contains("out of order"));
        assert!(!out_of_order, "{text:#?}");
    }
}
