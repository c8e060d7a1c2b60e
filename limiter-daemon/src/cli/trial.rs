// SPDX-License-Identifier: MIT OR Apache-2.0

//! `limiter limits try`.

use super::{
    args::limits::TryArgs,
    client::{Client, query},
    exit::Failure,
    render::{json, lines},
    table::Table,
};
use crate::{
    domain::plain::counted,
    protocol::trial::{TrialView, TriedScope},
};

pub(super) fn trial(client: &Client, args: &TryArgs, as_json: bool) -> Result<(), Failure> {
    let TryArgs {
        scope,
        tier,
        daily_quota,
        days,
    } = args;
    let query = query(&[
        ("scope", scope.as_ref().map(ToString::to_string)),
        ("tier", tier.clone()),
        ("daily_quota", daily_quota.map(|quota| quota.to_string())),
        ("days", days.map(|days| days.to_string())),
    ]);
    let view: TrialView = client.get(&format!("/v1/trial{query}"))?;
    if as_json {
        return json(&view);
    }
    lines(&text(&view))
}

fn text(view: &TrialView) -> Vec<String> {
    let quota = view.daily_quota.map_or_else(
        || "no daily quota".to_owned(),
        |quota| format!("a daily quota of {quota}"),
    );
    let (from, to) = (view.from, view.to);
    let mut text = vec![format!(
        "With {quota} from {from} to {to}, requests of {} out of {} would have been refused.",
        view.scopes.len(),
        counted(view.scopes_tried, "scope"),
    )];
    if view.scopes.is_empty() {
        return text;
    }
    let mut table = Table::new(&[
        "~SCOPE",
        ">DAYS",
        ">DAYS OVER",
        ">WOULD REFUSE",
        ">WERE REFUSED",
        ">MOST",
        "ON",
    ]);
    for one in &view.scopes {
        let TriedScope {
            scope,
            days,
            days_over,
            would_refuse,
            refused,
            most,
            most_on,
        } = one;
        let numbers = [days, days_over, would_refuse, refused, most].map(u64::to_string);
        let [days, days_over, would_refuse, refused, most] = numbers;
        table.row([
            scope.to_string(),
            days,
            days_over,
            would_refuse,
            refused,
            most,
            most_on.to_string(),
        ]);
    }
    text.push(String::new());
    text.extend(table.lines());
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(view: &TrialView) -> Vec<String> {
        let lines = text(view);
        let plain = lines.iter().map(|line| anstream::adapter::strip_str(line));
        plain.map(|line| line.to_string()).collect()
    }

    #[test]
    fn a_trial_is_printed_with_its_scopes() {
        let mut view: TrialView = serde_json::from_value(json!({
            "daily_quota": 800, "from": "2026-11-17", "to": "2026-11-23", "scopes_tried": 14,
            "scopes": [{
                "scope": "acme/web", "days": 7, "days_over": 2, "would_refuse": 130, "refused": 0,
                "most": 900, "most_on": "2026-11-20",
            }],
        }))
        .unwrap();
        assert_eq!(
            plain(&view),
            [
                "With a daily quota of 800 from 2026-11-17 to 2026-11-23, requests of 1 out of 14 \
                 scopes would have been refused.",
                "",
                "SCOPE     DAYS  DAYS OVER  WOULD REFUSE  WERE REFUSED  MOST  ON",
                "acme/web     7          2           130             0   900  2026-11-20",
            ]
        );
        view.scopes.clear();
        view.daily_quota = None;
        assert_eq!(
            plain(&view),
            [
                "With no daily quota from 2026-11-17 to 2026-11-23, requests of 0 out of 14 scopes \
                 would have been refused."
            ]
        );
    }
}
