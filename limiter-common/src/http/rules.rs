// SPDX-License-Identifier: MIT OR Apache-2.0

//! The rules for scanning, which are derived from the configuration.

use super::{KEY_SLOTS, KEY_SOURCES, MAX_NAME, MAX_NAMES, stream, word};
use crate::abi::MAX_KEY;

/// The kinds 0 to 7 of a field are the ranks of the sources of keys.
const _: () = assert!(KEY_SLOTS == 8);
/// The field is `Authorization`, in which two schemes may hold keys.
pub(super) const KIND_AUTHORIZATION: u32 = 8;
/// The credentials of `Basic`. A field of kind [`KIND_AUTHORIZATION`] gets this kind if its scheme
/// is `Basic`.
pub(super) const KIND_BASIC: u32 = 9;
/// The field does not matter.
pub(super) const KIND_NONE: u32 = 10;
/// The field is `Content-Length`.
pub(super) const KIND_LENGTH: u32 = 11;
/// The field is `Transfer-Encoding`.
pub(super) const KIND_ENCODING: u32 = 12;
/// The field is `Upgrade`. For the kinds above this one, only the presence of the field is noted.
pub(super) const KIND_UPGRADE: u32 = 13;
/// The field is `Origin`.
pub(super) const KIND_ORIGIN: u32 = 14;
/// The field is `Access-Control-Request-Method`.
pub(super) const KIND_REQUEST_METHOD: u32 = 15;
/// The field is `Expect`.
pub(super) const KIND_EXPECT: u32 = 16;
/// The field is `Connection`. This is the last of the kinds.
pub(super) const KIND_CONNECTION: u32 = 17;

/// The number of entries in the index of names. There is one entry for each combination of a length
/// (1 to 32) and a value of the lowest five bits of the first byte. These bits are the same in the
/// upper and the lower case of a letter.
pub(super) const INDEX: usize = MAX_NAME << 5;

/// A rank that no source has.
pub(super) const NO_RANK: u32 = KEY_SLOTS as u32;

/// A field name to look for, in words of eight bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// A mask with 0x20 for each letter, which turns the letter into lower case.
    pub(super) fold: [u64; MAX_NAME / 8],
    /// A mask with 0xff for each letter and digit.
    pub(super) letters: [u64; MAX_NAME / 8],
    /// A mask with 0xff for each other byte of the name.
    pub(super) others: [u64; MAX_NAME / 8],
    /// The name in lower case.
    pub(super) value: [u64; MAX_NAME / 8],
    /// The kind of the field, one of `KIND_*`.
    pub(super) kind: u32,
    /// The number (counted from one) of the next name in the same entry of the index; 0 if there is
    /// none.
    pub(super) next: u32,
}

/// The rules for one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub(super) names: [Name; MAX_NAMES],
    /// The secret for hashing keys with SipHash.
    pub(super) hash_key: [u64; 2],
    /// For each entry of the index (see [`INDEX`]), the number (counted from one) of its first
    /// configured name; 0 if the entry has no name. The names of most fields in messages belong to
    /// entries without a name, and need no further check.
    pub(super) index: [u8; INDEX],
    /// The maximum size of a head in bytes, including the start line and the empty lines before it.
    pub(super) max_head: u32,
    /// The maximum number of lines in a head, not counting the empty line at the end.
    pub(super) max_lines: u32,
    /// 1 if the rules are for responses.
    pub(super) response: u32,
    /// The rank of the token of `Bearer`; `NO_RANK` if it is not a source.
    pub(super) bearer_rank: u32,
    /// The rank of the credentials of `Basic`; `NO_RANK` if they are not a source.
    pub(super) basic_rank: u32,
    /// The rank of the user name in `Basic`; `NO_RANK` if it is not a source.
    pub(super) user_rank: u32,
}

/// A place where a key can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// The value of the field with this name.
    Header(&'a str),
    /// The token of `Authorization: Bearer`.
    Bearer,
    /// The base64 string in `Authorization: Basic`.
    Basic,
    /// The user name in the decoded base64 string in `Authorization: Basic` (RFC 7617, section 2).
    /// The user name ends at the first colon.
    BasicUser,
}

/// The reason why the scanner cannot use a source. The number is the position of the source in the
/// list, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesError {
    /// The name is empty, or has a byte that cannot be in a field name.
    NotAName(usize),
    /// The name is longer than [`MAX_NAME`].
    NameTooLong(usize),
    /// `Authorization` is listed as a header. Its keys are found with `bearer`, `basic` and
    /// `basic-user`.
    Authorization(usize),
    /// The field affects where messages end or what follows them, and therefore cannot hold a key.
    Framing(usize),
    /// The source is in the list already. Names are the same if they differ only in the case of
    /// letters, or in bytes that are neither letters nor digits.
    Repeated(usize),
    /// There are more than four headers.
    TooMany(usize),
}

impl core::fmt::Display for RulesError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotAName(_) => f.write_str("not a field name (letters, digits and - are safe)"),
            Self::NameTooLong(_) => write!(f, "field name longer than {MAX_NAME} bytes"),
            Self::Authorization(_) => {
                f.write_str("use \"bearer\", \"basic\" or \"basic-user\" for keys in Authorization")
            }
            Self::Framing(_) => f.write_str(
                "this field decides where requests end or what follows, and holds no key",
            ),
            Self::Repeated(_) => f.write_str("the same source is already listed"),
            Self::TooMany(_) => write!(f, "more than {MAX_HEADERS} headers"),
        }
    }
}

impl core::error::Error for RulesError {}

/// The maximum number of header fields that can be sources.
const MAX_HEADERS: usize = KEY_SOURCES - 3;
// The other eight names are `Authorization`, `Content-Length`, `Transfer-Encoding`, `Connection`,
// `Upgrade`, `Expect`, and the names of the two fields of preflights.
const _: () = assert!(MAX_HEADERS + 8 <= MAX_NAMES);

/// Returns whether `byte` can be part of a token (RFC 9110, section 5.6.2).
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
    /// Returns the name `name` for a field of the kind `kind`, or `None` if `name` is not a valid
    /// field name or is longer than [`MAX_NAME`] bytes.
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
            let (word, shift) = (i / 8, i % 8 * 8);
            new.value[word] |= u64::from(byte.to_ascii_lowercase()) << shift;
            if byte.is_ascii_alphanumeric() {
                new.letters[word] |= 0xff << shift;
            } else {
                new.others[word] |= 0xff << shift;
            }
            if byte.is_ascii_alphabetic() {
                new.fold[word] |= 0x20 << shift;
            }
        }
        Some(new)
    }

    /// Returns whether both names match the same fields.
    fn is_same(&self, other: &Self) -> bool {
        let differ = |i: usize| (self.value[i] ^ other.value[i]) & self.letters[i];
        self.letters == other.letters
            && self.others == other.others
            && (0..MAX_NAME / 8).all(|i| differ(i) == 0)
    }

    fn is_empty(&self) -> bool {
        self.value[0] == 0
    }

    fn len(&self) -> usize {
        let bytes = |words: &[u64]| -> u32 { words.iter().map(|word| word.count_ones() / 8).sum() };
        (bytes(&self.letters) + bytes(&self.others)) as usize
    }
}

impl Rules {
    /// Returns whether these rules are for responses.
    #[inline(always)]
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.response != 0
    }

    /// Returns the secret for hashing keys.
    #[inline(always)]
    #[must_use]
    pub const fn secret(&self) -> &[u64; 2] {
        &self.hash_key
    }

    /// Returns the rules for requests. `sources` are in the order in which they count, and keys are
    /// hashed with `hash_key`. A head may have at most `max_head` bytes and `max_lines` lines (not
    /// counting the empty line at the end).
    ///
    /// # Errors
    /// Returns an error if one of the sources cannot be used.
    pub fn request(
        sources: &[Source<'_>],
        hash_key: [u64; 2],
        max_head: u32,
        max_lines: u32,
    ) -> Result<Self, RulesError> {
        let mut rules = Self::framing(max_head, max_lines);
        rules.hash_key = hash_key;
        for (name, kind) in [("connection", KIND_CONNECTION), ("expect", KIND_EXPECT)] {
            if let Some(name) = Name::new(name, kind) {
                rules.add(name);
            }
        }
        let mut headers = 0;
        for (i, source) in sources.iter().enumerate() {
            // Every rank is below `KEY_SOURCES`, because no source is listed twice and there are at
            // most four headers.
            let rank = i as u32;
            let scheme = match *source {
                Source::Bearer => &mut rules.bearer_rank,
                Source::Basic => &mut rules.basic_rank,
                Source::BasicUser => &mut rules.user_rank,
                Source::Header(name) => {
                    if name.len() > MAX_NAME {
                        return Err(RulesError::NameTooLong(i));
                    }
                    let name = Name::new(name, rank).ok_or(RulesError::NotAName(i))?;
                    if authorization().is_same(&name) {
                        return Err(RulesError::Authorization(i));
                    }
                    if let Some(known) = rules.names.iter().find(|known| known.is_same(&name)) {
                        return Err(if known.kind >= KIND_LENGTH {
                            RulesError::Framing(i)
                        } else {
                            RulesError::Repeated(i)
                        });
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
        let ranks = [rules.bearer_rank, rules.basic_rank, rules.user_rank];
        if ranks.iter().any(|&rank| rank != NO_RANK) {
            rules.add(authorization());
        }
        Ok(rules)
    }

    /// Returns the same rules, extended to detect CORS preflights ([`super::is_preflight`]).
    #[must_use]
    pub fn with_preflights(mut self) -> Self {
        for (name, kind) in [
            ("origin", KIND_ORIGIN),
            ("access-control-request-method", KIND_REQUEST_METHOD),
        ] {
            // If the field is already a source of keys, it is not added, because a request with the
            // field has a key, and preflights have no key.
            if let Some(name) = Name::new(name, kind)
                && !self.names.iter().any(|known| known.is_same(&name))
            {
                self.add(name);
            }
        }
        self
    }

    /// Returns the rules for responses. The limits of the head are high, because clients do not
    /// control responses, and because a response that cannot be followed holds its slot until the
    /// connection ends.
    #[must_use]
    pub fn response() -> Self {
        let mut rules = Self::framing(1 << 20, 1 << 16);
        rules.response = 1;
        rules
    }

    /// Returns the rules that requests and responses share.
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
            user_rank: NO_RANK,
        };
        for (name, kind) in [
            ("content-length", KIND_LENGTH),
            ("transfer-encoding", KIND_ENCODING),
            ("upgrade", KIND_UPGRADE),
        ] {
            if let Some(name) = Name::new(name, kind) {
                rules.add(name);
            }
        }
        rules
    }

    /// Adds `name`. Names in the same entry of the index are chained.
    fn add(&mut self, mut name: Name) {
        let Some(slot) = self.names.iter().position(Name::is_empty) else {
            return;
        };
        let number = slot as u8 + 1;
        let place = (name.len() - 1) << 5;
        let first = name.value[0] as u8;
        if first.is_ascii_alphanumeric() {
            let index = place | usize::from(first & 31);
            name.next = u32::from(self.index[index]);
            self.index[index] = number;
            self.names[slot] = name;
            return;
        }
        self.names[slot] = name;
        // The name must also be found if it is spelled with another first byte that is neither a
        // letter nor a digit. Therefore the name is also added at the end of the chain of each such
        // byte.
        for byte in (b'!'..=b'~').filter(|byte| !byte.is_ascii_alphanumeric() && *byte != b':') {
            let index = place | usize::from(byte & 31);
            if self.index[index] == 0 {
                self.index[index] = number;
                continue;
            }
            let mut last = usize::from(self.index[index]) - 1;
            while self.names[last].next != 0 {
                last = self.names[last].next as usize - 1;
            }
            if last != slot {
                self.names[last].next = u32::from(number);
            }
        }
    }
}

fn authorization() -> Name {
    Name::new("authorization", KIND_AUTHORIZATION).unwrap_or_default()
}

/// Returns whether `bytes` can be a key, which means that there are 1 to [`MAX_KEY`] bytes of
/// visible ASCII. A request with other bytes in place of a key is malformed, and a longer key is an
/// unknown key.
#[must_use]
pub fn is_key(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len() <= MAX_KEY && bytes.iter().all(u8::is_ascii_graphic)
}

/// Returns whether `bytes` can be the key of `Authorization: Basic`, which must be canonical base64
/// (RFC 4648, sections 3.5 and 4).
#[must_use]
pub fn is_basic(bytes: &[u8]) -> bool {
    if !is_key(bytes) || !bytes.len().is_multiple_of(4) {
        return false;
    }
    let (groups, last) = bytes.split_at(bytes.len() - 4);
    let last = word::text(last);
    let padding = stream::padding(last, 4);
    let digits = stream::without_padding(last, 4 - padding);
    groups.iter().all(|&byte| word::is_base64(word::each(byte)))
        && word::is_base64(digits)
        && stream::is_canonical(word::from_base64(digits), 3 - padding)
}
