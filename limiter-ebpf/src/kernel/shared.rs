// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Handles to map values that several CPUs read and change without a lock.
//!
//! No reference to such a value exists. Each method reads or writes one field in a single access. A
//! field that several CPUs change, and whose changes must not be lost, is a [`Word`] with atomic
//! operations.

use limiter_common::{
    abi::{
        Client, KeyEntry, Lease, Limits, Link, RefusedClient, ScopeState, Tomb, UntrackedConnection,
    },
    day::DayCount,
    gcra::Rate,
    seq::Seq,
};

use crate::kernel::{
    atomic::Word,
    verifier::{copy_words, masked},
};

/// Defines a handle for a type. The `fields` can be read and, if a setter is named, written. The
/// `words` can be changed atomically.
macro_rules! shared {
    (
        $(#[$doc:meta])* $name:ident of $value:ty;
        fields { $($field:ident: $type:ty $(, $set:ident)?;)* }
        words { $($word:ident;)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name(*mut $value);

        impl $name {
            /// # Safety
            /// `value` is a map value that the kernel has passed to this run of the program, and no
            /// reference to it exists. It stays valid until the run ends, because the kernel frees
            /// map values after a grace period of RCU.
            #[inline(always)]
            pub(super) unsafe fn at(value: *mut $value) -> Self {
                Self(value)
            }

            $(
                #[inline(always)]
                pub fn $field(self) -> $type {
                    // SAFETY: the callers of `at` pass live map values.
                    unsafe { (&raw const (*self.0).$field).read_volatile() }
                }

                $(
                    #[inline(always)]
                    pub fn $set(self, value: $type) {
                        // SAFETY: the callers of `at` pass live map values.
                        unsafe { (&raw mut (*self.0).$field).write_volatile(value) };
                    }
                )?
            )*

            $(
                #[inline(always)]
                pub fn $word(self) -> Word {
                    // SAFETY: the callers of `at` pass live map values.
                    unsafe { Word::at(&raw mut (*self.0).$word) }
                }
            )*
        }
    };
}

shared! {
    /// The limits of a scope, which the daemon writes word by word.
    ScopeLimits of Limits;
    fields {
        daily_quota: u64;
        interval_ns: u64;
        tolerance_ns: u64;
        concurrency: u64;
        connections: u64;
        flags: u32;
        text_set: u32;
        ahead: u32;
        until_s: u32;
    }
    words { allowed; }
}

impl ScopeLimits {
    #[inline(always)]
    pub fn rate(self) -> Rate {
        Rate {
            interval_ns: self.interval_ns(),
            tolerance_ns: self.tolerance_ns(),
        }
    }

    /// Returns the day of the allowance, and the count up to which the store has recorded requests
    /// in advance on that day.
    #[inline(always)]
    pub fn allowance(self) -> DayCount {
        DayCount(self.allowed().load())
    }

    /// Sets the limits of a scope that does not have a key yet.
    #[inline(always)]
    pub fn set(self, limits: &Limits) {
        // SAFETY: the callers of `at` pass live map values. While a scope has no key, only the
        // daemon could look at its limits, and the daemon reads them word by word.
        unsafe { *self.0 = *limits };
    }
}

shared! {
    /// The part of a scope's daily quota that this host may use. The daemon writes it word by word.
    ScopeLease of Lease;
    fields {
        current: u64;
        next: u64;
        refused_until_ns: u64;
    }
    words {}
}

shared! {
    /// The counts of a scope.
    ScopeCounts of ScopeState;
    fields {}
    words {
        tat_ns;
        day_count;
        in_flight;
        connections;
        admitted;
        recount;
        recounted_in_flight;
        recounted_connections;
    }
}

impl ScopeCounts {
    /// Returns the word that counts the requests of the scope that were refused for `reason`, which
    /// must be one of the limits (less than `reason::LIMITS`).
    #[inline(always)]
    pub fn refused(self, reason: u32) -> Word {
        // SAFETY: the callers of `at` pass live map values, and the mask keeps the index below the
        // length of the array.
        unsafe {
            let counts = (&raw mut (*self.0).refused).cast::<u64>();
            Word::at(counts.add(masked::<3>(reason)))
        }
    }

    /// Returns the word that counts the requests that observe mode has admitted, but that would
    /// otherwise have been refused for `reason`, which must be one of the limits (less than
    /// `reason::LIMITS`).
    #[inline(always)]
    pub fn would_refuse(self, reason: u32) -> Word {
        // SAFETY: the callers of `at` pass live map values, and the mask keeps the index below the
        // length of the array.
        unsafe {
            let counts = (&raw mut (*self.0).would_refuse).cast::<u64>();
            Word::at(counts.add(masked::<3>(reason)))
        }
    }
}

const _: () = assert!(
    limiter_common::abi::reason::LIMITS == 4,
    "the masks in `ScopeCounts`"
);

shared! {
    /// A registered or adopted key.
    Key of KeyEntry;
    fields { scope: u32; flags: u32; }
    words { last_used_ns; }
}

shared! {
    /// An untracked connection.
    Untracked of UntrackedConnection;
    fields { kind: u32; flags: u32, set_flags; last_seen_ns: u64, set_last_seen_ns; }
    words {}
}

impl Untracked {
    /// Sets a flag. Another CPU that sets a different flag at the same time may undo the change,
    /// and the next packet of the connection then sets the flag again.
    #[inline(always)]
    pub fn add_flag(self, flag: u32) {
        self.set_flags(self.flags() | flag);
    }
}

shared! {
    /// The number of flows of a client's address.
    ClientFlows of Client;
    fields {}
    words { census; flows; }
}

shared! {
    /// The refusals of a client's address. Two CPUs may change them at the same time, in which case
    /// one of the changes may be lost.
    ClientRefusals of RefusedClient;
    fields {
        refused_ns: u64, set_refused_ns;
        kept_ns: u64, set_kept_ns;
    }
    words {}
}

shared! {
    /// The tombstone of a refused connection. Two CPUs may work on one tombstone at the same time,
    /// which is harmless (see `refuse/tomb.rs`).
    SharedTomb of Tomb;
    fields {
        response_start: Seq;
        response_end: Seq;
        client_next: Seq, set_client_next;
        server_next: Seq, set_server_next;
        server_expects: Seq;
        tsval: u32, set_tsval;
        flags: u32, set_flags;
        link: Link;
        client_start: Seq;
        client_tsval: u32;
        ended_ns: u64;
    }
    words {}
}

impl SharedTomb {
    #[inline(always)]
    pub fn has(self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    #[inline(always)]
    pub fn add_flag(self, flag: u32) {
        self.set_flags(self.flags() | flag);
    }

    #[inline(always)]
    pub fn remove_flag(self, flag: u32) {
        self.set_flags(self.flags() & !flag);
    }

    /// Copies the tombstone word by word.
    #[inline(always)]
    pub fn copy_to(self, copy: &mut Tomb) {
        // SAFETY: the callers of `at` pass live map values, and tombstones consist of words.
        unsafe { copy_words(copy, self.0) };
    }
}
