// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[identify]`, which states where requests carry their keys.

use std::{fmt, str::FromStr};

use super::document::{Document, Section};
use crate::suggest::did_you_mean;

/// The maximum number of `header:` sources. The scanner's table has this number of rows, and each
/// source costs the kernel a comparison for every header line.
pub const MAX_HEADER_SOURCES: usize = 4;

/// The maximum length of a header field's name in bytes. The kernel compares names as four words of
/// 8 bytes each.
const MAX_HEADER_NAME: usize = 32;

/// A place in which a request may carry its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The whole value of a header field.
    Header(HeaderName),
    /// The token in `Authorization: Bearer`.
    Bearer,
    /// The whole base64 string in `Authorization: Basic`.
    Basic,
    /// The user name in `Authorization: Basic`, whatever the password is.
    BasicUser,
}

/// The name of a header field in lower case, which is a `token` (RFC 9110, section 5.6.2) of 1 to
/// 32 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderName(String);

impl HeaderName {
    /// Returns the name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // This is `tchar` of RFC 9110, section 5.6.2.
        let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || !text.bytes().all(is_tchar) {
            return Err(format!(
                "`{text}` is not the name of a header field: write letters, digits and hyphens, like \"x-api-key\""
            ));
        }
        if text.len() > MAX_HEADER_NAME {
            return Err(format!(
                "the header name `{text}` is too long: a name has at most {MAX_HEADER_NAME} bytes"
            ));
        }
        let name = text.to_ascii_lowercase();
        let dashed = dashed(&name);
        if ["content-length", "transfer-encoding", "authorization"].contains(&dashed.as_str()) {
            return Err(match dashed.as_str() {
                "authorization" => "`header:authorization` is not a source: use \"bearer\", \
                                    \"basic\" or \"basic-user\""
                    .to_owned(),
                _ => format!("the header field `{name}` frames the message and cannot carry a key"),
            });
        }
        Ok(Self(name))
    }
}

/// Returns `name` with a dash in place of each byte that is neither a letter nor a digit. Servers
/// that pass header fields on as environment variables cannot distinguish names that differ only in
/// these bytes.
fn dashed(name: &str) -> String {
    name.replace(|char: char| !char.is_ascii_alphanumeric(), "-")
}

impl Source {
    /// Returns whether both sources read the same fields. In names of fields, the scanner treats
    /// all bytes except letters and digits as equal, so that a client cannot evade a limit with a
    /// variant of a name.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Header(a), Self::Header(b)) => dashed(&a.0) == dashed(&b.0),
            _ => self == other,
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bearer" => Ok(Self::Bearer),
            "basic" => Ok(Self::Basic),
            "basic-user" => Ok(Self::BasicUser),
            _ => match text.strip_prefix("header:") {
                Some(name) => name.parse().map(Self::Header),
                None => Err(format!(
                    "`{text}` is not a source: use \"header:NAME\", \"bearer\", \"basic\" or \
                     \"basic-user\"{}",
                    did_you_mean(text, ["header:", "bearer", "basic", "basic-user"])
                )),
            },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{}", name.as_str()),
            Self::Bearer => f.write_str("bearer"),
            Self::Basic => f.write_str("basic"),
            Self::BasicUser => f.write_str("basic-user"),
        }
    }
}

fn defaults() -> Vec<Source> {
    vec![
        Source::Header(HeaderName("x-api-key".to_owned())),
        Source::Bearer,
        Source::Basic,
    ]
}

pub(super) fn read<'a>(document: &mut Document<'a>, root: &Section<'a>) -> Vec<Source> {
    let Some(section) = document.section(root, "identify") else {
        return defaults();
    };
    document.known(&section, &["sources"]);
    let Some(entries) = document.array(&section, "sources") else {
        return defaults();
    };
    if entries.is_empty() {
        let message = "`identify.sources` is empty: give at least one, like [\"header:x-api-key\"]";
        document.problem(&section.span, message);
    }
    let mut sources: Vec<Source> = Vec::new();
    for entry in entries {
        let Some(text) = document.text_of(&entry) else {
            continue;
        };
        match text.parse::<Source>() {
            Err(why) => document.problem(&entry.span, format!("`{}`: {why}", entry.path)),
            Ok(source) if sources.iter().any(|known| known.is_same(&source)) => {
                document.problem(
                    &entry.span,
                    format!("`{}`: the source {source} is given twice", entry.path),
                );
            }
            Ok(source) => {
                sources.push(source);
                let headers = sources
                    .iter()
                    .filter(|s| matches!(s, Source::Header(_)))
                    .count();
                if headers == MAX_HEADER_SOURCES + 1 {
                    document.problem(
                        &entry.span,
                        format!(
                            "`{}`: there are at most {MAX_HEADER_SOURCES} header sources",
                            entry.path
                        ),
                    );
                }
            }
        }
    }
    sources
}
