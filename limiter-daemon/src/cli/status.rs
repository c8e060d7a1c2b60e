//! What `limiter status` prints for people.

use std::collections::BTreeSet;

use super::{
    exit::Failure,
    render::{json, lines, refusals},
    table::Table,
    terminal::{BAD, GOOD, paint},
};
use crate::api::{FlowsView, HealedView, StatusView, rfc3339};

/// What became of traffic to guarded ports: a line says what, and which counters tell of how many
/// connections (or segments) and bytes.
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

/// By connections; the first is the rule, the others are its exceptions.
const PASSED: [Line; 7] = [
    line(
        "inspected as HTTP/1.x",
        Some("flows_opened"),
        Some("inspected_bytes"),
    ),
    line("  sent again", None, Some("retransmitted_bytes")),
    line(
        "untracked: older than the program",
        Some("untracked_connections"),
        Some("untracked_bytes"),
    ),
    line(
        "table_full: no room to follow",
        Some("table_full"),
        Some("table_full_bytes"),
    ),
    line(
        "malformed: stopped to parse",
        Some("malformed_connections"),
        Some("malformed_bytes"),
    ),
    line("http2: HTTP/2 in clear text", Some("http2"), None),
    line(
        "tunnels: Upgrade, CONNECT; http2's bytes",
        Some("tunnels"),
        Some("tunnel_bytes"),
    ),
];

/// By segments.
const DROPPED: [Line; 16] = [
    line("refused, and what followed", None, Some("refused_bytes")),
    line("dropped", None, Some("dropped_bytes")),
    line("  out of order", Some("out_of_order_dropped"), None),
    line(
        "  other content than before",
        Some("conflict_dropped"),
        None,
    ),
    line("  bad checksum", Some("bad_checksum_dropped"), None),
    line("  old timestamp", Some("stale_dropped"), None),
    line("  out of window", Some("out_of_window_dropped"), None),
    line("  that no server takes", Some("invalid_dropped"), None),
    line("  data in a SYN", Some("syn_data_dropped"), None),
    line("  IP fragments", Some("fragment_dropped"), None),
    line("  unreadable headers", Some("unreadable_dropped"), None),
    line("  after the end", Some("after_end_dropped"), None),
    line(
        "  handshakes put off (handshake = defer)",
        Some("handshakes_deferred"),
        None,
    ),
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
        "  while another CPU held the flow, or tables grew",
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
    let ports: Vec<String> = view.guarded_ports.iter().map(ToString::to_string).collect();
    let totals = &view.totals;
    let FlowsView {
        open,
        half_open,
        capacity,
    } = view.flows;
    let mut text = vec![
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
        format!("connections     {open} ({half_open} half open) of {capacity}"),
        String::new(),
    ];
    if view.attached.is_empty() {
        text.push(paint(
            BAD,
            "attached to no interface: `limiter check` says which ones [attach] means",
        ));
    } else {
        let mut table = Table::new(&["INTERFACE", "HOOK", "MECHANISM"]);
        for attached in &view.attached {
            table.row([
                attached.interface.clone(),
                attached.hook.as_str().to_owned(),
                attached.mechanism.as_str().to_owned(),
            ]);
        }
        text.extend(table.lines());
    }
    text.push(String::new());
    text.push(format!("admitted        {}", totals.admitted));
    text.push(format!("refused         {}", refusals(totals.refused)));
    text.push(format!("malformed       {}", totals.malformed));
    text.push(format!("missing key     {}", totals.missing_key));
    text.push(format!("unknown key     {}", totals.unknown_key));
    text.push(String::new());
    text.extend(coverage(view));
    text.push(String::new());
    if let Some(healed) = healed(&view.healed) {
        text.push(healed);
        text.push(String::new());
    }
    if view.health.is_empty() {
        text.push(paint(GOOD, "all is well"));
    }
    for health in &view.health {
        text.push(format!(
            "{}  {}: {}",
            paint(BAD, "PROBLEM"),
            health.part,
            health.message
        ));
    }
    text
}

/// Where the traffic of guarded ports went: all that passed unread has a line of its own, also when
/// it is nothing. Reasons to drop are told when there were any, and so are all other counters.
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
    let mut passed = Table::new(&["PASSED", ">CONNECTIONS", ">BYTES"]);
    for line in &PASSED {
        add(&mut passed, line, true);
    }
    let mut dropped = Table::new(&["NOT PASSED", ">SEGMENTS", ">BYTES"]);
    for line in &DROPPED {
        add(&mut dropped, line, line.bytes.is_some());
    }
    let mut text = passed.lines();
    text.push(String::new());
    text.extend(dropped.lines());
    let mut others = Table::new(&["COUNTED TOO", ">NUMBER"]);
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
            "counts were off by {slots} requests in flight and {connections} connections"
        ));
    }
    if *orphaned_flows > 0 {
        parts.push(format!(
            "{orphaned_flows} connections without a socket were forgotten, with {orphaned_slots} requests in flight"
        ));
    }
    (!parts.is_empty()).then(|| format!("healed: {}", parts.join("; ")))
}

/// How many scopes of unknown keys there are, if any.
fn unknown_scopes(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(" (and {count} scopes of unknown keys)"),
    }
}

#[cfg(test)]
mod tests {
    use limiter_common::abi::counter;

    use super::*;

    #[test]
    fn each_line_tells_of_a_counter_and_of_its_own() {
        let mut names = BTreeSet::new();
        for line in PASSED.iter().chain(&DROPPED) {
            for name in [line.count, line.bytes].into_iter().flatten() {
                assert!(counter::NAMES.contains(&name), "{name}");
                assert!(names.insert(name), "{name} twice");
            }
        }
        // What is dropped, and in what ways bytes go, is told by name.
        for name in counter::NAMES {
            if name.ends_with("_dropped") || name.ends_with("_bytes") {
                assert!(names.contains(name), "{name} has no line");
            }
        }
    }

    #[test]
    fn what_passed_unread_is_told_even_when_it_is_nothing() {
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
            "connections 0 (0 half open) of 0",
            "inspected as HTTP/1.x 2 300",
            "untracked: older than the program 0 0",
            "old timestamp 1",
            "trimmed 4",
            "healed: counts were off by 5 requests in flight and 0 connections",
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
