// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compares the scanner with a parser. The scanner must find at least the requests and the keys
//! that the parser finds.

use limiter_common::http::{Rules, Source};
use limiter_common::siphash::siphash128;

use super::drive::{Direction, Event, MAX_HEAD, MAX_LINES, SECRET};

/// The sources in which applications look for a key in these tests. The rank of a source is its
/// position, counted from one.
const SOURCES: [Source<'static>; 3] = [Source::Header("x-api-key"), Source::Bearer, Source::Basic];

/// The names and values of fields, as a parser returns them.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A request that a parser has found.
#[derive(Clone)]
pub struct ParsedRequest {
    /// The number of bytes that the parser had been given when it returned the request.
    pub end: usize,
    pub fields: Fields,
}

impl std::fmt::Debug for ParsedRequest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "until {}", self.end)?;
        for (name, value) in &self.fields {
            write!(out, ", {}: {}", name.escape_ascii(), value.escape_ascii())?;
        }
        Ok(())
    }
}

/// A key: the rank of its source, and its hash.
type Digest = (u32, [u64; 2]);

/// The part of a stream that the scanner forwards.
#[derive(Debug)]
pub struct Forwarded {
    /// The end and the key of each head.
    pub heads: Vec<(usize, Option<Digest>)>,
    /// The offset of the first byte that is not forwarded.
    pub stop: Option<usize>,
    /// The offset from which all bytes are forwarded as HTTP/2.
    pub http2: Option<usize>,
}

fn direction() -> Direction {
    Direction::requests(Rules::request(&SOURCES, SECRET, MAX_HEAD, MAX_LINES).expect("sources"))
}

/// Returns the events of `bytes`, which arrive in segments that end at `cuts`.
pub fn seen(bytes: &[u8], cuts: &[usize]) -> Vec<Event> {
    let long = (1..)
        .map(|part| part * 65_000)
        .take_while(|&cut| cut < bytes.len());
    let mut cuts: Vec<usize> = cuts.iter().copied().chain(long).collect();
    cuts.sort_unstable();
    direction().cut(bytes, &cuts).to_vec()
}

/// Returns the part of `bytes` that the scanner forwards.
pub fn passed(bytes: &[u8]) -> Forwarded {
    let seen = seen(bytes, &[]);
    let heads = seen.iter().filter_map(|seen| match seen {
        Event::Head { to, key, .. } => Some((*to as usize, *key)),
        _ => None,
    });
    let mut passed = Forwarded {
        heads: heads.collect(),
        stop: None,
        http2: None,
    };
    if let Some(&end @ (Event::Malformed | Event::Http2)) = seen.last() {
        // This is a binary search for the byte that causes the event `end`, which is the last byte
        // of the shortest prefix with this event.
        let (mut fine, mut ended) = (0, bytes.len());
        while ended - fine > 1 {
            let middle = fine.midpoint(ended);
            let there = self::seen(&bytes[..middle], &[]).last() == Some(&end);
            (fine, ended) = if there {
                (fine, middle)
            } else {
                (middle, ended)
            };
        }
        match end {
            Event::Http2 => passed.http2 = Some(fine),
            _ => passed.stop = Some(fine),
        }
    }
    passed
}

/// Checks that the scanner finds each request in `asked` that is in the forwarded bytes, with the
/// key that the application will find. Returns the number of these requests.
pub fn check(bytes: &[u8], asked: &[ParsedRequest]) -> Result<usize, String> {
    let passed = passed(bytes);
    let mut agreed = 0;
    for asked in asked {
        if passed.stop.is_some_and(|stop| asked.end > stop) {
            break;
        }
        // h11 reads the first half of the HTTP/2 preface as a request. This is harmless, because
        // that request has no key and asks for no resource, and the scanner accepts nothing but the
        // other half after it.
        if bytes[..asked.end].trim_ascii_end() == b"PRI * HTTP/2.0" {
            continue;
        }
        let disagreement = |what: &str| Err(format!("{what}: {asked:?}; we: {passed:?}"));
        if passed.http2.is_some_and(|from| asked.end > from) {
            return disagreement("a request in what was taken for HTTP/2");
        }
        let Some((_, key)) = passed.heads.iter().find(|(end, _)| *end == asked.end) else {
            return disagreement("a request that was not seen");
        };
        let digest = |key: &str| siphash128(SECRET, key.as_bytes());
        for found in keys(&asked.fields) {
            if *key != found.map(|(rank, key)| (rank, digest(&key))) {
                return disagreement("another key");
            }
        }
        agreed += 1;
    }
    Ok(agreed)
}

/// Returns the keys that applications may find in `fields`, each with the rank of its source. An
/// application may use the first or the last value of a field, and may decode it as ISO 8859-1 or
/// as UTF-8. If there is no key, the list consists of a single `None`.
pub fn keys(fields: &Fields) -> Vec<Option<(u32, String)>> {
    let named = |wanted: &str| -> Vec<String> {
        let fields = fields.iter().filter(|(name, _)| name_of(name) == wanted);
        let values: Vec<&[u8]> = fields
            .map(|(_, value)| value.as_slice())
            .filter(|value| !trimmed(&latin(value)).is_empty())
            .collect();
        let ends = values.first().into_iter().chain(values.last());
        ends.flat_map(|value| [latin(value), String::from_utf8_lossy(value).into_owned()])
            .collect()
    };
    let header = named("x-api-key");
    if !header.is_empty() {
        return header
            .iter()
            .map(|value| Some((1, trimmed(value).to_owned())))
            .collect();
    }
    let credentials = named("authorization");
    if credentials.is_empty() {
        return vec![None];
    }
    let keys = credentials.iter().map(|value| {
        let (scheme, rest) = trimmed(value).split_once(is_blank)?;
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some((2, trimmed(rest).to_owned())),
            "basic" => Some((3, trimmed(rest).to_owned())),
            _ => None,
        }
    });
    keys.collect()
}

/// Returns `name` in lower case, with `-` in place of each character that is not an ASCII letter or
/// digit. Servers that turn field names into variables cannot distinguish two names with the same
/// result.
pub fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
        .replace(|char: char| !char.is_ascii_alphanumeric(), "-")
}

/// Decodes `name`, removes the blanks around it, and folds it as [`folded`] does.
fn name_of(name: &[u8]) -> String {
    folded(trimmed(&latin(name)))
}

/// Decodes ISO 8859-1.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// Returns whether Python, JavaScript or Go treats `char` as a blank. Their sets of blanks differ,
/// and each set is larger than that of HTTP.
const fn is_blank(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\x1c'..='\x1f' | '\0' | '\u{feff}')
}
