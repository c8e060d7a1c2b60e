// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Flows in the table: an entry that was found, and the guard of an entry whose lock is held.

use core::{
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
};

use limiter_common::{
    abi::{Flow, FlowEntry, FlowKey, Link, REQUESTS, RESPONSES, UnfinishedKey, counter},
    flow::Idle,
    seq::Seq,
};

use crate::kernel::{atomic::Word, global::global, maps, work::Work};

global! {
    /// Removes the unfinished heads and lines of the packet's flow.
    pub fn limiter_remove_unfinished(work;) -> () = remove_unfinished_of_packet, or ();
}

/// A flow that was found in the table and is not locked. Other CPUs may change it, and may reuse
/// its entry for another connection. Fields are read one by one, each in a single access.
#[derive(Clone, Copy)]
pub struct FoundFlow(*mut FlowEntry);

macro_rules! fields {
    ($($field:ident: $type:ty;)*) => {
        $(
            #[inline(always)]
            pub fn $field(self) -> $type {
                // SAFETY: the callers of `at` pass live map values.
                unsafe { (&raw const (*self.0).flow.$field).read_volatile() }
            }
        )*
    };
}

impl FoundFlow {
    /// Returns the flow whose key is `key`, if the table has one.
    #[inline(always)]
    pub fn find(key: &FlowKey) -> Option<Self> {
        // SAFETY: the kernel has returned the map value, which is only used through handles. They
        // read single fields without the lock, and do everything else under the lock.
        maps::FLOWS
            .get_ptr_mut(key)
            .map(|entry| unsafe { Self::at(entry) })
    }

    /// # Safety
    /// `entry` is a value of the map `FLOWS` that the kernel has passed to this run of the program.
    /// It stays valid until the run ends, because the kernel frees map values after a grace period
    /// of RCU.
    #[inline(always)]
    pub(super) unsafe fn at(entry: *mut FlowEntry) -> Self {
        Self(entry)
    }

    fields! {
        link: Link;
        phase: u32;
        flags: u32;
        asked: u32;
        answered: u32;
        recount: u32;
        check: u32;
        last_seen_ns: u64;
        server_next: Seq;
        server_ack: Seq;
        client_fin: Seq;
    }

    /// Returns `Splice::injected`.
    #[inline(always)]
    pub fn injected(self) -> u32 {
        // SAFETY: the callers of `at` pass live map values.
        unsafe { (&raw const (*self.0).flow.splice.injected).read_volatile() }
    }

    /// Returns `Splice::withheld`.
    #[inline(always)]
    pub fn withheld(self) -> u32 {
        // SAFETY: the callers of `at` pass live map values.
        unsafe { (&raw const (*self.0).flow.splice.withheld).read_volatile() }
    }

    /// Returns the address of the client.
    #[inline(always)]
    pub fn client(self) -> [u32; 4] {
        // SAFETY: the callers of `at` pass live map values.
        unsafe { (&raw const (*self.0).flow.key.client).read_volatile() }
    }

    /// Returns the class of the connection, which decides how long the connection may be silent.
    #[inline(always)]
    pub fn class(self) -> Idle {
        let acknowledged = self.server_ack() == self.client_fin();
        Idle::of(self.phase(), self.flags(), acknowledged)
    }

    /// Acquires the lock of a flow that was found under `key`. Returns `None` if another CPU holds
    /// the lock for too long, or if the entry has been reused for another connection.
    #[inline(always)]
    pub fn lock(self, key: &FlowKey) -> Option<LockedFlow> {
        // SAFETY: the callers of `at` pass live map values, to whose lock word no reference exists.
        let word = unsafe { Word::at(&raw mut (*self.0).lock) };
        if !word.lock() {
            return None;
        }
        let flow = LockedFlow(self);
        same(&flow.key, key).then_some(flow)
    }

    /// Acquires the lock as [`FoundFlow::lock`] does. If the lock cannot be acquired, counts the
    /// packet, which the caller then drops.
    #[inline(always)]
    pub fn lock_for_packet(self, key: &FlowKey) -> Option<LockedFlow> {
        let locked = self.lock(key);
        if locked.is_none() {
            maps::count(counter::CONTENDED_DROPPED);
        }
        locked
    }
}

/// A flow whose lock this program holds until the guard is dropped.
pub struct LockedFlow(FoundFlow);

impl LockedFlow {
    /// Returns the entry, for functions that also read entries without the lock.
    #[inline(always)]
    pub fn entry(&self) -> FoundFlow {
        self.0
    }

    /// Removes from the table the flow of a packet, whose key is `Packet::key`, and which has
    /// ended.
    #[inline(always)]
    pub fn remove_for_packet(self, work: &mut Work) {
        if self.request.unfinished() | self.response.unfinished() != 0 {
            limiter_remove_unfinished(work);
        }
        self.remove_entry(&work.packet.key);
    }

    /// Removes a flow that has ended from the table. Returns false if the flow was no longer in the
    /// table.
    #[inline(always)]
    pub fn remove(self, key: &FlowKey) -> bool {
        remove_unfinished(key);
        self.remove_entry(key)
    }

    /// Removes the entry of the flow, but not its unfinished heads and lines. The lock stays held
    /// until the flow is removed. Otherwise another CPU could replace the flow with a new
    /// connection, and the new connection would be removed instead. The lock disappears with the
    /// flow. A CPU that is waiting for the lock at that moment gives up and drops its packet, and
    /// the sender retransmits the packet. Returns false if the flow was no longer in the table.
    #[inline(always)]
    fn remove_entry(self, key: &FlowKey) -> bool {
        let flow = ManuallyDrop::new(self);
        if !maps::remove_flow(key) {
            drop(ManuallyDrop::into_inner(flow));
            return false;
        }
        maps::count(counter::FLOWS_CLOSED);
        true
    }
}

/// Removes the unfinished heads and lines of the flow with the key `key`.
#[inline(always)]
pub fn remove_unfinished(key: &FlowKey) {
    let mut key = UnfinishedKey {
        flow: *key,
        direction: REQUESTS,
    };
    maps::remove_unfinished(&key);
    key.direction = RESPONSES;
    maps::remove_unfinished(&key);
}

/// The body of [`limiter_remove_unfinished`].
#[inline(always)]
fn remove_unfinished_of_packet(work: &mut Work) {
    remove_unfinished(&work.packet.key);
}

impl Deref for LockedFlow {
    type Target = Flow;

    #[inline(always)]
    fn deref(&self) -> &Flow {
        // SAFETY: the entry is a live map value, whose flow changes only under the lock, which this
        // guard holds.
        unsafe { &(*self.0.0).flow }
    }
}

impl DerefMut for LockedFlow {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Flow {
        // SAFETY: the entry is a live map value, whose flow changes only under the lock, which this
        // guard holds. CPUs without the lock read single fields, as `FoundFlow` does.
        unsafe { &mut (*self.0.0).flow }
    }
}

impl Drop for LockedFlow {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as in `FoundFlow::lock`, which has acquired the lock.
        unsafe { Word::at(&raw mut (*self.0.0).lock) }.unlock();
    }
}

/// Compares keys word by word. A derived comparison would become a call that compares byte by byte.
#[inline(always)]
fn same(one: &FlowKey, other: &FlowKey) -> bool {
    let (left, right) = (words(one), words(other));
    let mut difference = 0;
    // SAFETY: a key has five words of eight bytes and one of four. The verifier rejects an
    // unaligned load if the CPU requires alignment, and the keys of flows and packets are aligned
    // to eight bytes, as is asserted below.
    unsafe {
        for word in 0..5 {
            difference |= *left.add(word) ^ *right.add(word);
        }
        let last = *left.add(5).cast::<u32>() ^ *right.add(5).cast::<u32>();
        difference | u64::from(last) == 0
    }
}

#[inline(always)]
fn words(key: &FlowKey) -> *const u64 {
    (&raw const *key).cast()
}

const _: () = {
    use core::mem::offset_of;

    use crate::kernel::work::Packet;
    assert!(size_of::<FlowKey>() == 44);
    assert!((offset_of!(FlowEntry, flow) + offset_of!(Flow, key)).is_multiple_of(8));
    assert!(offset_of!(Packet, key) == 0 && offset_of!(Work, packet).is_multiple_of(8));
};
