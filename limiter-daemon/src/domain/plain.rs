// SPDX-License-Identifier: MIT OR Apache-2.0

//! Strings that operators write (labels, notes and names). Such a string is a single line, in which
//! every character is visible and is shown at the position at which it was written.
//!
//! Characters that are refused in new strings can occur in an older store, or in a string that an
//! error message quotes. The command line therefore prints such characters as escapes with their
//! code points.

use std::fmt::{self, Display, Write as _};

use thiserror::Error;

/// Returns a number with its noun, for example `1 scope` or `2 scopes`.
pub fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let ending = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// The maximum length of a note in bytes.
pub(crate) const MAX_NOTE: usize = 1000;

/// The maximum length of a label in bytes.
pub(crate) const MAX_LABEL: usize = 128;

/// The ranges of characters that are invisible or that change how the text around them is shown,
/// apart from the control characters. They are the general categories Cf, Zl and Zp, the property
/// `Default_Ignorable_Code_Point`, and the noncharacters of the Unicode Character Database (UAX
/// #44). The last two code points of each plane are also noncharacters, but are not listed here,
/// because [`is_visible`] checks for them. The variation selectors U+FE00 to U+FE0F are allowed,
/// because emoji are written with them.
const INVISIBLE: [(char, char); 25] = [
    // The soft hyphen, the combining grapheme joiner, and Arabic and Syriac marks and controls.
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    // Fillers and inherent vowels without a shape, and Mongolian controls.
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    // Characters of zero width, directional marks, embeddings, overrides and isolates, separators
    // of lines and paragraphs, the Hangul filler, and noncharacters.
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fdd0}', '\u{fdef}'),
    // The byte order mark, the halfwidth Hangul filler, and interlinear annotations.
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    // Controls of number signs, hieroglyphs, shorthand and music.
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    // Tags, and further variation selectors.
    ('\u{e0000}', '\u{e0fff}'),
];

/// Returns whether a reader sees the character `c`, and sees it at its actual position.
pub fn is_visible(c: char) -> bool {
    // The last two code points of each plane are noncharacters.
    let is_noncharacter = u32::from(c) & 0xFFFE == 0xFFFE;
    !c.is_control()
        && !is_noncharacter
        && !INVISIBLE
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&c))
}

/// The error for a string that has an invisible character.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[error("has U+{:04X} as its character {position}, {}", u32::from(*.character), kind(*.character))]
pub struct InvisibleError {
    /// The first invisible character.
    pub character: char,
    /// The position of the character in the string, in characters, counted from 1.
    pub position: usize,
}

fn kind(character: char) -> &'static str {
    if character.is_control() {
        "which is a control character"
    } else {
        "which is invisible or changes how the text around it is shown"
    }
}

/// Checks whether every character of `text` is visible.
///
/// # Errors
/// Returns an error that names the first invisible character and its position.
pub fn check(text: &str) -> Result<(), InvisibleError> {
    match text.chars().zip(1..).find(|(c, _)| !is_visible(*c)) {
        None => Ok(()),
        Some((character, position)) => Err(InvisibleError {
            character,
            position,
        }),
    }
}

/// Prints a string with its invisible characters replaced by escapes with their code points, for
/// example `\u{202e}`.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            c if is_visible(c) => f.write_char(c),
            c => write!(f, "{}", c.escape_default()),
        })
    }
}

/// Returns `text` as [`Shown`] prints it, except that line feeds are kept.
pub fn shown_lines(text: &str) -> String {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| Shown(line).to_string())
        .collect();
    lines.join("\n")
}

/// Returns `json` with all invisible characters escaped. They occur only in strings, so escaping
/// them does not change the value. Line feeds between tokens are kept.
pub fn escaped_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || is_visible(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // An error is not possible, because writing to a string always succeeds.
            let _infallible = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

/// Returns a character class for a regular expression (ECMA 262), without its brackets, that
/// matches all invisible characters. Characters of the Basic Multilingual Plane are written as
/// escapes. All other characters are written literally, because not every dialect has an escape for
/// them.
pub(crate) fn invisible_class() -> String {
    let mut class = r"\u0000-\u001f\u007f-\u009f\ufffe-\uffff".to_owned();
    let planes = 1..=u32::from(char::MAX) >> 16;
    let noncharacters = planes.flat_map(|plane| [plane << 16 | 0xFFFE, plane << 16 | 0xFFFF]);
    class.extend(noncharacters.filter_map(char::from_u32));
    for (first, last) in INVISIBLE {
        if u32::from(last) <= 0xFFFF {
            class.push_str(&format!(
                "\\u{:04x}-\\u{:04x}",
                u32::from(first),
                u32::from(last)
            ));
        } else {
            class.push_str(&format!("{first}-{last}"));
        }
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_invisible_character_is_named_with_its_position() {
        for (text, character, position) in [
            ("a\u{202e}b", '\u{202e}', 2),
            ("\u{2066}", '\u{2066}', 1),
            ("für\u{200b}", '\u{200b}', 4),
            ("a\u{2028}b\u{2029}", '\u{2028}', 2),
            ("\u{feff}x", '\u{feff}', 1),
            ("x\ty", '\t', 2),
            ("x\u{9b}y", '\u{9b}', 2),
            ("x\u{ad}y", '\u{ad}', 2),
            ("x\u{e0041}", '\u{e0041}', 2),
            ("x\u{1ffff}", '\u{1ffff}', 2),
            ("\u{3164}", '\u{3164}', 1),
        ] {
            let error = check(text).unwrap_err();
            assert_eq!(
                (error.character, error.position),
                (character, position),
                "{text:?}"
            );
        }
        let message = check("a\u{202e}").unwrap_err().to_string();
        assert!(
            message.starts_with("has U+202E as its character 2, which is inv"),
            "{message}"
        );
        assert!(check("x\u{7f}").unwrap_err().to_string().contains("U+007F"));
    }

    #[test]
    fn texts_that_people_write_are_accepted() {
        for text in [
            "",
            "Grüße, 日本語 — עברית",
            "❤\u{fe0f} 🎉",
            "a\u{a0}b\u{3000}c",
            "e\u{301}",
        ] {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn an_invisible_character_is_shown_by_its_number() {
        assert_eq!(
            Shown("a\u{202e}b\n\u{1b}[8m").to_string(),
            r"a\u{202e}b\n\u{1b}[8m"
        );
        assert_eq!(shown_lines("a\nb\u{2028}c"), "a\nb\\u{2028}c");
        let text = "a\u{202e}b\u{e0041}\n";
        let json = serde_json::to_string_pretty(&[text]).unwrap();
        let escaped = escaped_json(&json);
        assert!(escaped.contains(r"a\u202eb\udb40\udc41\n"), "{escaped}");
        assert_eq!(
            serde_json::from_str::<[String; 1]>(&escaped).unwrap(),
            [text]
        );
    }
}
