//! `[identify]`: where a request carries its key.

use std::{fmt, str::FromStr};

use super::document::{Document, Section};
use crate::suggest::did_you_mean;

/// Most `header:` sources. Each costs a comparison on every header line in the kernel, and the
/// scanner's table has so many rows.
pub const MAX_HEADER_SOURCES: usize = 4;

/// Longest header name, in bytes: the kernel compares names as four 8-byte words.
const MAX_HEADER_NAME: usize = 32;

/// One place where a request may carry its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The whole value of a header field.
    Header(HeaderName),
    /// The token of `Authorization: Bearer`.
    Bearer,
    /// The whole base64 of `Authorization: Basic`.
    Basic,
}

/// A header field's name in lower case, 1 to 32 bytes of RFC 9110's `token`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderName(String);

impl HeaderName {
    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // RFC 9110 section 5.6.2: tchar.
        let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || !text.bytes().all(is_tchar) {
            return Err(format!(
                "`{text}` is not a header's name: letters, digits and hyphens, like \"x-api-key\""
            ));
        }
        if text.len() > MAX_HEADER_NAME {
            return Err(format!(
                "the header name `{text}` is too long: at most {MAX_HEADER_NAME} bytes"
            ));
        }
        let name = text.to_ascii_lowercase();
        let dashed = name.replace('_', "-");
        if ["content-length", "transfer-encoding", "authorization"].contains(&dashed.as_str()) {
            return Err(match dashed.as_str() {
                "authorization" => {
                    "`header:authorization` is read as \"bearer\" or \"basic\": use those"
                        .to_owned()
                }
                _ => format!("the header `{name}` frames the message and cannot be a key"),
            });
        }
        Ok(Self(name))
    }
}

impl Source {
    /// Whether both mean the same. The scanner takes `_` for `-` in names, as many servers do,
    /// so that none of the two is a way around.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Header(a), Self::Header(b)) => a.0.replace('_', "-") == b.0.replace('_', "-"),
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
            _ => match text.strip_prefix("header:") {
                Some(name) => name.parse().map(Self::Header),
                None => Err(format!(
                    "`{text}` is not a source: \"header:NAME\", \"bearer\" or \"basic\"{}",
                    did_you_mean(text, ["header:", "bearer", "basic"])
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
        let message = "`identify.sources` is empty: name at least one, like [\"header:x-api-key\"]";
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
                            "`{}`: at most {MAX_HEADER_SOURCES} header sources",
                            entry.path
                        ),
                    );
                }
            }
        }
    }
    sources
}
