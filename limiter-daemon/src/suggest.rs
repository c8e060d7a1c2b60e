// SPDX-License-Identifier: MIT OR Apache-2.0

//! Finds the valid words that are nearest to a wrong word, as suggestions for error messages.

/// Returns at most three candidates that are near `word`, with the nearest first.
/// A candidate is near if at most a third of its letters, or two letters if that is more, would
/// have to change. More distant suggestions would not help.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = strsim::damerau_levenshtein(
                &word.to_ascii_lowercase(),
                &candidate.to_ascii_lowercase(),
            );
            let tolerance = (candidate.chars().count() / 3)
                .max(2)
                .min(word.chars().count());
            (distance <= tolerance).then_some((distance, candidate))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter()
        .map(|(_, candidate)| candidate)
        .take(3)
        .collect()
}

/// Returns a suggestion in parentheses, for example `` (did you mean `a` or `b`?) `` with a space
/// before it. Returns an empty string if no candidate is near.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let near = nearest(word, candidates);
    if near.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    format!(" (did you mean {}?)", quoted.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_answered_with_the_right_word() {
        assert_eq!(
            nearest("daly_quota", ["daily_quota", "rate"]),
            ["daily_quota"]
        );
        assert_eq!(
            did_you_mean("acme/wbe", ["acme/web", "zeta"]),
            " (did you mean `acme/web`?)"
        );
    }

    #[test]
    fn an_unrelated_word_gets_no_suggestion() {
        assert_eq!(did_you_mean("colour", ["interfaces", "ports"]), "");
    }
}
