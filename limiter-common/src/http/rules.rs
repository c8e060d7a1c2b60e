//! What to look for, made from configuration.

use super::{KEY_SLOTS, KEY_SOURCES, MAX_NAME, MAX_NAMES, value, word};
use crate::abi::MAX_KEY;

/// Kinds 0 to 7 of a field are the rank of a key.
const _: () = assert!(KEY_SLOTS == 8);
/// Two schemes of credentials may be keys.
pub(super) const KIND_AUTHORIZATION: u32 = 8;
/// The credentials of `Basic`: a kind that only comes of [`KIND_AUTHORIZATION`].
pub(super) const KIND_BASIC: u32 = 9;
/// The field does not matter.
pub(super) const KIND_NONE: u32 = 10;
/// `Content-Length`.
pub(super) const KIND_LENGTH: u32 = 11;
/// `Transfer-Encoding`. The last of the kinds.
pub(super) const KIND_ENCODING: u32 = 12;

/// Places in the index of names: for each length (1 to 32), and the lower five bits of the first
/// byte, in which the cases of a letter do not differ.
pub(super) const INDEX: usize = MAX_NAME << 5;

/// A rank that no source has.
pub(super) const NO_RANK: u32 = KEY_SLOTS as u32;

/// A field name to look for, as words of eight bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// 0x20 for each letter, to make it lower case, and for each `_`, to tell it from a `-` (which
    /// has this bit itself).
    pub(super) fold: [u64; MAX_NAME / 8],
    /// 0xff for each byte of the name.
    pub(super) mask: [u64; MAX_NAME / 8],
    /// The name in lower case, with dashes for underscores.
    pub(super) value: [u64; MAX_NAME / 8],
    /// `KIND_*`.
    pub(super) kind: u32,
    /// The number (from one) of a name with the same place in the index; 0: none.
    pub(super) next: u32,
}

/// What to look for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub(super) names: [Name; MAX_NAMES],
    /// The key of SipHash.
    pub(super) hash_key: [u64; 2],
    /// The number (from one) of the name to look for, by length and first byte; 0: none. Most
    /// fields are done with here.
    pub(super) index: [u8; INDEX],
    /// Most bytes of a head, start line and empty lines included.
    pub(super) max_head: u32,
    /// Most lines of a head, the empty one behind it not counted.
    pub(super) max_lines: u32,
    /// 1: responses.
    pub(super) response: u32,
    /// The rank of the token of `Bearer`; `NO_RANK`: no source.
    pub(super) bearer_rank: u32,
    /// The rank of the credentials of `Basic`; `NO_RANK`: no source.
    pub(super) basic_rank: u32,
    /// Zero.
    reserved: u32,
}

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// The value of the field of this name.
    Header(&'a str),
    /// The token of `Authorization: Bearer`.
    Bearer,
    /// The base64 of `Authorization: Basic`.
    Basic,
}

/// Why sources cannot be looked for. Numbers are positions in the list of sources, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesError {
    /// The name is empty, or has a byte that cannot be in a field name.
    NotAName(usize),
    /// The name is longer than [`MAX_NAME`].
    NameTooLong(usize),
    /// `Authorization` as a header; `bearer` and `basic` are the ways to look at it.
    Authorization(usize),
    /// A field that says where messages end cannot hold a key.
    Framing(usize),
    /// The source is in the list before, letter case and `-` or `_` making no difference.
    Repeated(usize),
    /// More headers than four.
    TooMany(usize),
}

impl core::fmt::Display for RulesError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotAName(_) => f.write_str("not a field name (letters, digits and - are safe)"),
            Self::NameTooLong(_) => write!(f, "field name longer than {MAX_NAME} bytes"),
            Self::Authorization(_) => {
                f.write_str("use \"bearer\" or \"basic\" for keys in the Authorization field")
            }
            Self::Framing(_) => f.write_str("this field says where requests end: it holds no key"),
            Self::Repeated(_) => f.write_str("the same source is listed before"),
            Self::TooMany(_) => write!(f, "more than {MAX_HEADERS} headers"),
        }
    }
}

impl core::error::Error for RulesError {}

/// The most headers that may be sources.
const MAX_HEADERS: usize = KEY_SOURCES - 2;
// With Authorization, Content-Length and Transfer-Encoding.
const _: () = assert!(MAX_HEADERS + 3 <= MAX_NAMES);

/// RFC 9110, section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

impl Name {
    /// `name`, which is at most [`MAX_NAME`] bytes long; `None` if it is no field name.
    fn new(name: &str, kind: u32) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_NAME || !bytes.iter().all(|&b| is_token(b)) {
            return None;
        }
        let mut new = Self {
            kind,
            ..Self::default()
        };
        for (i, &byte) in bytes.iter().enumerate() {
            let byte = if byte == b'_' {
                b'-'
            } else {
                byte.to_ascii_lowercase()
            };
            let (word, shift) = (i / 8, i % 8 * 8);
            new.mask[word] |= 0xff << shift;
            new.value[word] |= u64::from(byte) << shift;
            if byte.is_ascii_lowercase() || bytes[i] == b'_' {
                new.fold[word] |= 0x20 << shift;
            }
        }
        Some(new)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Rules {
    /// Whether these are the rules of responses.
    #[inline(always)]
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.response != 0
    }

    /// The secret that keys are hashed with.
    #[inline(always)]
    #[must_use]
    pub const fn secret(&self) -> &[u64; 2] {
        &self.hash_key
    }

    /// For requests whose key stands in one of `sources`, the first one that a request carries
    /// counting; hashed with `hash_key`; with heads of at most `max_head` bytes and `max_lines`
    /// lines (not counting the empty one that ends it).
    ///
    /// # Errors
    /// A source that cannot be looked for.
    pub fn request(
        sources: &[Source<'_>],
        hash_key: [u64; 2],
        max_head: u32,
        max_lines: u32,
    ) -> Result<Self, RulesError> {
        let mut rules = Self::framing(max_head, max_lines);
        rules.hash_key = hash_key;
        let mut headers = 0;
        for (i, source) in sources.iter().enumerate() {
            // Fits: no source comes twice, and there are four headers at most.
            let rank = i as u32;
            let scheme = match *source {
                Source::Bearer => &mut rules.bearer_rank,
                Source::Basic => &mut rules.basic_rank,
                Source::Header(name) => {
                    if name.len() > MAX_NAME {
                        return Err(RulesError::NameTooLong(i));
                    }
                    let name = Name::new(name, rank).ok_or(RulesError::NotAName(i))?;
                    if authorization().is_same(&name) {
                        return Err(RulesError::Authorization(i));
                    }
                    if let Some(known) = rules.names.iter().find(|known| known.is_same(&name)) {
                        return Err(
                            if known.kind == KIND_LENGTH || known.kind == KIND_ENCODING {
                                RulesError::Framing(i)
                            } else {
                                RulesError::Repeated(i)
                            },
                        );
                    }
                    headers += 1;
                    if headers > MAX_HEADERS {
                        return Err(RulesError::TooMany(i));
                    }
                    rules.add(name);
                    continue;
                }
            };
            if *scheme != NO_RANK {
                return Err(RulesError::Repeated(i));
            }
            *scheme = rank;
        }
        if rules.bearer_rank != NO_RANK || rules.basic_rank != NO_RANK {
            rules.add(authorization());
        }
        Ok(rules)
    }

    /// For responses. Their limits are wide: they are not what clients could do harm with, and one
    /// that cannot be followed holds its slot until the connection ends.
    #[must_use]
    pub fn response() -> Self {
        let mut rules = Self::framing(1 << 20, 1 << 16);
        rules.response = 1;
        rules
    }

    /// What all messages have.
    fn framing(max_head: u32, max_lines: u32) -> Self {
        let mut rules = Self {
            names: [Name::default(); MAX_NAMES],
            index: [0; INDEX],
            hash_key: [0; 2],
            max_head,
            max_lines,
            response: 0,
            bearer_rank: NO_RANK,
            basic_rank: NO_RANK,
            reserved: 0,
        };
        for (name, kind) in [
            ("content-length", KIND_LENGTH),
            ("transfer-encoding", KIND_ENCODING),
        ] {
            if let Some(name) = Name::new(name, kind) {
                rules.add(name);
            }
        }
        rules
    }

    fn add(&mut self, mut name: Name) {
        let Some(slot) = self.names.iter().position(|known| known.value[0] == 0) else {
            return;
        };
        let length: u32 = name.mask.iter().map(|mask| mask.count_ones() / 8).sum();
        let number = slot as u8 + 1;
        let place = (length as usize - 1) << 5;
        let index = place | (name.value[0] & 31) as usize;
        name.next = u32::from(self.index[index]);
        self.index[index] = number;
        if name.value[0] as u8 == b'-' {
            // The other spelling of a dash. Nothing else has this place: no name begins so.
            self.index[place | (b'_' & 31) as usize] = number;
        }
        self.names[slot] = name;
    }
}

fn authorization() -> Name {
    Name::new("authorization", KIND_AUTHORIZATION).unwrap_or_default()
}

/// Whether these bytes can be a key: 1 to [`MAX_KEY`] bytes of visible ASCII. A request with others
/// in a key's place is malformed.
#[must_use]
pub fn is_key(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len() <= MAX_KEY && bytes.iter().all(u8::is_ascii_graphic)
}

/// Whether these bytes can be the key of `Authorization: Basic`: canonical base64 (RFC 4648,
/// sections 3.5 and 4).
#[must_use]
pub fn is_basic(bytes: &[u8]) -> bool {
    if !is_key(bytes) || !bytes.len().is_multiple_of(4) {
        return false;
    }
    let at = |back: usize| bytes[bytes.len() - back];
    let padding = value::padding(at(1), at(2), at(3)) as usize;
    padding <= 2
        && bytes[..bytes.len() - padding]
            .iter()
            .all(|&byte| word::is_base64(word::each(byte)))
}
