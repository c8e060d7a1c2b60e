// SPDX-License-Identifier: MIT OR Apache-2.0

//! The output of `limiter explain`.

use serde_json::Value;

use super::{
    exit::Failure,
    render::{json, lines, override_lines},
    table::Table,
    terminal::{BAD, GOOD, NOTABLE, paint},
};
use crate::protocol::{
    insight::{ExplainView, LimitView, Verdict},
    views::rfc3339,
};

pub(super) fn explain(view: &ExplainView, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(view);
    }
    lines(&text(view))
}

fn text(view: &ExplainView) -> Vec<String> {
    let mut text = vec![format!("request      {}", verdict(view))];
    if let Some(since) = &view.since {
        text.push(format!("since        {}", rfc3339(since)));
    }
    if view.verdict == Verdict::Refused {
        let until = match (&view.until, view.reason.as_deref()) {
            (Some(until), _) => rfc3339(until),
            (None, Some("concurrency")) => "a request in flight is answered".to_owned(),
            (None, Some("connections")) => "a connection ends".to_owned(),
            (None, _) => "an operator changes it".to_owned(),
        };
        text.push(format!("until        {until}"));
    }
    if let Some(key) = &view.key {
        text.push(format!("key          {}, {}", key.id, key.state));
    }
    if let (Some(scope), Some(tier)) = (&view.scope, &view.tier) {
        text.push(format!("scope        {scope} ({tier})"));
    }
    if let (Some(mode), Some(from)) = (&view.mode, &view.mode_from) {
        text.push(format!("mode         {mode} (from the {from})"));
    }
    text.extend(view.limits_override.iter().flat_map(override_lines));
    if !view.limits.is_empty() {
        text.push(String::new());
        text.extend(limits(&view.limits));
    }
    if !view.notes.is_empty() {
        text.push(String::new());
        text.extend(view.notes.iter().cloned());
    }
    text
}

fn verdict(view: &ExplainView) -> String {
    let reason = view.reason.as_deref().unwrap_or_default().replace('_', " ");
    match view.verdict {
        Verdict::Passes => paint(GOOD, "would be admitted"),
        Verdict::Observed => format!(
            "{}, and counted as one that would be refused if limits were enforced: {reason}",
            paint(GOOD, "would be admitted")
        ),
        Verdict::Held => paint(NOTABLE, "would be held back for a moment"),
        Verdict::Refused => {
            let status = view.status.map(|status| format!(" with {status}"));
            format!(
                "{}{}: {reason}",
                paint(BAD, "would be refused"),
                status.unwrap_or_default()
            )
        }
    }
}

fn limits(limits: &[LimitView]) -> Vec<String> {
    let mut table = Table::new(&["LIMIT", ">VALUE", ">USED", "FROM", "REACHED", "UNTIL"]);
    for limit in limits {
        let value = match &limit.value {
            Value::Null => "unlimited".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let dash = || "-".to_owned();
        table.row([
            limit.limit.replace('_', " "),
            value,
            limit.used.map_or_else(dash, |used| used.to_string()),
            limit.from.clone(),
            match (limit.reached, &limit.since) {
                (false, _) => "no".to_owned(),
                (true, None) => "yes".to_owned(),
                (true, Some(since)) => format!("since {}", rfc3339(since)),
            },
            limit.until.as_ref().map_or_else(dash, rfc3339),
        ]);
    }
    table.lines()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_is_printed_with_its_limit_and_its_end() {
        let view: ExplainView = serde_json::from_value(json!({
            "scope": "acme/web", "key": null, "at": "2026-11-24T12:00:00Z",
            "verdict": "refused", "reason": "daily_quota", "status": 429,
            "since": "2026-11-24T11:00:00Z", "until": "2026-11-25T00:00:00Z",
            "tier": "profile", "mode": "enforce", "mode_from": "policy",
            "override": {"daily_quota": 5, "until": null, "note": "a trial",
                "terms": {"daily_quota": {"until": null, "note": "a trial"}}},
            "limits": [
                {"limit": "daily_quota", "value": 5, "from": "override", "used": 5, "reached": true,
                 "since": "2026-11-24T11:00:00Z", "until": "2026-11-25T00:00:00Z"},
                {"limit": "rate", "value": null, "from": "tier", "used": null, "reached": false,
                 "since": null, "until": null},
            ],
            "notes": ["a note"],
        }))
        .unwrap();
        let text: Vec<String> = text(&view)
            .iter()
            .map(|line| anstream::adapter::strip_str(line).to_string())
            .collect();
        assert_eq!(
            text,
            [
                "request      would be refused with 429: daily quota",
                "since        2026-11-24T11:00:00Z",
                "until        2026-11-25T00:00:00Z",
                "scope        acme/web (profile)",
                "mode         enforce (from the policy)",
                "override     daily_quota: a trial",
                "",
                "LIMIT            VALUE  USED  FROM      REACHED                     UNTIL",
                "daily quota          5     5  override  since 2026-11-24T11:00:00Z  2026-11-25T00:00:00Z",
                "rate         unlimited     -  tier      no                          -",
                "",
                "a note",
            ]
        );
    }
}
