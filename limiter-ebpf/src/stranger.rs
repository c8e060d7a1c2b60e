//! Clients' packets of connections that are not followed.

use limiter_common::abi::{Config, Stranger, counter, policy};

use crate::{
    global, maps,
    skb::{NEXT, Skb, boot_ns},
    work::Work,
};

/// A packet of a connection that is not followed: refused before, or older than the program.
///
/// # Safety
/// Both point to live map values, and `work` is this CPU's.
#[inline(always)]
pub unsafe fn stranger(skb: Skb, work: *mut Work, config: *const Config) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let packet = &(*work).packet;
        let key = &raw const packet.key;
        if maps::tomb(key).is_some() {
            maps::count_by(counter::REFUSED_BYTES, u64::from(packet.len));
            return global::limiter_client_of_tomb(skb.0);
        }
        if packet.len == 0 {
            return NEXT;
        }
        let known = maps::stranger(key);
        let refuse = (*config).untracked == policy::REJECT
            || (known.is_none() && boot_ns() < maps::refuse_strangers_until_ns());
        let table_full = match known {
            Some(stranger) => (*stranger).table_full != 0,
            None => false,
        };
        if refuse && !table_full && (*config).observe == 0 {
            maps::count(counter::UNTRACKED_REFUSED);
            maps::count_by(counter::REFUSED_BYTES, u64::from(packet.len));
            return global::limiter_reset_both(skb.0);
        }
        if table_full {
            maps::count_by(counter::TABLE_FULL_BYTES, u64::from(packet.len));
            return NEXT;
        }
        if known.is_none() {
            maps::insert_stranger(key, &Stranger { table_full: 0 });
            maps::count(counter::UNTRACKED_CONNECTIONS);
        }
        maps::count(counter::UNTRACKED_SEGMENTS);
        maps::count_by(counter::UNTRACKED_BYTES, u64::from(packet.len));
        NEXT
    }
}
