// SPDX-License-Identifier: MIT OR Apache-2.0

//! Combines a request for an override with the previous override of the scope.
//!
//! A scope has one end and one note, which apply to all limits of its override. If a request names
//! an end but not all of these limits, the end also applies to the limits that are not named, and
//! the request has to confirm this. Otherwise, an operator could shorten or extend the life of
//! these limits by mistake.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    domain::{
        limits::{Changes, Limits, Override},
        scope::ScopeName,
    },
    protocol::{
        error::ApiError,
        fields::fits_rfc3339,
        requests::{End, SetLimits},
        views::{OverrideView, Replaced, rfc3339},
    },
};

/// Returns the override that results from the previous override and a request, with warnings for
/// the operator.
///
/// # Errors
/// Returns an error if the end has passed or cannot be represented. Also returns an error if the
/// end would also apply to limits that the request does not name, unless the request confirms this
/// (`for_all`).
pub(crate) fn over(
    before: Option<&Override>,
    request: SetLimits,
    (name, now): (&ScopeName, DateTime<Utc>),
) -> Result<(Override, Vec<String>), ApiError> {
    let SetLimits {
        limits: changes,
        until,
        for_all,
        note,
    } = request;
    let until = until.map(|end| whole_millis(end, now)).transpose()?;
    if for_all && until.is_none() {
        return Err(ApiError::invalid(
            "`for_all` gives all limits one end: name it with `until`",
        ));
    }
    let Some(before) = before else {
        let until = until.and_then(End::at);
        let limits_override = Override {
            changes,
            until,
            note,
        };
        return Ok((limits_override, Vec::new()));
    };
    let mut warnings = Vec::new();
    let until = match until {
        Some(end) => {
            let others = before.changes.without(&changes);
            if end.at() != before.until && !others.is_empty() && !for_all {
                return Err(would_end(name, before, &others, end));
            }
            end.at()
        }
        None => {
            let joining = changes.without(&before.changes);
            if let Some(end) = &before.until {
                if !joining.is_empty() {
                    return Err(would_join(name, before, &joining, end));
                }
                warnings.push(format!(
                    "the end {} stays: `--until never` removes it",
                    rfc3339(end)
                ));
            }
            before.until
        }
    };
    let limits_override = Override {
        changes: changes.over(&before.changes),
        until,
        note,
    };
    Ok((limits_override, warnings))
}

/// Returns an end rounded down to the precision of the store, which is milliseconds.
fn whole_millis(end: End, now: DateTime<Utc>) -> Result<End, ApiError> {
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

fn would_end(name: &ScopeName, before: &Override, others: &Changes, end: End) -> ApiError {
    let have = match &before.until {
        None => "have no end".to_owned(),
        Some(end) => format!("end at {}", rfc3339(end)),
    };
    ApiError::conflict(format!(
        "limits of {name} that were set before ({}) {have}, and all limits of a scope's own have one end, which would be {end}: confirm it with `--for-all` (`for_all`); nothing was changed",
        described(others).join(", "),
    ))
}

fn would_join(
    name: &ScopeName,
    before: &Override,
    joining: &Changes,
    end: &DateTime<Utc>,
) -> ApiError {
    let end = rfc3339(end);
    ApiError::conflict(format!(
        "limits of {name} that were set before ({}) end at {end}, and all limits of a scope's own have one end: give `--until {end}` if {} is to end then too, or `--until T --for-all` (T may be `never`) to give all of them another end; nothing was changed",
        described(&before.changes).join(", "),
        described(joining).join(", "),
    ))
}

/// Returns descriptions of the limits, for example `daily_quota 5000`.
pub(crate) fn described(changes: &Changes) -> Vec<String> {
    let limits = OverrideView::limits_of(changes);
    let described = limits.iter().map(|(name, value)| match value {
        Value::Null => format!("{name} unlimited"),
        Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    });
    described.collect()
}

/// Returns the settings of the override `before` that have another value after the change, each
/// with its old and new value. The new value of a limit that `after` does not set is the one in
/// `limits`, the limits that are in force after the change.
pub(crate) fn replaced(
    before: Option<&Override>,
    after: Option<&Override>,
    limits: &Limits,
) -> Vec<Replaced> {
    let Some(before) = before else {
        return Vec::new();
    };
    let named = after.map(|limits_override| OverrideView::limits_of(&limits_override.changes));
    let in_force = serde_json::to_value(limits).unwrap_or_default();
    let limits = OverrideView::limits_of(&before.changes);
    let limits = limits.into_iter().map(|(name, from)| {
        let new = named.as_ref().and_then(|named| named.get(&name));
        let to = new.or_else(|| in_force.get(&name));
        let to = to.cloned().unwrap_or_default();
        (name, from, to)
    });
    let end = |limits_override: &Override| Value::from(limits_override.until.as_ref().map(rfc3339));
    let note = |limits_override: &Override| Value::from(limits_override.note.clone());
    let rest = [
        ("until", end(before), after.map(end)),
        ("note", note(before), after.map(note)),
    ];
    let rest = rest.map(|(what, from, to)| (what.to_owned(), from, to.unwrap_or_default()));
    limits
        .chain(rest)
        .filter(|(_, from, to)| from != to)
        .map(|(what, from, to)| Replaced { what, from, to })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bound::Bound;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn now() -> DateTime<Utc> {
        at("2026-11-24T12:00:00Z")
    }

    fn quota(until: Option<&str>) -> Override {
        Override {
            changes: Changes {
                daily_quota: Some(Bound::At(5000)),
                ..Changes::default()
            },
            until: until.map(at),
            note: "before".to_owned(),
        }
    }

    fn request(json: &str) -> SetLimits {
        serde_json::from_str(json).unwrap()
    }

    fn set(before: &Override, json: &str) -> Result<(Override, Vec<String>), ApiError> {
        over(
            Some(before),
            request(json),
            (&"acme".parse().unwrap(), now()),
        )
    }

    const WEEK: &str = "2026-12-01T00:00:00Z";

    #[test]
    fn an_end_of_limits_that_are_not_named_has_to_be_confirmed() {
        let (week, ever) = (quota(Some(WEEK)), quota(None));
        // A request without an end is refused. It must neither make `daily_quota` last for ever nor
        // make `burst` end in a week.
        let error = set(&week, r#"{"limits":{"burst":2},"note":"x"}"#).unwrap_err();
        for word in ["daily_quota 5000", WEEK, "burst 2", "--for-all"] {
            assert!(error.message.contains(word), "{error}");
        }
        for (before, until) in [
            (&week, "never"),
            (&week, "2026-12-02T00:00:00Z"),
            (&ever, WEEK),
        ] {
            let with = |more: &str| {
                let json =
                    format!(r#"{{"limits":{{"burst":2}},"until":"{until}","note":"x"{more}}}"#);
                set(before, &json)
            };
            let error = with("").unwrap_err();
            assert!(error.message.contains("--for-all"), "{error}");
            assert!(error.message.contains(until), "{error}");
            let (limits_override, _) = with(r#","for_all":true"#).unwrap();
            assert_eq!(limits_override.until, (until != "never").then(|| at(until)));
            assert_eq!(limits_override.changes.daily_quota, Some(Bound::At(5000)));
        }
        // No confirmation is needed if the end of the other limits stays the same.
        for (before, json) in [
            (&ever, r#"{"limits":{"burst":2},"note":"x"}"#.to_owned()),
            (
                &ever,
                r#"{"limits":{"burst":2},"until":"never","note":"x"}"#.to_owned(),
            ),
            (
                &week,
                format!(r#"{{"limits":{{"burst":2}},"until":"{WEEK}","note":"x"}}"#),
            ),
        ] {
            let (limits_override, warnings) = set(before, &json).unwrap();
            assert_eq!(
                (limits_override.until, warnings.len()),
                (before.until, 0),
                "{json}"
            );
        }
        let named = r#"{"limits":{"daily_quota":7,"burst":2},"until":"never","note":"x"}"#;
        assert_eq!(set(&week, named).unwrap().0.until, None);
        // An override that is set again keeps its end, and a warning reports this.
        let (limits_override, warnings) =
            set(&week, r#"{"limits":{"daily_quota":7},"note":"x"}"#).unwrap();
        assert_eq!(limits_override.until, week.until);
        assert!(warnings[0].contains(WEEK), "{warnings:?}");
        assert!(set(&ever, r#"{"limits":{"burst":2},"for_all":true,"note":"x"}"#).is_err());
    }

    #[test]
    fn ends_fit_rfc3339_and_have_not_passed() {
        for (until, right) in [
            ("2020-01-01T00:00:00Z", false),
            ("2026-11-24T12:00:00.0004Z", false),
            ("9999-12-31T23:59:59.9999Z", true),
        ] {
            let json = format!(r#"{{"limits":{{"burst":2}},"until":"{until}","note":"x"}}"#);
            let message = over(None, request(&json), (&"a".parse().unwrap(), now()));
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
        let before = quota(Some(WEEK));
        let after = Override {
            changes: Changes {
                burst: Some(3),
                daily_quota: Some(Bound::Unlimited),
                ..Changes::default()
            },
            until: None,
            note: "after".to_owned(),
        };
        let limits = Limits {
            daily_quota: Some(1000),
            rate: None,
            burst: 1,
            concurrency: None,
            connections: None,
        };
        let message = |after: Option<&Override>| -> Vec<(String, Value, Value)> {
            let all = replaced(Some(&before), after, &limits);
            all.into_iter()
                .map(|one| (one.what, one.from, one.to))
                .collect()
        };
        let end = Value::from(WEEK);
        let all = |quota: Value, note: Value| {
            [
                ("daily_quota".to_owned(), 5000.into(), quota),
                ("until".to_owned(), end.clone(), Value::Null),
                ("note".to_owned(), "before".into(), note),
            ]
        };
        assert_eq!(message(Some(&after)), all(Value::Null, "after".into()));
        assert_eq!(message(None), all(1000.into(), Value::Null));
        assert_eq!(message(Some(&before)), []);
        assert_eq!(replaced(None, Some(&after), &limits), []);
    }
}
