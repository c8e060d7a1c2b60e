// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks for JSON output.

use serde_json::Value;

/// Asserts that an object has all fields in `names`. The object may have other fields too.
#[track_caller]
pub fn assert_fields(object: &Value, names: &[&str]) {
    for name in names {
        assert!(object.get(name).is_some(), "no {name} in {object}");
    }
}

/// Returns whether a value is a UTC time in the format of RFC 3339.
pub fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape.starts_with("0000-00-00T00:00:00") && shape.ends_with('Z')
}
