//! What it means that the scanner is no blinder than a parser.

use limiter_common::http::{Rules, Source};
use limiter_common::siphash::siphash128;

use crate::drive::{Direction, MAX_HEAD, MAX_LINES, SECRET, Seen};

/// Where applications look for a key in these tests; the rank of each is its place, from one.
const SOURCES: [Source<'static>; 3] = [Source::Header("x-api-key"), Source::Bearer, Source::Basic];

/// Names and values, as a parser tells them.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A request that a parser has seen.
#[derive(Clone)]
pub struct Asked {
    /// How many bytes the parser had been given when it told of the request.
    pub end: usize,
    pub fields: Fields,
}

impl std::fmt::Debug for Asked {
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

/// What the scanner lets by.
#[derive(Debug)]
pub struct Passed {
    /// The end of each head, and the key.
    pub heads: Vec<(usize, Option<Digest>)>,
    /// The number of the first byte that does not pass.
    pub stop: Option<usize>,
    /// From this byte on all passes, as HTTP/2.
    pub http2: Option<usize>,
}

fn direction() -> Direction {
    Direction::requests(Rules::request(&SOURCES, SECRET, MAX_HEAD, MAX_LINES).expect("sources"))
}

/// What is seen of `bytes`, cut into segments that end at `cuts`.
pub fn seen(bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let long = (1..)
        .map(|part| part * 65_000)
        .take_while(|&cut| cut < bytes.len());
    let mut cuts: Vec<usize> = cuts.iter().copied().chain(long).collect();
    cuts.sort_unstable();
    direction().cut(bytes, &cuts).to_vec()
}

/// What the scanner lets by of `bytes`.
pub fn passed(bytes: &[u8]) -> Passed {
    let seen = seen(bytes, &[]);
    let heads = seen.iter().filter_map(|seen| match seen {
        Seen::Head { to, key, .. } => Some((*to as usize, *key)),
        _ => None,
    });
    let mut passed = Passed {
        heads: heads.collect(),
        stop: None,
        http2: None,
    };
    if let Some(&end @ (Seen::Malformed | Seen::Http2)) = seen.last() {
        // The shortest beginning that is seen so; its last byte is the one.
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
            Seen::Http2 => passed.http2 = Some(fine),
            _ => passed.stop = Some(fine),
        }
    }
    passed
}

/// The rule: each request that the parser sees in the bytes that pass was seen, with the key that
/// the application will find. How many there are.
pub fn check(bytes: &[u8], asked: &[Asked]) -> Result<usize, String> {
    let passed = passed(bytes);
    let mut agreed = 0;
    for asked in asked {
        if passed.stop.is_some_and(|stop| asked.end > stop) {
            break;
        }
        // The first half of the preface is a request for h11: of nobody, for nothing. It waits for
        // the other half here, and nothing else may follow.
        if bytes[..asked.end].trim_ascii_end() == b"PRI * HTTP/2.0" {
            continue;
        }
        let told = |what: &str| Err(format!("{what}: {asked:?}; we: {passed:?}"));
        if passed.http2.is_some_and(|from| asked.end > from) {
            return told("a request in what was taken for HTTP/2");
        }
        let Some((_, key)) = passed.heads.iter().find(|(end, _)| *end == asked.end) else {
            return told("a request that was not seen");
        };
        let digest = |key: &str| siphash128(SECRET, key.as_bytes());
        for found in keys(&asked.fields) {
            if *key != found.map(|(rank, key)| (rank, digest(&key))) {
                return told("another key");
            }
        }
        agreed += 1;
    }
    Ok(agreed)
}

/// The keys that applications may find in these fields: by the first value of a field or by the
/// last, in either encoding, each with the rank of its source. One `None` if there is no key.
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

/// The name as CGI or a mapping without regard to case has it.
fn name_of(name: &[u8]) -> String {
    let name = latin(name).to_ascii_lowercase().replace('_', "-");
    trimmed(&name).to_owned()
}

/// As in ISO 8859-1.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// Python, JavaScript and Go take more for blanks than HTTP does, and not all the same.
const fn is_blank(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\x1c'..='\x1f' | '\0' | '\u{feff}')
}
