// SPDX-License-Identifier: MIT OR Apache-2.0

//! Divides the text of a Rust file into code, comments and string literals.

/// The kind of source text to which a character belongs. A block comment would count as code, but
/// this repository has no block comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Code,
    Comment,
    Literal,
}

/// Returns the source with each character of a comment or a string literal replaced by a space.
/// Line breaks are kept.
pub fn code(source: &str) -> String {
    source
        .chars()
        .zip(kinds(source))
        .map(|(letter, kind)| match kind {
            Kind::Code => letter,
            Kind::Comment | Kind::Literal if letter == '\n' => letter,
            Kind::Comment | Kind::Literal => ' ',
        })
        .collect()
}

/// Returns the kind of each character, in order.
pub fn kinds(source: &str) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let (kind, bytes) = first_piece(rest);
        let (piece, after) = rest.split_at(bytes);
        kinds.extend(piece.chars().map(|_| kind));
        rest = after;
    }
    kinds
}

/// Returns the kind of the piece with which the source begins, and the length of that piece in
/// bytes. The piece consists of at least one character.
fn first_piece(source: &str) -> (Kind, usize) {
    if source.starts_with("//") {
        return (Kind::Comment, source.find('\n').unwrap_or(source.len()));
    }
    if source.starts_with('"') {
        return (Kind::Literal, string(source));
    }
    if let Some(bytes) = raw_string(source) {
        return (Kind::Literal, bytes);
    }
    let bytes = match source.chars().next() {
        Some('\'') => quote(source),
        other => other.map_or(0, char::len_utf8),
    };
    (Kind::Code, bytes)
}

/// Returns the length in bytes of the string literal with which the source begins.
fn string(source: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in source.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    source.len()
}

/// Returns the length in bytes of the raw string literal with which the source begins, or `None` if
/// it does not begin with one.
fn raw_string(source: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| source.starts_with(*prefix))?;
    let opening = &source[prefix.len()..];
    let text = opening.trim_start_matches('#');
    let hashes = &opening[..opening.len() - text.len()];
    let text = text.strip_prefix('"')?;
    let end = text.find(&format!("\"{hashes}"));
    Some(end.map_or(source.len(), |end| {
        source.len() - text.len() + end + 1 + hashes.len()
    }))
}

/// Returns the length in bytes of the character literal with which the source begins. If the source
/// begins with a lifetime, returns the length of its quotation mark.
fn quote(source: &str) -> usize {
    let mut after = source.char_indices().skip(1);
    match (after.next(), after.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let escape = at + escaped.len_utf8();
            source[escape..]
                .find('\'')
                .map_or(source.len(), |end| escape + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        for (source, expected) in [
            ("a // b\nc", "a     \nc"),
            ("f(\"// b\", 'c', '\"')", "f(      , 'c', '\"')"),
            ("r#\"b\"# + \"\\\"\"", "       +     "),
        ] {
            assert_eq!(code(source), expected, "{source}");
        }
    }
}
