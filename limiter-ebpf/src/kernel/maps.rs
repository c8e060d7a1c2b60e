// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The maps, and the functions through which all other code accesses them.
//!
//! A map value that the kernel has returned stays valid until the program ends, because the kernel
//! frees a removed value only after a grace period of RCU, which does not end while a program runs.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    programs::TcContext,
};
use limiter_common::{
    abi::{
        Client, ClientKey, Config, Digest, ENDS, EVENT_BYTES, Ended, Event, Flow, FlowEntry,
        FlowKey, KeyEntry, Lease, Limits, MAX_SUSPECTS, Ports, REFUSAL_BYTES, RefusalRecord,
        RefusedClient, ScopeState, Suspect, Sweep, Text, TextKey, Tomb, UnfinishedKey,
        UntrackedConnection, Unused, counter, switch,
    },
    http::Unfinished,
};

use crate::kernel::{
    atomic::Word,
    shared::{
        ClientFlows, ClientRefusals, Key, ScopeCounts, ScopeLease, ScopeLimits, SharedTomb,
        Untracked,
    },
    skb::{DROP, Skb},
    work::Work,
};

// The daemon sets the sizes of KEYS, LIMITS, LEASES, ENDED, STATE, UNUSED, FLOWS and UNFINISHED
// when it loads the programs.

#[map]
static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
static PORTS: Array<Ports> = Array::pinned(1, 0);
#[map]
static UNUSED: Array<u64> = Array::pinned(1024, BPF_F_MMAPABLE);
#[map]
static KEYS: HashMap<Digest, KeyEntry> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
#[map]
static LIMITS: Array<Limits> = Array::pinned(1024, BPF_F_MMAPABLE);
#[map]
static LEASES: Array<Lease> = Array::pinned(1024, BPF_F_MMAPABLE);
#[map]
static ENDED: HashMap<u32, Ended> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
#[map]
static STATE: Array<ScopeState> = Array::pinned(1024, BPF_F_MMAPABLE);
#[map]
pub(super) static FLOWS: HashMap<FlowKey, FlowEntry> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
// The heads and lines that a segment has left unfinished. Each direction of a flow has at most one
// entry.
#[map]
static UNFINISHED: HashMap<UnfinishedKey, Unfinished> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
// The tombstones of refused connections that are being closed. An LRU map may evict any entry, and
// therefore must not contain state that has to be exact. Tombstones contain no such state.
#[map]
static TOMBS: LruHashMap<FlowKey, Tomb> = LruHashMap::pinned(65_536, 0);
#[map]
static TEXTS: HashMap<TextKey, Text> = HashMap::pinned(65_536, BPF_F_NO_PREALLOC);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(counter::COUNT, 0);
#[map]
static EVENTS: RingBuf = RingBuf::pinned(EVENT_BYTES, 0);
// The records of refusals have a ring of their own, so that they cannot crowd out the other events,
// on which counts depend.
#[map]
static REFUSALS: RingBuf = RingBuf::pinned(REFUSAL_BYTES, 0);
#[map]
static SWEEP: Array<Sweep> = Array::pinned(1, 0);
#[map]
static SUSPECTS: Array<Suspect> = Array::pinned(MAX_SUSPECTS, 0);
#[map]
static FORGET: Array<Suspect> = Array::pinned(1, 0);
// The untracked connections. The daemon sets the size of this map too.
#[map]
pub(super) static UNTRACKED: HashMap<FlowKey, UntrackedConnection> =
    HashMap::pinned(1024, BPF_F_NO_PREALLOC);
// This map only decides which clients may not open more connections while the table of flows is
// nearly full, so it may be an LRU map.
#[map]
static CLIENTS: LruHashMap<ClientKey, Client> = LruHashMap::pinned(16_384, 0);
// If an entry is evicted, the server sees some connections that would otherwise be kept from it.
#[map]
static REFUSED: LruHashMap<ClientKey, RefusedClient> = LruHashMap::pinned(16_384, 0);
// This map is not pinned with the other maps, because it states which set of maps is in force while
// one set replaces another.
#[map]
static SWITCH: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(2 * switch::PROGRAMS, 0);
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// Returns whether a port (host byte order) is guarded.
#[inline(always)]
pub fn guarded(port: u16) -> bool {
    let Some(ports) = PORTS.get_ptr(0) else {
        return false;
    };
    let word = usize::from(port >> 6) & 1023;
    // SAFETY: the kernel has returned the map value, and `word` is below 1024.
    let bits = unsafe { *(&raw const (*ports).0).cast::<u64>().add(word) };
    bits >> (port & 63) & 1 != 0
}

/// Returns the configuration. The daemon may replace it at any time, so two reads of one field can
/// differ.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    // SAFETY: the kernel has returned the map value. All fields of the configuration are words for
    // which every bit pattern is valid, and no memory access depends on the value of a field.
    CONFIG.get_ptr(0).map(|config| unsafe { &*config })
}

/// Returns the memory of this CPU for the current packet. Each program calls this function once,
/// after it has found that it has to process the packet. Each global function calls it once too
/// (`kernel/global.rs`).
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: the kernel has returned the map value of this CPU. No other program uses the value at
    // the same time: TC programs of one CPU do not interrupt each other. A packet that a program
    // sends during its run is queued, or reaches the egress program at once, which lets the packet
    // through before it calls this function (`is_own`). The program calls this once, and lends the
    // reference to the global functions that it calls.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// Returns whether the programs have sent this packet themselves.
#[inline(always)]
pub fn is_own(skb: Skb) -> bool {
    let mark = skb.mark();
    mark != 0 && mark == own_mark()
}

/// Returns the `skb->mark` of packets that the programs send.
#[inline(always)]
pub fn own_mark() -> u32 {
    match config() {
        Some(config) => config.own_mark,
        None => 0,
    }
}

/// Sends an event to the daemon. If the event is lost because the daemon is not running or does not
/// keep up, the daemon notices the same change later by other means.
#[inline(always)]
pub fn send_event(event: Event) {
    if EVENTS.output::<Event>(event, 0).is_err() {
        count(counter::EVENTS_LOST);
    }
}

/// Sends a record of a refusal to the daemon.
#[inline(always)]
pub fn send_refusal(refused: &RefusalRecord) {
    if REFUSALS.output::<RefusalRecord>(*refused, 0).is_err() {
        count(counter::EVENTS_LOST);
    }
}

/// The maximum number of attempts to take an unused id. An attempt fails if another CPU is faster.
const TAKES: u32 = 8;

/// Takes an unused scope id. Returns `None` if there is none, or if other CPUs were faster at each
/// attempt.
#[inline(always)]
pub fn take_unused() -> Option<u32> {
    // SAFETY: the kernel has returned the map value.
    let word = unsafe { Word::at(UNUSED.get_ptr_mut(0)?) };
    for _ in 0..TAKES {
        let unused = Unused(word.load());
        let left = unused.left();
        if left == 0 {
            return None;
        }
        // SAFETY: as above.
        let id = unsafe { Word::at(UNUSED.get_ptr_mut(left)?) }.load();
        // The id is not taken if another CPU changed the stack while the id was read.
        if word.swap(unused.0, unused.with(left - 1).0) {
            return Some(id as u32);
        }
    }
    None
}

#[inline(always)]
pub fn key(digest: &Digest) -> Option<Key> {
    // SAFETY: the kernel has returned the map value, which is only used through handles.
    KEYS.get_ptr_mut(digest)
        .map(|entry| unsafe { Key::at(entry) })
}

/// Inserts a key. Returns false if the key exists already, or if there is no room.
#[inline(always)]
pub fn insert_key(digest: &Digest, entry: &KeyEntry) -> bool {
    KEYS.insert(digest, entry, u64::from(BPF_NOEXIST)).is_ok()
}

#[inline(always)]
pub fn limits(scope: u32) -> Option<ScopeLimits> {
    // SAFETY: the kernel has returned the map value, which is only used through handles.
    LIMITS
        .get_ptr_mut(scope)
        .map(|limits| unsafe { ScopeLimits::at(limits) })
}

/// Returns the part of a scope's daily quota that this host may use.
#[inline(always)]
pub fn lease(scope: u32) -> Option<ScopeLease> {
    // SAFETY: the kernel has returned the map value, which is only used through handles.
    LEASES
        .get_ptr_mut(scope)
        .map(|lease| unsafe { ScopeLease::at(lease) })
}

/// Returns a stage of the limits that apply to a scope after the end of those in `LIMITS`.
#[inline(always)]
pub fn ended(scope: u32, stage: u32) -> Option<ScopeLimits> {
    let ended = ENDED.get_ptr_mut(scope)?;
    if stage as usize >= ENDS {
        return None;
    }
    // SAFETY: the kernel has returned the map value, which is only used through handles, and the
    // stage is one of its array.
    Some(unsafe {
        ScopeLimits::at(
            (&raw mut (*ended).stages)
                .cast::<Limits>()
                .add(stage as usize),
        )
    })
}

#[inline(always)]
pub fn counts(scope: u32) -> Option<ScopeCounts> {
    // SAFETY: the kernel has returned the map value, which is only used through handles.
    STATE
        .get_ptr_mut(scope)
        .map(|counts| unsafe { ScopeCounts::at(counts) })
}

/// Returns to a global function the flow whose key is `key`. The caller of the global function has
/// locked this flow, and lends it to the global function (`kernel/global.rs`).
#[inline(always)]
pub fn lent_flow(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: the kernel has returned the map value. The caller of the global function holds the
    // lock, and does not use its own reference until the function returns.
    FLOWS
        .get_ptr_mut(key)
        .map(|entry| unsafe { &mut (*entry).flow })
}

/// Inserts a flow, and replaces any other flow whose key is `key`. Returns false if there is no
/// room.
#[inline(always)]
pub fn insert_flow(key: &FlowKey, entry: &FlowEntry) -> bool {
    FLOWS.insert(key, entry, 0).is_ok()
}

#[inline(always)]
pub fn remove_flow(key: &FlowKey) -> bool {
    FLOWS.remove(key).is_ok()
}

/// Returns the unfinished head or line of one direction of a flow. The caller holds the lock of the
/// flow, and drops the reference before it gives the lock back.
#[inline(always)]
pub fn unfinished(key: &UnfinishedKey) -> Option<&'static mut Unfinished> {
    // SAFETY: the kernel has returned the map value, which nothing else accesses while the lock of
    // the flow is held.
    UNFINISHED
        .get_ptr_mut(key)
        .map(|entry| unsafe { &mut *entry })
}

/// Inserts or replaces the unfinished head or line of one direction of a flow. Returns false if
/// there is no room.
#[inline(always)]
pub fn insert_unfinished(key: &UnfinishedKey, entry: &Unfinished) -> bool {
    UNFINISHED.insert(key, entry, 0).is_ok()
}

#[inline(always)]
pub fn remove_unfinished(key: &UnfinishedKey) {
    // If there is no entry, there is nothing to do.
    let _absent = UNFINISHED.remove(key);
}

#[inline(always)]
pub fn tomb(key: &FlowKey) -> Option<SharedTomb> {
    // SAFETY: the kernel has returned the map value, which is only used through handles.
    TOMBS
        .get_ptr_mut(key)
        .map(|tomb| unsafe { SharedTomb::at(tomb) })
}

#[inline(always)]
pub fn insert_tomb(key: &FlowKey, tomb: &Tomb) -> bool {
    TOMBS.insert(key, tomb, 0).is_ok()
}

#[inline(always)]
pub fn remove_tomb(key: &FlowKey) {
    // If there is no entry, there is nothing to do.
    let _absent = TOMBS.remove(key);
}

/// Returns a text, which the daemon may replace as a whole, but never changes in place.
#[inline(always)]
pub fn text(key: &TextKey) -> Option<&'static Text> {
    // SAFETY: the kernel has returned the map value. An update of the map replaces the value with
    // another one (BPF_F_NO_PREALLOC), so this value does not change.
    TEXTS.get_ptr(key).map(|text| unsafe { &*text })
}

/// Returns the map value that contains the settings of a sweep, which the daemon has written, and
/// the results of the sweep.
#[inline(always)]
pub fn sweep() -> Option<&'static mut Sweep> {
    // SAFETY: the kernel has returned the map value. The daemon runs one sweep at a time and does
    // not access the value during a sweep. Other programs only read `recount`, which a sweep does
    // not write.
    SWEEP.get_ptr_mut(0).map(|sweep| unsafe { &mut *sweep })
}

/// Returns the id of the recount that includes new flows.
#[inline(always)]
pub fn recount() -> u32 {
    match SWEEP.get_ptr(0) {
        // SAFETY: the kernel has returned the map value.
        Some(sweep) => unsafe { core::ptr::read_volatile(&raw const (*sweep).recount) },
        None => 0,
    }
}

#[inline(always)]
pub fn suspect(number: u32) -> Option<&'static mut Suspect> {
    // SAFETY: the kernel has returned the map value. Only a sweep uses it, and the daemon after the
    // sweep. A sweep calls this function once for each number.
    SUSPECTS
        .get_ptr_mut(number)
        .map(|suspect| unsafe { &mut *suspect })
}

/// Returns the map value with the flow that the daemon wants to remove.
#[inline(always)]
pub fn forget() -> Option<&'static mut Suspect> {
    // SAFETY: the kernel has returned the map value. The daemon never runs `limiter_forget` twice
    // at the same time, and does not access the value during a run. The program calls this once.
    FORGET
        .get_ptr_mut(0)
        .map(|suspect| unsafe { &mut *suspect })
}

#[inline(always)]
pub fn untracked(key: &FlowKey) -> Option<Untracked> {
    // SAFETY: the kernel has returned the map value, which is only used through handles.
    UNTRACKED
        .get_ptr_mut(key)
        .map(|entry| unsafe { Untracked::at(entry) })
}

/// Inserts an untracked connection. Returns false if there is no room.
#[inline(always)]
pub fn insert_untracked(key: &FlowKey, entry: &UntrackedConnection) -> bool {
    UNTRACKED.insert(key, entry, 0).is_ok()
}

#[inline(always)]
pub fn remove_untracked(key: &FlowKey) {
    // If there is no entry, there is nothing to do.
    let _absent = UNTRACKED.remove(key);
}

#[inline(always)]
pub fn client(key: &ClientKey) -> Option<ClientFlows> {
    // SAFETY: the kernel has returned the map value, which is only used through handles.
    CLIENTS
        .get_ptr_mut(key)
        .map(|client| unsafe { ClientFlows::at(client) })
}

#[inline(always)]
pub fn insert_client(key: &ClientKey, client: &Client) {
    // If there is no room, the flows of this client are not counted.
    let _full = CLIENTS.insert(key, client, 0);
}

#[inline(always)]
pub fn refused_client(key: &ClientKey) -> Option<ClientRefusals> {
    // SAFETY: the kernel has returned the map value, which is only used through handles.
    REFUSED
        .get_ptr_mut(key)
        .map(|client| unsafe { ClientRefusals::at(client) })
}

#[inline(always)]
pub fn insert_refused_client(key: &ClientKey, client: &RefusedClient) {
    // Another CPU may have inserted the address. If there is no memory, the address counts as one
    // that was never refused.
    let _there = REFUSED.insert(key, client, BPF_NOEXIST.into());
}

/// Adds `by` to a [`counter`].
#[inline(always)]
pub fn count_by(counter: u32, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the kernel has returned the map value of this CPU. A program that interrupted
        // this one between load and store would cause a lost count, but TC programs of one CPU do
        // not interrupt each other.
        unsafe { *value += by };
    }
}

/// Adds one to a [`counter`].
#[inline(always)]
pub fn count(counter: u32) {
    count_by(counter, 1);
}

/// Returns the word that states which set of maps is in force. Its values are in [`switch`].
#[inline(always)]
pub fn switched() -> Option<Word> {
    // SAFETY: the kernel has returned the map value.
    SWITCH.get_ptr_mut(0).map(|word| unsafe { Word::at(word) })
}

/// Continues as the program at index `program` of `PROGRAMS`. Returns only if there is no such
/// program.
#[inline(always)]
pub fn go_on(ctx: &TcContext, program: u32) {
    // SAFETY: nothing on the stack needs to be dropped.
    unsafe { PROGRAMS.tail_call(ctx, program) };
}

/// Counts a packet under `counter`, and returns the verdict that drops the packet.
#[inline(always)]
pub fn dropped(counter: u32) -> i32 {
    count(counter);
    DROP
}
