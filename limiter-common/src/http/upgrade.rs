// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the protocols in the field `Upgrade` (RFC 9110, section 7.8).

use super::{
    MODE_FIELD, Progress, SEEN_UPGRADE, SEEN_UPGRADE_HTTP, Scan,
    segment::NO_OFFER,
    value::is_blank,
    word::{each, low_bytes, text},
};

/// The byte that overwrites the first byte of an offer of HTTP/2 or TLS, so that the server does
/// not recognize the offer. No known protocol name begins with this byte.
pub const TAKEN_OUT: u8 = b'-';

/// Reads a byte of the value.
#[inline(always)]
pub(super) fn byte(scan: &mut Scan) -> bool {
    let at = scan.value;
    if at >= scan.value_end {
        scan.state.mode = MODE_FIELD;
        return false;
    }
    scan.value = at + 1;
    let word = scan.word(at);
    if names_http(word | each(0x20)) {
        // The offset is kept only if there is a single offer, because the programs can remove only
        // one.
        scan.offer = if scan.state.seen & SEEN_UPGRADE_HTTP == 0 {
            scan.offset(at)
        } else {
            NO_OFFER
        };
        scan.state.seen |= SEEN_UPGRADE_HTTP;
    } else if is_between(scan.byte(at.wrapping_sub(1)))
        && !is_between(word as u8)
        && word as u8 != TAKEN_OUT
    {
        scan.state.seen |= SEEN_UPGRADE;
    }
    false
}

/// Returns whether `byte` can precede the name of a protocol.
#[inline(always)]
const fn is_between(byte: u8) -> bool {
    byte == b',' || byte == b':' || is_blank(byte)
}

/// Returns whether `word`, which is in lower case, begins with the name of another kind of HTTP:
/// `h2c` or one of its drafts, `HTTP/2.0`, or `TLS/1.0`, which stands for HTTP within TLS (RFC
/// 2817). The caller tests each position in the value, because servers differ in how they look for
/// these names.
#[inline(always)]
const fn names_http(word: u64) -> bool {
    word & low_bytes(2) == text(b"h2")
        || word & low_bytes(3) == text(b"tls")
        || word & low_bytes(4) == text(b"http")
}

impl Progress {
    /// Returns whether the request offers to continue in another kind of HTTP.
    #[inline(always)]
    #[must_use]
    pub const fn offers_http(&self) -> bool {
        self.seen & SEEN_UPGRADE_HTTP != 0
    }

    /// Forgets the offer of another kind of HTTP, which has been removed from the segment. The
    /// state is then as if [`TAKEN_OUT`] had been read in place of the first byte of the offer.
    #[inline(always)]
    pub fn withdraw_offer(&mut self) {
        self.seen &= !SEEN_UPGRADE_HTTP;
    }
}
