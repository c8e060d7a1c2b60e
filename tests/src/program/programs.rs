// SPDX-License-Identifier: MIT OR Apache-2.0

//! The programs with their maps. They are loaded once, and the maps are emptied for each test.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use limiter_common::abi::{
    ClientKey, Clock, Config, Ended, Flow, FlowEntry, FlowKey, KeyEntry, Lease, Limits, Ports,
    ScopeState, Suspect, Sweep, TextKey, Tomb, UnfinishedKey, UntrackedConnection, Unused, counter,
    reason,
};
use limiter_common::flow::Idle;

use super::{
    link::{OneProcessor, TestDevice},
    maps::{self, Plain},
    object::{Object, Tables},
    rules::{self, COMMON_TEXTS, SCOPE_TEXTS},
    run::{self, Extras, Hook, RunResult},
};
use crate::GUARDED;

/// The sizes of the tables, which are so small that a test can fill them.
const TABLES: Tables = Tables {
    scopes: 16,
    keys: 16,
    flows: 8,
};

/// The loaded object. It is loaded only once, because loading takes about a second, most of which
/// the verifier needs.
static LOADED: Mutex<Option<(Object, TestDevice)>> = Mutex::new(None);

thread_local! {
    /// Whether this thread already has the programs. If a thread requested them a second time, it
    /// would wait for its own lock forever.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// The loaded programs. Only one test at a time can use them.
pub struct Programs {
    loaded: MutexGuard<'static, Option<(Object, TestDevice)>>,
}

impl Programs {
    /// Returns the programs. Their maps contain only [`rules::config`], the texts of all refusals,
    /// and [`GUARDED`] as the guarded port.
    ///
    /// # Panics
    /// Panics if the process is not root, or if the kernel rejects the programs.
    pub fn fresh() -> Self {
        assert!(
            !HELD.get(),
            "drop the programs before you ask for them again"
        );
        // The lock may have been poisoned by a failed test. This does not matter, because the maps
        // are emptied below.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let (object, link) = loaded.get_or_insert_with(|| load(TABLES));
        link.enter();
        object.maps.clear();
        Self { loaded }.filled()
    }

    /// Does the same as [`Programs::fresh`], but loads the programs again, with the table sizes
    /// `tables`.
    pub fn sized(tables: Tables) -> Self {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, link) = loaded.insert(load(tables));
        link.enter();
        Self { loaded }.filled()
    }

    fn filled(self) -> Self {
        HELD.set(true);
        let mut programs = self;
        programs.configure(|_| ());
        programs.guard(&[GUARDED]);
        for why in 0..reason::COUNT {
            let set = if why < reason::LIMITS {
                SCOPE_TEXTS
            } else {
                COMMON_TEXTS
            };
            let key = Plain(TextKey { set, reason: why });
            let text = Plain(rules::text(why));
            programs
                .object_mut()
                .maps
                .texts
                .insert(key, text, 0)
                .expect("enter a text");
        }
        programs
    }

    /// Returns the loaded object, so that a test can use it directly.
    pub fn object(&self) -> &Object {
        &self.loaded.as_ref().expect("loaded").0
    }

    /// Returns the same as [`Programs::object`], but mutable.
    pub fn object_mut(&mut self) -> &mut Object {
        &mut self.loaded.as_mut().expect("loaded").0
    }

    fn link(&self) -> &TestDevice {
        &self.loaded.as_ref().expect("loaded").1
    }

    /// Calls `change` with the configuration [`rules::config`], and publishes the result to the
    /// programs.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = rules::config();
        change(&mut config);
        maps::set(&mut self.object_mut().maps.config, 0, config);
    }

    /// Replaces the guarded ports with `ports`.
    pub fn guard(&mut self, ports: &[u16]) {
        let mut bits = Ports([0; 1024]);
        for port in ports {
            bits.0[usize::from(port / 64)] |= 1 << (port % 64);
        }
        maps::set(&mut self.object_mut().maps.ports, 0, bits);
    }

    /// Adds the scope with the id `scope`, the limits `limits` and one key.
    pub fn scope(&mut self, scope: u32, key: &str, limits: Limits) {
        self.limit(scope, limits);
        self.key(
            key,
            KeyEntry {
                scope,
                flags: 0,
                last_used_ns: 0,
            },
        );
    }

    /// Changes the limits of a scope.
    pub fn limit(&mut self, scope: u32, limits: Limits) {
        maps::set(&mut self.object_mut().maps.limits, scope, limits);
    }

    /// Sets the lease of a scope.
    pub fn lease(&mut self, scope: u32, lease: Lease) {
        maps::set(&mut self.object_mut().maps.leases, scope, lease);
    }

    /// Adds a key.
    pub fn key(&mut self, key: &str, entry: KeyEntry) {
        let keys = &mut self.object_mut().maps.keys;
        keys.insert(rules::digest(key), Plain(entry), 0)
            .expect("enter a key");
    }

    /// Returns the map entry of a key.
    pub fn entry(&self, key: &str) -> Option<KeyEntry> {
        maps::find(&self.object().maps.keys, &rules::digest(key))
    }

    pub fn limits(&self, scope: u32) -> Limits {
        maps::get(&self.object().maps.limits, scope)
    }

    pub fn state(&self, scope: u32) -> ScopeState {
        maps::get(&self.object().maps.state, scope)
    }

    pub fn set_state(&mut self, scope: u32, state: ScopeState) {
        maps::set(&mut self.object_mut().maps.state, scope, state);
    }

    /// Sets the offset between the boot clock and UTC.
    pub fn set_clock(&mut self, utc_offset_ns: u64) {
        self.change_clock(|clock| clock.utc_offset_ns = utc_offset_ns);
    }

    /// Adds scope ids for unknown keys. The programs use the last id first.
    pub fn add_unused_ids(&mut self, ids: &[u32]) {
        let unused = &mut self.object_mut().maps.unused;
        for id in ids {
            let head = Unused(unused.get(&0, 0).expect("the stack of ids"));
            let left = head.left() + 1;
            unused.set(left, u64::from(*id), 0).expect("offer an id");
            unused.set(0, head.with(left).0, 0).expect("offer an id");
        }
    }

    /// Returns how many of the scope ids for unknown keys the programs have not used yet.
    pub fn unused(&self) -> u32 {
        let head = self.object().maps.unused.get(&0, 0);
        Unused(head.expect("the stack of ids")).left()
    }

    /// Removes the text of the response for the refusal reason `why`.
    pub fn forget_text(&mut self, why: u32) {
        let set = if why < reason::LIMITS {
            SCOPE_TEXTS
        } else {
            COMMON_TEXTS
        };
        let key = Plain(TextKey { set, reason: why });
        self.object_mut()
            .maps
            .texts
            .remove(&key)
            .expect("remove a text");
    }

    pub fn counter(&self, index: u32) -> u64 {
        self.object().maps.counter(index)
    }

    /// Returns all counters that are not zero, by name.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        (0..)
            .zip(counter::NAMES)
            .map(|(index, name)| (*name, self.counter(index)))
            .filter(|(_, count)| *count != 0)
            .collect()
    }

    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        maps::find(&self.object().maps.flows, &Plain(*key)).map(|entry| entry.flow)
    }

    /// Replaces the state of a flow.
    pub fn set_flow(&mut self, flow: Flow) {
        let flows = &mut self.object_mut().maps.flows;
        flows
            .insert(Plain(flow.key), Plain(FlowEntry { lock: 0, flow }), 0)
            .expect("enter a flow");
    }

    /// Returns the keys of all flows.
    pub fn flows(&self) -> Vec<FlowKey> {
        let keys = self.object().maps.flows.keys();
        keys.map(|key| key.expect("a flow's key").0).collect()
    }

    /// Returns the keys of all directions with an unfinished head or line.
    pub fn unfinished(&self) -> Vec<UnfinishedKey> {
        let keys = self.object().maps.unfinished.keys();
        keys.map(|key| key.expect("a key").0).collect()
    }

    /// Returns whether the state of any flow contains these bytes, for example a part of a key.
    pub fn flows_hold(&self, bytes: &[u8]) -> bool {
        fn holds<T>(value: &T, bytes: &[u8]) -> bool {
            let start = (&raw const *value).cast::<u8>();
            // SAFETY: the types below consist of integers and arrays of them, and their padding is
            // explicit.
            let value = unsafe { std::slice::from_raw_parts(start, size_of::<T>()) };
            value.windows(bytes.len()).any(|window| window == bytes)
        }
        let flows = self.flows();
        let mut flows = flows.iter().filter_map(|key| self.flow(key));
        let unfinished = &self.object().maps.unfinished;
        let keys = self.unfinished();
        let mut unfinished = keys
            .iter()
            .filter_map(|key| maps::find(unfinished, &Plain(*key)));
        flows.any(|flow| holds(&flow, bytes)) || unfinished.any(|value| holds(&value, bytes))
    }

    pub fn tomb(&self, key: &FlowKey) -> Option<Tomb> {
        maps::find(&self.object().maps.tombs, &Plain(*key))
    }

    /// Replaces the state of a tomb.
    pub fn set_tomb(&mut self, key: &FlowKey, tomb: Tomb) {
        let tombs = &mut self.object_mut().maps.tombs;
        tombs
            .insert(Plain(*key), Plain(tomb), 0)
            .expect("enter a tomb");
    }

    /// Runs the program of a hook on a packet.
    #[track_caller]
    pub fn run(&mut self, hook: Hook, packet: &[u8]) -> RunResult {
        self.run_with(hook, packet, Extras::default())
    }

    /// Runs the program of a hook on a packet that has additional properties.
    #[track_caller]
    pub fn run_with(&mut self, hook: Hook, packet: &[u8], extras: Extras) -> RunResult {
        let link = self.link();
        link.discard();
        let _processor = OneProcessor::new();
        let mut ran = run::run(self.object(), hook, link.ifindex(), packet, extras);
        ran.sent = link.caught();
        // The namespace's own network stack also sends IPv6 packets, none of which are TCP. Only
        // TCP packets are therefore kept.
        ran.sent
            .retain(|packet| run::is_tcp(packet, hook.ethernet()));
        ran
    }

    /// Runs a sweep with the idle timeouts `idle_ns` and returns its result.
    pub fn sweep(&mut self, idle_ns: [u64; Idle::COUNT]) -> Sweep {
        self.sweep_with(Sweep {
            idle_ns,
            ..Sweep::default()
        })
    }

    /// Runs a sweep with the parameters `ask` and returns its result.
    pub fn sweep_with(&mut self, ask: Sweep) -> Sweep {
        let object = self.object_mut();
        maps::set(&mut object.maps.sweep, 0, ask);
        object.run_bare("limiter_sweep");
        maps::get(&object.maps.sweep, 0)
    }

    /// Returns the flows that the sweep with the result `sweep` reported as suspects.
    pub fn suspects(&self, sweep: &Sweep) -> Vec<Suspect> {
        (0..u32::try_from(sweep.suspects).expect("a few"))
            .map(|number| maps::get(&self.object().maps.suspects, number))
            .collect()
    }

    /// Makes the programs forget a flow, and returns the result.
    pub fn forget(&mut self, suspect: Suspect) -> Suspect {
        let object = self.object_mut();
        maps::set(&mut object.maps.forget, 0, suspect);
        object.run_bare("limiter_forget");
        maps::get(&object.maps.forget, 0)
    }

    /// Returns the index of the interface on which packets arrive.
    pub fn ifindex(&self) -> u32 {
        self.link().ifindex()
    }

    /// Adds an untracked connection of the kind `kind` to the map.
    pub fn set_untracked(&mut self, key: FlowKey, kind: u32) {
        let connection = UntrackedConnection {
            kind,
            ..UntrackedConnection::default()
        };
        let untracked = &mut self.object_mut().maps.untracked;
        untracked
            .insert(Plain(key), Plain(connection), 0)
            .expect("enter a connection");
    }

    /// Returns the map entry of an untracked connection.
    pub fn untracked(&self, key: &FlowKey) -> Option<UntrackedConnection> {
        maps::find(&self.object().maps.untracked, &Plain(*key))
    }

    /// Returns the number of flows that the programs count for the address of a client.
    pub fn client_flows(&self, client: &ClientKey) -> Option<u64> {
        maps::find(&self.object().maps.clients, client).map(|client| client.flows)
    }

    /// Sets the maximum number of flows per client address. The value 0 means no maximum.
    pub fn set_client_share(&mut self, flows: u64) {
        self.change_clock(|clock| clock.client_share = flows);
    }

    /// Makes the programs treat untracked connections as older than themselves until the boot clock
    /// reaches `boot_ns`.
    pub fn older_until(&mut self, boot_ns: u64) {
        self.change_clock(|clock| clock.older_until_ns = boot_ns);
    }

    /// Makes the programs refuse untracked connections until the boot clock reaches `boot_ns`.
    pub fn refuse_untracked_until(&mut self, boot_ns: u64) {
        self.change_clock(|clock| clock.refuse_untracked_until_ns = boot_ns);
    }

    /// Makes the programs count as attended until the boot clock reaches `boot_ns`, in nanoseconds.
    /// A daemon extends this period with each complete write to the store.
    pub fn attend_until(&mut self, boot_ns: u64) {
        self.change_clock(|clock| clock.attended_until_ns = boot_ns);
    }

    fn change_clock(&mut self, change: impl FnOnce(&mut Clock)) {
        let map = &mut self.object_mut().maps.clock;
        let mut clock = maps::get(map, 0);
        change(&mut clock);
        maps::set(map, 0, clock);
    }

    /// Sets the limits that will apply to a scope once its present limits have expired, and those
    /// after them.
    pub fn set_later_limits(&mut self, scope: u32, then: &[Limits]) {
        let mut ended = Ended::default();
        ended.stages[..then.len()].copy_from_slice(then);
        let map = &mut self.object_mut().maps.ended;
        map.insert(scope, Plain(ended), 0).expect("enter limits");
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        HELD.set(false);
    }
}

fn load(tables: Tables) -> (Object, TestDevice) {
    (Object::load(tables), TestDevice::new())
}
