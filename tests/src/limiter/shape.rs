//! Shapes of `--json`.

use serde_json::Value;

/// Asserts that an object has these fields; more may be there.
#[track_caller]
pub fn assert_fields(object: &Value, names: &[&str]) {
    for name in names {
        assert!(object.get(name).is_some(), "no {name} in {object}");
    }
}

/// Whether a text is an RFC 3339 time in UTC.
pub fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape.starts_with("0000-00-00T00:00:00") && shape.ends_with('Z')
}
