// SPDX-License-Identifier: MIT OR Apache-2.0

//! Typed access to the kernel maps.

use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, ProgramArray, RingBuf,
    },
    util::nr_cpus,
};
use limiter_common::{
    abi::{
        Client, ClientKey, Clock, Config, Digest, Ended, Event, FlowEntry, FlowKey, KeyEntry,
        Lease, Limits, Ports, RefusalRecord, RefusedClient, ScopeState, Suspect, Sweep, Text,
        TextKey, Tomb, UnfinishedKey, UntrackedConnection, counter, map, switch,
    },
    http::Unfinished,
};

/// A wrapper around a type of the ABI. aya accepts the wrapper as plain bytes, for which it
/// requires the trait [`Pod`].
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Plain<T: Copy>(pub T);

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: the type is `repr(C)`, consists of integers and arrays of them, and has
            // explicit padding.
            unsafe impl Pod for Plain<$type> {}
        )*
    };
}

plain!(
    Client,
    Clock,
    Config,
    Ended,
    FlowEntry,
    FlowKey,
    KeyEntry,
    Lease,
    Limits,
    Ports,
    RefusedClient,
    ScopeState,
    UntrackedConnection,
    Suspect,
    Sweep,
    Text,
    TextKey,
    Tomb,
    Unfinished,
    UnfinishedKey,
);

type One<T> = Array<MapData, Plain<T>>;
type Table<K, V> = HashMap<MapData, K, Plain<V>>;

/// All maps except those that only the programs themselves use.
pub struct Maps {
    pub config: One<Config>,
    pub ports: One<Ports>,
    pub clock: One<Clock>,
    pub unused: Array<MapData, u64>,
    pub sweep: One<Sweep>,
    pub suspects: One<Suspect>,
    pub forget: One<Suspect>,
    pub limits: One<Limits>,
    pub leases: One<Lease>,
    pub ended: Table<u32, Ended>,
    pub events: RingBuf<MapData>,
    pub refusals: RingBuf<MapData>,
    pub state: One<ScopeState>,
    pub keys: Table<Digest, KeyEntry>,
    pub flows: Table<Plain<FlowKey>, FlowEntry>,
    pub unfinished: Table<Plain<UnfinishedKey>, Unfinished>,
    pub tombs: Table<Plain<FlowKey>, Tomb>,
    pub untracked: Table<Plain<FlowKey>, UntrackedConnection>,
    pub clients: Table<ClientKey, Client>,
    pub refused: Table<ClientKey, RefusedClient>,
    pub texts: Table<Plain<TextKey>, Text>,
    pub counters: PerCpuArray<MapData, u64>,
    pub switch: Array<MapData, u64>,
    pub programs: ProgramArray<MapData>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub fn of(ebpf: &mut Ebpf) -> Self {
        Self {
            config: take(ebpf, map::CONFIG),
            ports: take(ebpf, map::PORTS),
            clock: take(ebpf, map::CLOCK),
            unused: take(ebpf, map::UNUSED),
            sweep: take(ebpf, map::SWEEP),
            suspects: take(ebpf, map::SUSPECTS),
            forget: take(ebpf, map::FORGET),
            limits: take(ebpf, map::LIMITS),
            leases: take(ebpf, map::LEASES),
            ended: take(ebpf, map::ENDED),
            events: take(ebpf, map::EVENTS),
            refusals: take(ebpf, map::REFUSALS),
            state: take(ebpf, map::STATE),
            keys: take(ebpf, map::KEYS),
            flows: take(ebpf, map::FLOWS),
            unfinished: take(ebpf, map::UNFINISHED),
            tombs: take(ebpf, map::TOMBS),
            untracked: take(ebpf, map::UNTRACKED),
            clients: take(ebpf, map::CLIENTS),
            refused: take(ebpf, map::REFUSED),
            texts: take(ebpf, map::TEXTS),
            counters: take(ebpf, map::COUNTERS),
            switch: take(ebpf, map::SWITCH),
            programs: take(ebpf, map::PROGRAMS),
        }
    }

    /// Brings the maps into the state that they have after loading. The configuration stays,
    /// because the caller replaces it, and so do `suspects` and `forget`, which are always written
    /// before they are read.
    pub fn clear(&mut self) {
        empty(&mut self.keys);
        empty(&mut self.ended);
        while self.events.next().is_some() {}
        while self.refusals.next().is_some() {}
        empty(&mut self.flows);
        empty(&mut self.unfinished);
        empty(&mut self.tombs);
        empty(&mut self.untracked);
        empty(&mut self.clients);
        empty(&mut self.refused);
        empty(&mut self.texts);
        for scope in 0..self.limits.len() {
            set(&mut self.limits, scope, Limits::default());
        }
        for scope in 0..self.state.len() {
            set(&mut self.leases, scope, Lease::default());
            set(&mut self.state, scope, ScopeState::default());
        }
        set(&mut self.clock, 0, Clock::default());
        self.unused.set(0, 0, 0).expect("empty the stack of ids");
        set(&mut self.sweep, 0, Sweep::default());
        set(&mut self.ports, 0, Ports([0; 1024]));
        self.switch.set(0, switch::OLD, 0).expect("the old maps");
        for number in 0..2 * switch::PROGRAMS {
            // This call fails if the entry is already empty.
            let _ = self.programs.clear_index(&number);
        }
        let cpus = nr_cpus().expect("the number of CPUs");
        for index in 0..counter::COUNT {
            let zeros = PerCpuValues::try_from(vec![0; cpus]).expect("a value for each CPU");
            self.counters.set(index, zeros, 0).expect("clear a counter");
        }
    }

    /// Returns the events that the programs have reported since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            let word =
                |at: usize| u32::from_ne_bytes(item[at..at + 4].try_into().expect("four bytes"));
            let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
            events.push(Event {
                kind: word(0),
                scope: word(4),
                key: [long(8), long(16)],
            });
        }
        events
    }

    /// Returns the refusals that the programs have reported since the last call.
    pub fn refusal_records(&mut self) -> Vec<RefusalRecord> {
        let mut refusals = Vec::new();
        while let Some(item) = self.refusals.next() {
            assert_eq!(item.len(), size_of::<RefusalRecord>());
            // SAFETY: the assertion shows that the item has as many bytes as the type. The type
            // consists of integers, so all bytes are valid.
            refusals.push(unsafe { item.as_ptr().cast::<RefusalRecord>().read_unaligned() });
        }
        refusals
    }

    /// Returns the sum of a counter over all CPUs.
    pub fn counter(&self, index: u32) -> u64 {
        self.counters
            .get(&index, 0)
            .expect("read a counter")
            .iter()
            .sum()
    }
}

/// Writes an element of an array.
pub fn set<T: Copy>(array: &mut One<T>, index: u32, value: T)
where
    Plain<T>: Pod,
{
    array
        .set(index, Plain(value), 0)
        .expect("write an entry of an array");
}

/// Reads an element of an array.
pub fn get<T: Copy>(array: &One<T>, index: u32) -> T
where
    Plain<T>: Pod,
{
    array.get(&index, 0).expect("read an entry of an array").0
}

/// Looks up an entry. Returns `None` if there is no entry with this key.
pub fn find<K: Pod, V: Copy>(table: &Table<K, V>, key: &K) -> Option<V>
where
    Plain<V>: Pod,
{
    match table.get(key, 0) {
        Ok(value) => Some(value.0),
        Err(MapError::KeyNotFound) => None,
        Err(error) => panic!("look an entry up: {error}"),
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &str) -> T
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    T::try_from(map).unwrap_or_else(|error| panic!("the map {name}: {error}"))
}

fn empty<K: Pod, V: Copy>(table: &mut Table<K, V>)
where
    Plain<V>: Pod,
{
    let keys: Vec<K> = table
        .keys()
        .collect::<Result<_, _>>()
        .expect("the keys of a table");
    for key in keys {
        table.remove(&key).expect("remove an entry");
    }
}
