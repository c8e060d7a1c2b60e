// SPDX-License-Identifier: MIT OR Apache-2.0

//! The slots of a cluster.

use crate::account::Bucket;

/// The number of slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Returns the slot of a bucket.
pub(super) fn slot(bucket: Bucket) -> u16 {
    let tag = bucket.to_string();
    slot_of_tag(tag.trim_start_matches('{').trim_end_matches('}'))
}

/// Returns the slot of the keys of the fleet.
pub(super) fn slot_of_fleet() -> u16 {
    slot_of_tag("fleet")
}

/// Returns the slot of a hash tag, which is its CRC16 modulo 16,384 (Redis cluster specification,
/// "Key distribution model" and "Hash tags").
fn slot_of_tag(tag: &str) -> u16 {
    crc16(tag.as_bytes()) % SLOTS
}

/// Returns the CRC-16/XMODEM of `bytes`.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let carry = crc & 0x8000 != 0;
            (crc << 1) ^ if carry { 0x1021 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        // The value is given in appendix A of the cluster specification.
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn buckets_are_spread_over_the_slots() {
        let mut thirds = [0; 3];
        for bucket in Bucket::all() {
            thirds[usize::from(slot(bucket) / (SLOTS / 3 + 1))] += 1;
        }
        assert!(thirds.iter().all(|&buckets| buckets > 64), "{thirds:?}");
    }
}
