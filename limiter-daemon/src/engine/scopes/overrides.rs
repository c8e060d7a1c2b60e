// SPDX-License-Identifier: MIT OR Apache-2.0

//! Combines a request for limits of a scope's own with those that the scope has already.
//!
//! Each limit has an end and a note of its own. A request changes only the limits that it names.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    domain::limits::{LimitName, Limits, Override, Terms},
    protocol::{
        error::ApiError,
        fields::fits_rfc3339,
        overrides::Replaced,
        requests::{End, SetLimits},
        views::rfc3339,
    },
};

/// Returns the override that results from the previous override and a request, with warnings for
/// the operator. If the request names no end, each limit keeps the end that it has.
///
/// # Errors
/// Returns an error if the end has passed or cannot be represented.
pub(crate) fn over(
    before: Option<&Override>,
    request: SetLimits,
    now: DateTime<Utc>,
) -> Result<(Override, Vec<String>), ApiError> {
    let SetLimits {
        limits,
        until,
        note,
    } = request;
    let until = until.map(|end| whole_millis(end, now)).transpose()?;
    let mut own = before.cloned().unwrap_or_default();
    let mut warnings = Vec::new();
    for limit in LimitName::ALL
        .into_iter()
        .filter(|limit| limits.has(*limit))
    {
        // A limit whose end has passed is a new one, even if it has not been removed yet.
        let present = own.terms().get(&limit).and_then(|terms| terms.until);
        let present = present.filter(|end| *end > now);
        if let (None, Some(end)) = (until, present) {
            warnings.push(format!(
                "{limit} still ends at {}: `--until never` removes the end",
                rfc3339(&end)
            ));
        }
        let until = until.map_or(present, End::at);
        let note = note.clone();
        own.set(limit, &limits, Terms { until, note });
    }
    Ok((own, warnings))
}

/// Returns an end rounded down to the precision of the store, which is milliseconds.
///
/// # Errors
/// Returns an error if the end has passed or cannot be represented.
pub(crate) fn whole_millis(end: End, now: DateTime<Utc>) -> Result<End, ApiError> {
    let End::At(at) = end else { return Ok(end) };
    let at = DateTime::from_timestamp_millis(at.timestamp_millis()).filter(fits_rfc3339);
    let Some(at) = at else {
        return Err(ApiError::invalid(
            "the end lies beyond the year 9999: name an earlier one, or `never`",
        ));
    };
    if at <= now {
        return Err(ApiError::invalid(format!(
            "the end {} has passed already",
            rfc3339(&at)
        )));
    }
    Ok(End::At(at))
}

/// Returns the text of the value of a limit.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unlimited".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Limits of a scope's own, and the limits that are in force with them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnLimits<'a> {
    /// The override, if the scope has one.
    pub(crate) own: Option<&'a Override>,
    /// The limits in force.
    pub(crate) in_force: &'a Limits,
}

impl OwnLimits<'_> {
    fn terms(&self, limit: LimitName) -> Option<&Terms> {
        self.own?.terms().get(&limit)
    }

    fn value(&self, limit: LimitName) -> Value {
        // Numbers and short texts can always be written as JSON.
        let limits = serde_json::to_value(self.in_force).unwrap_or_default();
        limits.get(limit.as_str()).cloned().unwrap_or_default()
    }
}

/// Returns the settings that a change has replaced, each with its old and new value: the limits
/// that are in force, and the ends and notes of limits that were and are the scope's own.
pub(crate) fn replaced(before: OwnLimits<'_>, after: OwnLimits<'_>) -> Vec<Replaced> {
    let mut all = Vec::new();
    let mut add = |what: String, from: Value, to: Value| {
        if from != to {
            all.push(Replaced { what, from, to });
        }
    };
    for limit in LimitName::ALL {
        add(limit.to_string(), before.value(limit), after.value(limit));
        if let (Some(old), Some(new)) = (before.terms(limit), after.terms(limit)) {
            let end = |terms: &Terms| Value::from(terms.until.as_ref().map(rfc3339));
            add(format!("{limit}.until"), end(old), end(new));
            let note = |terms: &Terms| Value::from(terms.note.as_str());
            add(format!("{limit}.note"), note(old), note(new));
        }
    }
    all
}

/// Returns a description of a change for the audit trail: each limit that was set or cleared, with
/// its old and new value and its end, for example `daily_quota 1000 to 5000, until
/// 2026-12-01T00:00:00Z`.
pub(crate) fn changes(before: OwnLimits<'_>, after: OwnLimits<'_>) -> String {
    let mut parts = Vec::new();
    for limit in LimitName::ALL {
        let (old, new) = (before.terms(limit), after.terms(limit));
        if old == new && before.value(limit) == after.value(limit) {
            continue;
        }
        let values = [before, after].map(|limits| shown(&limits.value(limit)));
        let mut text = format!("{limit} {} to {}", values[0], values[1]);
        match new {
            None if old.is_some() => text.push_str(", as the tier"),
            Some(Terms {
                until: Some(until), ..
            }) => text.push_str(&format!(", until {}", rfc3339(until))),
            Some(Terms { until: None, .. }) if old.is_some_and(|terms| terms.until.is_some()) => {
                text.push_str(", without an end");
            }
            Some(Terms { until: None, .. }) | None => {}
        }
        parts.push(text);
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{bound::Bound, limits::Changes};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn now() -> DateTime<Utc> {
        at("2026-11-24T12:00:00Z")
    }

    fn terms(until: Option<&str>, note: &str) -> Terms {
        Terms {
            until: until.map(at),
            note: note.to_owned(),
        }
    }

    fn quota(until: Option<&str>) -> Override {
        let changes = Changes {
            daily_quota: Some(Bound::At(5000)),
            ..Changes::default()
        };
        Override::new(&changes, &terms(until, "before"))
    }

    fn set(before: Option<&Override>, json: &str) -> Result<(Override, Vec<String>), ApiError> {
        over(before, serde_json::from_str(json).unwrap(), now())
    }

    const WEEK: &str = "2026-12-01T00:00:00Z";

    #[test]
    fn a_request_changes_no_end_or_note_of_a_limit_that_it_does_not_name() {
        for (before, until, expected) in [
            (Some(WEEK), "", None),
            (Some(WEEK), r#""until":"never","#, None),
            (
                None,
                r#""until":"2026-12-02T00:00:00Z","#,
                Some("2026-12-02T00:00:00Z"),
            ),
        ] {
            let json = format!(r#"{{"limits":{{"burst":2}},{until}"note":"after"}}"#);
            let (own, warnings) = set(Some(&quota(before)), &json).unwrap();
            assert_eq!(warnings, [] as [&str; 0]);
            assert_eq!(own.changes().daily_quota, Some(Bound::At(5000)));
            assert_eq!(own.terms()[&LimitName::DailyQuota], terms(before, "before"));
            assert_eq!(own.terms()[&LimitName::Burst], terms(expected, "after"));
        }
    }

    #[test]
    fn a_limit_that_is_set_again_keeps_its_end_with_a_warning() {
        let week = quota(Some(WEEK));
        let again = r#"{"limits":{"daily_quota":7},"note":"more"}"#;
        let (own, warnings) = set(Some(&week), again).unwrap();
        assert_eq!(
            own.terms()[&LimitName::DailyQuota],
            terms(Some(WEEK), "more")
        );
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        assert!(
            warning.contains("daily_quota") && warning.contains(WEEK),
            "{warning}"
        );
        for until in ["never", "2026-12-02T00:00:00Z"] {
            let json =
                format!(r#"{{"limits":{{"daily_quota":7}},"until":"{until}","note":"more"}}"#);
            let (own, warnings) = set(Some(&week), &json).unwrap();
            assert_eq!(own.next_end(), (until != "never").then(|| at(until)));
            assert_eq!(warnings, [] as [&str; 0]);
        }
    }

    #[test]
    fn a_limit_that_is_set_again_after_its_end_has_no_end() {
        let ended = quota(Some("2026-11-24T12:00:00Z"));
        let again = r#"{"limits":{"daily_quota":7},"note":"more"}"#;
        let (own, warnings) = set(Some(&ended), again).unwrap();
        assert_eq!(own.terms()[&LimitName::DailyQuota], terms(None, "more"));
        assert_eq!(warnings, [] as [&str; 0]);
    }

    #[test]
    fn ends_fit_rfc3339_and_have_not_passed() {
        for (until, right) in [
            ("2020-01-01T00:00:00Z", false),
            ("2026-11-24T12:00:00.0004Z", false),
            ("9999-12-31T23:59:59.9999Z", true),
        ] {
            let json = format!(r#"{{"limits":{{"burst":2}},"until":"{until}","note":"x"}}"#);
            let message = set(None, &json);
            assert_eq!(message.is_ok(), right, "{until}: {message:?}");
        }
        for until in ["+10000-01-01T00:00:00Z", "soon", "2026-12-31", ""] {
            let json = format!(r#"{{"limits":{{"burst":2}},"until":"{until}","note":"x"}}"#);
            let message = serde_json::from_str::<SetLimits>(&json).unwrap_err();
            let message = message.to_string();
            assert!(
                message.contains("is not a valid end") && message.contains(until),
                "{message}"
            );
        }
    }

    #[test]
    fn replaced_settings_are_returned_with_their_old_values() {
        const TIER: Limits = Limits {
            daily_quota: Some(1000),
            rate: None,
            burst: 1,
            concurrency: None,
            connections: None,
        };
        let before = quota(Some(WEEK));
        let later = Changes {
            burst: Some(3),
            daily_quota: Some(Bound::Unlimited),
            ..Changes::default()
        };
        let after = Override::new(&later, &terms(None, "after"));
        let limits = [Some(&before), Some(&after), None].map(|own| {
            (
                own,
                own.map_or(TIER, |own| own.changes().apply(TIER).unwrap()),
            )
        });
        let [before, after, tier] = limits.each_ref().map(|(own, in_force)| OwnLimits {
            own: *own,
            in_force,
        });
        let all = |from, to| -> Vec<(String, Value, Value)> {
            let all = replaced(from, to).into_iter();
            all.map(|one| (one.what, one.from, one.to)).collect()
        };
        let line = |what: &str, from: Value, to: Value| (what.to_owned(), from, to);
        assert_eq!(
            all(before, after),
            [
                line("daily_quota", 5000.into(), Value::Null),
                line("daily_quota.until", WEEK.into(), Value::Null),
                line("daily_quota.note", "before".into(), "after".into()),
                line("burst", 1.into(), 3.into()),
            ]
        );
        assert_eq!(
            all(tier, before),
            [line("daily_quota", 1000.into(), 5000.into())]
        );
        assert_eq!(
            all(before, tier),
            [line("daily_quota", 5000.into(), 1000.into())]
        );
        assert_eq!(all(before, before), []);
        assert_eq!(
            [
                changes(tier, before),
                changes(before, after),
                changes(before, tier),
                changes(tier, tier)
            ],
            [
                "daily_quota 1000 to 5000, until 2026-12-01T00:00:00Z",
                "daily_quota 5000 to unlimited, without an end; burst 1 to 3",
                "daily_quota 5000 to 1000, as the tier",
                ""
            ]
        );
    }
}
