// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lists of names in messages.

/// Returns the first names in `names` and the number of the remaining names, or `None` if there are
/// no names.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    /// The maximum number of names that are listed.
    const NAMED: usize = 5;
    let names: Vec<&str> = names.collect();
    let some = names.get(..NAMED.min(names.len())).unwrap_or_default();
    let more = match names.len() - some.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| format!("{}{more}", some.join(", ")))
}
