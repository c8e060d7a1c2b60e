//! The maps, and the only functions that touch them.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    programs::TcContext,
};
use limiter_common::abi::{
    Clock, Config, Digest, EVENT_BYTES, Event, Flow, FlowKey, KeyEntry, Limits, MAX_SUSPECTS,
    Ports, REFUSAL_BYTES, Refused, ScopeState, Stranger, Suspect, Sweep, Text, TextKey, Tomb,
    Unused, counter, switch,
};

use crate::work::Work;

// The daemon sets the sizes of KEYS, LIMITS, ENDED, STATE, UNUSED and FLOWS when it loads the programs.

#[map]
static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
static PORTS: Array<Ports> = Array::pinned(1, 0);
#[map]
static CLOCK: Array<Clock> = Array::pinned(1, 0);
#[map]
static UNUSED: Array<u64> = Array::pinned(1024, BPF_F_MMAPABLE);
#[map]
static KEYS: HashMap<Digest, KeyEntry> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
#[map]
static LIMITS: Array<Limits> = Array::pinned(1024, BPF_F_MMAPABLE);
#[map]
static ENDED: HashMap<u32, Limits> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
#[map]
static STATE: Array<ScopeState> = Array::pinned(1024, BPF_F_MMAPABLE);
#[map]
static FLOWS: HashMap<FlowKey, Flow> = HashMap::pinned(1024, BPF_F_NO_PREALLOC);
// Refused connections in their last moments: exact state never lives in an LRU map, but a tomb
// holds none.
#[map]
static TOMBS: LruHashMap<FlowKey, Tomb> = LruHashMap::pinned(65_536, 0);
#[map]
static TEXTS: HashMap<TextKey, Text> = HashMap::pinned(65_536, BPF_F_NO_PREALLOC);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(counter::COUNT, 0);
#[map]
static EVENTS: RingBuf = RingBuf::pinned(EVENT_BYTES, 0);
// Apart from the other events, on which counts depend: these must not crowd them out.
#[map]
static REFUSALS: RingBuf = RingBuf::pinned(REFUSAL_BYTES, 0);
#[map]
static SWEEP: Array<Sweep> = Array::pinned(1, 0);
#[map]
static SUSPECTS: Array<Suspect> = Array::pinned(MAX_SUSPECTS, 0);
#[map]
static FORGET: Array<Suspect> = Array::pinned(1, 0);
// Says only under which policy a connection passes.
#[map]
static STRANGERS: LruHashMap<FlowKey, Stranger> = LruHashMap::pinned(65_536, 0);
// Not pinned with the others: which set of maps is in force while one takes the place of another.
#[map]
static SWITCH: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(2 * switch::PROGRAMS, 0);
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// Whether a port (host byte order) is guarded.
#[inline(always)]
pub fn guarded(port: u16) -> bool {
    let Some(ports) = PORTS.get_ptr(0) else {
        return false;
    };
    let word = usize::from(port >> 6) & 1023;
    // SAFETY: the entry is a live map value; `word` is below 1024.
    let bits = unsafe { *(&raw const (*ports).0).cast::<u64>().add(word) };
    bits >> (port & 63) & 1 != 0
}

#[inline(always)]
pub fn config() -> Option<*const Config> {
    CONFIG.get_ptr(0)
}

#[inline(always)]
pub fn work() -> Option<*mut Work> {
    WORK.get_ptr_mut(0)
}

#[inline(always)]
pub fn utc_offset_ns() -> u64 {
    match CLOCK.get_ptr(0) {
        // SAFETY: a live map value; one aligned word.
        Some(clock) => unsafe { crate::atomic::load(&raw const (*clock).utc_offset_ns) },
        None => 0,
    }
}

/// `CLOCK_BOOTTIME` until which strangers are refused, ns.
#[inline(always)]
pub fn refuse_strangers_until_ns() -> u64 {
    match CLOCK.get_ptr(0) {
        // SAFETY: a live map value; one aligned word.
        Some(clock) => unsafe {
            crate::atomic::load(&raw const (*clock).refuse_strangers_until_ns)
        },
        None => 0,
    }
}

/// `CLOCK_BOOTTIME` until which the daemon answers for its store, ns.
#[inline(always)]
pub fn attended_until_ns() -> u64 {
    match CLOCK.get_ptr(0) {
        // SAFETY: a live map value; one aligned word.
        Some(clock) => unsafe { crate::atomic::load(&raw const (*clock).attended_until_ns) },
        None => 0,
    }
}

/// Tells the daemon. It may be away, or not keep up: then it finds out by itself.
#[inline(always)]
pub fn tell(event: Event) {
    if EVENTS.output::<Event>(event, 0).is_err() {
        count(counter::EVENTS_LOST);
    }
}

/// Tells the daemon of a refusal.
#[inline(always)]
pub fn tell_refusal(refused: &Refused) {
    if REFUSALS.output::<Refused>(*refused, 0).is_err() {
        count(counter::EVENTS_LOST);
    }
}

/// How often another CPU may come between when an unused id is taken.
const TAKES: u32 = 8;

/// Takes a scope id that nobody uses, if there is one; also none when others took one each time this
/// one tried.
#[inline(always)]
pub fn take_unused() -> Option<u32> {
    let word = UNUSED.get_ptr_mut(0)?;
    for _ in 0..TAKES {
        // SAFETY: live map values.
        unsafe {
            let unused = Unused(crate::atomic::load(word));
            let left = unused.left();
            if left == 0 {
                return None;
            }
            let id = crate::atomic::load(UNUSED.get_ptr(left)?);
            // An id that was read while others changed the stack is not taken.
            if crate::atomic::swap(word, unused.0, unused.with(left - 1).0) {
                return Some(id as u32);
            }
        }
    }
    None
}

#[inline(always)]
pub fn key(digest: &Digest) -> Option<*mut KeyEntry> {
    KEYS.get_ptr_mut(digest)
}

/// Enters a key that is not there yet; false if it is, or if there is no room.
#[inline(always)]
pub fn insert_key(digest: &Digest, entry: &KeyEntry) -> bool {
    KEYS.insert(digest, entry, u64::from(BPF_NOEXIST)).is_ok()
}

#[inline(always)]
pub fn limits(scope: u32) -> Option<*mut Limits> {
    LIMITS.get_ptr_mut(scope)
}

/// What holds for a scope when its own limits have ended.
#[inline(always)]
pub fn ended(scope: u32) -> Option<*mut Limits> {
    ENDED.get_ptr_mut(&scope)
}

#[inline(always)]
pub fn state(scope: u32) -> Option<*mut ScopeState> {
    STATE.get_ptr_mut(scope)
}

#[inline(always)]
pub fn flow(key: *const FlowKey) -> Option<*mut Flow> {
    // SAFETY: callers pass a key in a live map value (the packet's, or the flow's own).
    FLOWS.get_ptr_mut(unsafe { &*key })
}

/// Enters a flow in place of any that is there; false if there is no room.
#[inline(always)]
pub fn insert_flow(key: *const FlowKey, flow: *const Flow) -> bool {
    // SAFETY: callers pass live map values.
    FLOWS.insert(unsafe { &*key }, unsafe { &*flow }, 0).is_ok()
}

#[inline(always)]
pub fn remove_flow(key: *const FlowKey) -> bool {
    // SAFETY: callers pass a key in a live map value.
    FLOWS.remove(unsafe { &*key }).is_ok()
}

/// The map of flows, for `bpf_for_each_map_elem`.
#[inline(always)]
pub fn flows() -> *mut core::ffi::c_void {
    (&raw const FLOWS).cast_mut().cast()
}

#[inline(always)]
pub fn tomb(key: *const FlowKey) -> Option<*mut Tomb> {
    // SAFETY: callers pass a key in a live map value.
    TOMBS.get_ptr_mut(unsafe { &*key })
}

#[inline(always)]
pub fn insert_tomb(key: *const FlowKey, tomb: *const Tomb) -> bool {
    // SAFETY: callers pass live map values.
    TOMBS.insert(unsafe { &*key }, unsafe { &*tomb }, 0).is_ok()
}

#[inline(always)]
pub fn remove_tomb(key: *const FlowKey) {
    // SAFETY: callers pass a key in a live map value. There may be none: that is what is wanted.
    let _absent = TOMBS.remove(unsafe { &*key });
}

#[inline(always)]
pub fn text(key: *const TextKey) -> Option<*const Text> {
    // SAFETY: callers pass a key in a live map value.
    TEXTS.get_ptr(unsafe { &*key })
}

#[inline(always)]
pub fn sweep() -> Option<*mut Sweep> {
    SWEEP.get_ptr_mut(0)
}

/// The recount that new flows belong to.
#[inline(always)]
pub fn recount() -> u32 {
    match SWEEP.get_ptr(0) {
        // SAFETY: a live map value.
        Some(sweep) => unsafe { core::ptr::read_volatile(&raw const (*sweep).recount) },
        None => 0,
    }
}

#[inline(always)]
pub fn suspect(number: u32) -> Option<*mut Suspect> {
    SUSPECTS.get_ptr_mut(number)
}

#[inline(always)]
pub fn forget() -> Option<*mut Suspect> {
    FORGET.get_ptr_mut(0)
}

#[inline(always)]
pub fn stranger(key: *const FlowKey) -> Option<*mut Stranger> {
    // SAFETY: callers pass a key in a live map value.
    STRANGERS.get_ptr_mut(unsafe { &*key })
}

#[inline(always)]
pub fn insert_stranger(key: *const FlowKey, stranger: &Stranger) {
    // SAFETY: callers pass a key in a live map value. Without room it is counted again.
    let _full = STRANGERS.insert(unsafe { &*key }, stranger, 0);
}

#[inline(always)]
pub fn remove_stranger(key: *const FlowKey) {
    // SAFETY: callers pass a key in a live map value. There may be none: that is what is wanted.
    let _absent = STRANGERS.remove(unsafe { &*key });
}

/// Counts `by` more of a [`counter`].
#[inline(always)]
pub fn count_by(counter: u32, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: a live map value of this CPU; a program that interrupts this one between load
        // and store would cost a count, but TC programs of one CPU do not interrupt each other.
        unsafe { *value += by };
    }
}

/// Counts one more of a [`counter`].
#[inline(always)]
pub fn count(counter: u32) {
    count_by(counter, 1);
}

/// Which set of maps is in force: one of [`switch`].
#[inline(always)]
pub fn switched() -> Option<*mut u64> {
    SWITCH.get_ptr_mut(0)
}

/// Goes on as the program with this number in `PROGRAMS`. Returns only if there is none.
#[inline(always)]
pub fn go_on(ctx: &TcContext, program: u32) {
    // SAFETY: what is on the stack needs no dropping.
    unsafe { PROGRAMS.tail_call(ctx, program) };
}
