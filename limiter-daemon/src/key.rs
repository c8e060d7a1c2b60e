//! Raw keys: made by us or brought by the operator, hashed at once, and forgotten.

use limiter_common::abi::MAX_KEY;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// A raw key. Not `Debug`, not `Display`: it must not end up in a log.
pub type RawKey = Zeroizing<String>;

/// What every key made by us begins with, so that people and scanners for leaked secrets
/// recognize it.
pub const PREFIX: &str = "lmt_";
/// Digits of the secret part: 62^43 is a little more than 2^256.
const SECRET_DIGITS: usize = 43;
/// Digits of the checksum: 62^6 is more than the 2^32 of a CRC.
const CHECK_DIGITS: usize = 6;
/// Characters of a key made by us.
const LENGTH: usize = PREFIX.len() + SECRET_DIGITS + CHECK_DIGITS;
/// Digits of a key's id, in base 32: 50 bits.
const ID_DIGITS: usize = 10;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Without the letters that are misread (i, l, o, u), after Crockford.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Why a raw key cannot be registered. None of these shows the key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// No bytes at all.
    #[error("the key is empty")]
    Empty,
    /// More bytes than the kernel program reads.
    #[error("the key has {0} bytes: at most {MAX_KEY}")]
    TooLong(usize),
    /// A byte that cannot be in a header's value, or would be trimmed from it.
    #[error(
        "the key has white space or a byte that is not printable ASCII at place {0}: a key is one word"
    )]
    NotPrintable(usize),
    /// One of ours by its prefix, longer or shorter than they are.
    #[error(
        "the key begins with {PREFIX} but has {0} characters instead of {LENGTH}: a typing error is likely"
    )]
    Length(usize),
    /// One of ours by its prefix, with a character that none of them has.
    #[error(
        "the key begins with {PREFIX} but has neither letter nor digit at place {0}: a typing error is likely"
    )]
    Digit(usize),
    /// One of ours by its prefix, with digits that do not add up.
    #[error("the key begins with {PREFIX} but its checksum is wrong: a typing error is likely")]
    Checksum,
}

/// Makes a new key with 256 bits of the system's randomness.
///
/// # Errors
/// The system has no randomness to give.
pub fn generate() -> Result<RawKey, getrandom::Error> {
    let mut key = Zeroizing::new(String::with_capacity(LENGTH));
    key.push_str(PREFIX);
    push_random(&mut key, BASE62, SECRET_DIGITS)?;
    let check = check_digits(&key);
    key.push_str(&check);
    Ok(key)
}

/// A new key id, like `k_7m3k9p2rtx`.
///
/// # Errors
/// The system has no randomness to give.
pub fn generate_id() -> Result<String, getrandom::Error> {
    let mut id = "k_".to_owned();
    push_random(&mut id, BASE32, ID_DIGITS)?;
    Ok(id)
}

/// Appends `digits` digits, each as likely as any other: bytes beyond the last whole multiple
/// of the alphabet's size are drawn again.
fn push_random(text: &mut String, alphabet: &[u8], digits: usize) -> Result<(), getrandom::Error> {
    let limit = 256 - 256 % alphabet.len();
    let mut pool = Zeroizing::new([0u8; 64]);
    let mut missing = digits;
    while missing > 0 {
        getrandom::fill(pool.as_mut_slice())?;
        for byte in pool
            .iter()
            .map(|byte| usize::from(*byte))
            .filter(|byte| *byte < limit)
        {
            if missing == 0 {
                break;
            }
            text.push(char::from(alphabet[byte % alphabet.len()]));
            missing -= 1;
        }
    }
    Ok(())
}

/// Where a key has its form from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Made by us: prefix, secret and checksum.
    Limiter,
    /// Whatever an operator brings.
    Other,
}

/// Checks a key that an operator brings.
///
/// # Errors
/// [`KeyError`] when no request could carry it, or when it is one of ours mistyped.
pub fn recognize(raw: &str) -> Result<Form, KeyError> {
    if raw.is_empty() {
        return Err(KeyError::Empty);
    }
    if let Some(place) = raw.bytes().position(|byte| !byte.is_ascii_graphic()) {
        return Err(KeyError::NotPrintable(place + 1));
    }
    if raw.len() > MAX_KEY {
        return Err(KeyError::TooLong(raw.len()));
    }
    let Some(digits) = raw.strip_prefix(PREFIX) else {
        return Ok(Form::Other);
    };
    if raw.len() != LENGTH {
        return Err(KeyError::Length(raw.len()));
    }
    if let Some(place) = digits.bytes().position(|b| !b.is_ascii_alphanumeric()) {
        return Err(KeyError::Digit(PREFIX.len() + place + 1));
    }
    let (body, check) = raw.split_at(LENGTH - CHECK_DIGITS);
    if check_digits(body) != check {
        return Err(KeyError::Checksum);
    }
    Ok(Form::Limiter)
}

/// As [`recognize`], for those who do not care where it has its form from.
///
/// # Errors
/// As [`recognize`].
pub fn validate(raw: &str) -> Result<(), KeyError> {
    recognize(raw).map(drop)
}

/// The CRC-32 of `body` in base 62, most significant digit first.
fn check_digits(body: &str) -> String {
    let mut crc = crc32(body.as_bytes());
    let mut digits = [b'0'; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(crc % 62) as usize];
        crc /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// CRC-32 as in IEEE 802.3: reflected, polynomial 0xEDB88320.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_keys_are_recognizable_valid_and_different() {
        let (one, other) = (
            generate().expect("randomness"),
            generate().expect("randomness"),
        );
        assert_ne!(*one, *other);
        assert!(one.starts_with(PREFIX));
        assert_eq!(one.len(), 53);
        assert_eq!(recognize(&one), Ok(Form::Limiter));
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    }

    #[test]
    fn the_secret_part_has_256_bits() {
        let bits = 62f64.log2() * SECRET_DIGITS as f64;
        assert!(bits >= 256.0, "{bits}");
        // Every digit turns up at every place: none is held still by a slip of arithmetic.
        let keys: Vec<RawKey> = (0..2000).map(|_| generate().expect("randomness")).collect();
        for place in PREFIX.len()..PREFIX.len() + SECRET_DIGITS {
            let seen: std::collections::HashSet<u8> =
                keys.iter().map(|key| key.as_bytes()[place]).collect();
            assert_eq!(seen.len(), 62, "at {place}");
        }
    }

    #[test]
    fn a_mistyped_key_of_ours_is_told_from_an_unknown_one() {
        let key = generate().expect("randomness");
        for place in PREFIX.len()..key.len() {
            let mut typed: Vec<u8> = key.bytes().collect();
            typed[place] = if typed[place] == b'a' { b'b' } else { b'a' };
            let typed = String::from_utf8(typed).expect("ascii");
            assert_eq!(validate(&typed), Err(KeyError::Checksum), "at {place}");
        }
        for place in PREFIX.len()..key.len() - 1 {
            let mut typed: Vec<u8> = key.bytes().collect();
            typed.swap(place, place + 1);
            let typed = String::from_utf8(typed).expect("ascii");
            if typed != *key {
                assert_eq!(validate(&typed), Err(KeyError::Checksum), "at {place}");
            }
        }
        let shorter = &key[..52];
        assert_eq!(validate(shorter), Err(KeyError::Length(52)));
        assert_eq!(validate(&format!("{}x", &*key)), Err(KeyError::Length(54)));
        let mut dashed = key.to_string();
        dashed.replace_range(10..11, "-");
        assert_eq!(validate(&dashed), Err(KeyError::Digit(11)));
        for error in [
            KeyError::Length(52),
            KeyError::Digit(11),
            KeyError::Checksum,
        ] {
            assert!(error.to_string().contains("a typing error is likely"));
        }
        assert_eq!(recognize("theirs_1234"), Ok(Form::Other));
    }

    #[test]
    fn keys_that_no_request_can_carry_are_refused() {
        assert_eq!(validate(""), Err(KeyError::Empty));
        assert_eq!(validate("a b"), Err(KeyError::NotPrintable(2)));
        assert_eq!(validate("a\r"), Err(KeyError::NotPrintable(2)));
        assert_eq!(validate("schlüssel"), Err(KeyError::NotPrintable(5)));
        assert_eq!(validate(&"x".repeat(128)), Ok(()));
        assert_eq!(validate(&"x".repeat(129)), Err(KeyError::TooLong(129)));
    }

    #[test]
    fn the_checksum_is_the_crc_everyone_knows() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn ids_are_short() {
        let id = generate_id().expect("randomness");
        assert_eq!(id.len(), 12);
        assert!(id.starts_with("k_"));
    }
}
