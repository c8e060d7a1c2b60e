// SPDX-License-Identifier: MIT OR Apache-2.0

//! Raw keys, which limiter generates or an operator imports. They are hashed at once and are not
//! kept.

use limiter_common::abi::MAX_KEY;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// A raw key. It is wiped from memory when it is dropped, and must not be logged.
pub type RawKey = Zeroizing<String>;

/// The prefix of every generated key. People and scanners for leaked secrets recognize keys by it.
pub const PREFIX: &str = "lmt_";
/// The number of base-62 digits in the secret part. 62^43 is a little more than 2^256, so the
/// secret has 256 random bits.
const SECRET_DIGITS: usize = 43;
/// The number of base-62 digits in the checksum. 62^6 is more than 2^32, the number of values of a
/// CRC-32.
const CHECK_DIGITS: usize = 6;
/// The number of characters in a generated key.
const LENGTH: usize = PREFIX.len() + SECRET_DIGITS + CHECK_DIGITS;
/// The number of base-32 digits in the id of a key. Ten digits hold 50 bits.
const ID_DIGITS: usize = 10;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Crockford's alphabet. It omits the letters that are easily misread (i, l, o, u).
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The reason why a raw key cannot be registered. The messages never contain the key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// The key is empty.
    #[error("the key is empty")]
    Empty,
    /// The key has more bytes than the kernel programs read.
    #[error("the key has {0} bytes: a key has at most {MAX_KEY}")]
    TooLong(usize),
    /// The key has a byte that is not printable ASCII, or white space, which servers trim from the
    /// start and end of the value of a header field.
    #[error(
        "the key has white space or a byte that is not printable ASCII at position {0}: a key is one word"
    )]
    NotPrintable(usize),
    /// The key has the prefix of a generated key, but a different length.
    #[error(
        "the key begins with {PREFIX} but has {0} characters instead of {LENGTH}: a typing error is likely"
    )]
    Length(usize),
    /// The key has the prefix of a generated key, but contains a character that is neither a letter
    /// nor a digit.
    #[error(
        "the key begins with {PREFIX} but has neither a letter nor a digit at position {0}: a typing error is likely"
    )]
    Digit(usize),
    /// The key has the prefix of a generated key, but its checksum is wrong.
    #[error("the key begins with {PREFIX} but its checksum is wrong: a typing error is likely")]
    Checksum,
}

/// Generates a key with 256 random bits from the operating system.
///
/// # Errors
/// Returns an error if the system provides no random bytes.
pub fn generate() -> Result<RawKey, getrandom::Error> {
    let mut key = Zeroizing::new(String::with_capacity(LENGTH));
    key.push_str(PREFIX);
    push_random(&mut key, BASE62, SECRET_DIGITS)?;
    let check = check_digits(&key);
    key.push_str(&check);
    Ok(key)
}

/// Generates the id of a key, for example `k_7m3k9p2rtx`.
///
/// # Errors
/// Returns an error if the system provides no random bytes.
pub fn generate_id() -> Result<String, getrandom::Error> {
    let mut id = "k_".to_owned();
    push_random(&mut id, BASE32, ID_DIGITS)?;
    Ok(id)
}

/// Appends `digits` random characters of `alphabet`. If the size of the alphabet does not divide
/// 256, the highest values of a random byte are discarded. All characters are therefore equally
/// likely.
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

/// The format of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The format of generated keys, which have a prefix, a secret and a checksum.
    Limiter,
    /// Any other format, which only imported keys have.
    Other,
}

/// Checks a key that an operator imports, and returns its format.
///
/// # Errors
/// Returns an error if no request could carry the key, or if it is a generated key with a typing
/// error.
pub fn recognize(raw: &str) -> Result<Form, KeyError> {
    if raw.is_empty() {
        return Err(KeyError::Empty);
    }
    if let Some(position) = raw.bytes().position(|byte| !byte.is_ascii_graphic()) {
        return Err(KeyError::NotPrintable(position + 1));
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
    if let Some(position) = digits.bytes().position(|b| !b.is_ascii_alphanumeric()) {
        return Err(KeyError::Digit(PREFIX.len() + position + 1));
    }
    let (body, check) = raw.split_at(LENGTH - CHECK_DIGITS);
    if check_digits(body) != check {
        return Err(KeyError::Checksum);
    }
    Ok(Form::Limiter)
}

/// Checks a key like [`recognize`], but does not return the format.
///
/// # Errors
/// Returns the same errors as [`recognize`].
pub fn validate(raw: &str) -> Result<(), KeyError> {
    recognize(raw).map(drop)
}

/// Returns the CRC-32 of `body` in base 62, with the most significant digit first.
fn check_digits(body: &str) -> String {
    let mut crc = crc32(body.as_bytes());
    let mut digits = [b'0'; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(crc % 62) as usize];
        crc /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// Returns the CRC-32 of IEEE 802.3, in its reflected form with the polynomial 0xEDB88320.
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
    fn generated_keys_are_recognizable_valid_and_different() {
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
        // Every digit must occur at every position of the secret. With a mistake in the arithmetic,
        // some digits would never occur.
        let keys: Vec<RawKey> = (0..2000).map(|_| generate().expect("randomness")).collect();
        for position in PREFIX.len()..PREFIX.len() + SECRET_DIGITS {
            let seen: std::collections::HashSet<u8> =
                keys.iter().map(|key| key.as_bytes()[position]).collect();
            assert_eq!(seen.len(), 62, "at {position}");
        }
    }

    #[test]
    fn a_generated_key_with_a_typing_error_is_distinguished_from_an_unknown_key() {
        let key = generate().expect("randomness");
        for position in PREFIX.len()..key.len() {
            let mut typed: Vec<u8> = key.bytes().collect();
            typed[position] = if typed[position] == b'a' { b'b' } else { b'a' };
            let typed = String::from_utf8(typed).expect("ascii");
            assert_eq!(validate(&typed), Err(KeyError::Checksum), "at {position}");
        }
        for position in PREFIX.len()..key.len() - 1 {
            let mut typed: Vec<u8> = key.bytes().collect();
            typed.swap(position, position + 1);
            let typed = String::from_utf8(typed).expect("ascii");
            if typed != *key {
                assert_eq!(validate(&typed), Err(KeyError::Checksum), "at {position}");
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
