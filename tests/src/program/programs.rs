//! The programs with their maps, as a test finds them: loaded once, emptied for each.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use limiter_common::abi::{
    Clock, Config, Flow, FlowKey, KeyEntry, Limits, Ports, ScopeState, Suspect, Sweep, TextKey,
    Tomb, Unused, counter, reason,
};

use super::{
    link::Link,
    maps::{self, Plain},
    object::{Object, Tables},
    rules::{self, COMMON_TEXTS, SCOPE_TEXTS},
    run::{self, Extras, Hook, Ran},
};
use crate::GUARDED;

/// Small, so that full tables can be had.
const TABLES: Tables = Tables {
    scopes: 16,
    keys: 16,
    flows: 8,
};

/// Loading takes a second, most of it the verifier's.
static LOADED: Mutex<Option<(Object, Link)>> = Mutex::new(None);

thread_local! {
    /// Whether this thread has them: it would wait for itself.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// The loaded programs; tests take turns, and each has them once at a time.
pub struct Programs {
    loaded: MutexGuard<'static, Option<(Object, Link)>>,
}

impl Programs {
    /// With empty maps, [`rules::config`], [`GUARDED`] guarded, and all texts.
    ///
    /// # Panics
    /// Without root, or when the kernel refuses the programs.
    pub fn fresh() -> Self {
        assert!(
            !HELD.get(),
            "drop the programs before you ask for them again"
        );
        // A test that failed leaves nothing behind that is not cleared here.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let (object, link) = loaded.get_or_insert_with(|| load(TABLES));
        link.enter();
        object.maps.clear();
        Self { loaded }.filled()
    }

    /// As [`Programs::fresh`], with maps of these sizes, loaded for this purpose.
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

    /// What is loaded, to run it by other means.
    pub fn object(&self) -> &Object {
        &self.loaded.as_ref().expect("loaded").0
    }

    /// As [`Programs::object`].
    pub fn object_mut(&mut self) -> &mut Object {
        &mut self.loaded.as_mut().expect("loaded").0
    }

    fn link(&self) -> &Link {
        &self.loaded.as_ref().expect("loaded").1
    }

    /// [`rules::config`] with changes.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = rules::config();
        change(&mut config);
        maps::set(&mut self.object_mut().maps.config, 0, config);
    }

    /// Guards these ports and no others.
    pub fn guard(&mut self, ports: &[u16]) {
        let mut bits = Ports([0; 1024]);
        for port in ports {
            bits.0[usize::from(port / 64)] |= 1 << (port % 64);
        }
        maps::set(&mut self.object_mut().maps.ports, 0, bits);
    }

    /// Enters a scope with these limits and one key.
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

    /// Sets the limits of a scope.
    pub fn limit(&mut self, scope: u32, limits: Limits) {
        maps::set(&mut self.object_mut().maps.limits, scope, limits);
    }

    /// Enters a key.
    pub fn key(&mut self, key: &str, entry: KeyEntry) {
        let keys = &mut self.object_mut().maps.keys;
        keys.insert(rules::digest(key), Plain(entry), 0)
            .expect("enter a key");
    }

    /// A key's entry.
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

    /// Publishes the offset from the boot clock to UTC.
    pub fn set_clock(&mut self, utc_offset_ns: u64) {
        self.change_clock(|clock| clock.utc_offset_ns = utc_offset_ns);
    }

    /// Adds scope ids for unknown keys; the last comes first.
    pub fn offer(&mut self, ids: &[u32]) {
        let unused = &mut self.object_mut().maps.unused;
        for id in ids {
            let head = Unused(unused.get(&0, 0).expect("the stack of ids"));
            let left = head.left() + 1;
            unused.set(left, u64::from(*id), 0).expect("offer an id");
            unused.set(0, head.with(left).0, 0).expect("offer an id");
        }
    }

    /// How many scope ids are left for unknown keys.
    pub fn unused(&self) -> u32 {
        let head = self.object().maps.unused.get(&0, 0);
        Unused(head.expect("the stack of ids")).left()
    }

    /// Forgets a text.
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

    /// All counters that are not zero, by their names.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        (0..)
            .zip(counter::NAMES)
            .map(|(index, name)| (*name, self.counter(index)))
            .filter(|(_, count)| *count != 0)
            .collect()
    }

    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        maps::find(&self.object().maps.flows, &Plain(*key))
    }

    /// Replaces a flow.
    pub fn set_flow(&mut self, flow: Flow) {
        let flows = &mut self.object_mut().maps.flows;
        flows
            .insert(Plain(flow.key), Plain(flow), 0)
            .expect("enter a flow");
    }

    /// The keys of all flows.
    pub fn flows(&self) -> Vec<FlowKey> {
        let keys = self.object().maps.flows.keys();
        keys.map(|key| key.expect("a flow's key").0).collect()
    }

    /// Whether these bytes stand in a flow.
    pub fn flows_hold(&self, bytes: &[u8]) -> bool {
        self.flows()
            .iter()
            .filter_map(|key| self.flow(key))
            .any(|flow| {
                let start = (&raw const flow).cast::<u8>();
                // SAFETY: a flow is made of integers and arrays of them, and its padding is explicit.
                let flow = unsafe { std::slice::from_raw_parts(start, size_of::<Flow>()) };
                flow.windows(bytes.len()).any(|window| window == bytes)
            })
    }

    pub fn tomb(&self, key: &FlowKey) -> Option<Tomb> {
        maps::find(&self.object().maps.tombs, &Plain(*key))
    }

    /// Runs a program on a packet.
    #[track_caller]
    pub fn run(&mut self, hook: Hook, packet: &[u8]) -> Ran {
        self.run_with(hook, packet, Extras::default())
    }

    /// Runs a program on a packet with what it brings along.
    #[track_caller]
    pub fn run_with(&mut self, hook: Hook, packet: &[u8], extras: Extras) -> Ran {
        let link = self.link();
        link.caught();
        let mut ran = run::run(self.object(), hook, link.ifindex(), packet, extras);
        ran.sent = link.caught();
        // The stack of the namespace speaks IPv6 by itself; it knows nothing of TCP.
        ran.sent
            .retain(|packet| run::is_tcp(packet, hook.ethernet()));
        ran
    }

    /// Runs the sweep, and says what it answered.
    pub fn sweep(&mut self, idle_ns: [u64; 4]) -> Sweep {
        self.sweep_with(Sweep {
            idle_ns,
            ..Sweep::default()
        })
    }

    /// Runs the sweep as `ask` says, and says what it answered.
    pub fn sweep_with(&mut self, ask: Sweep) -> Sweep {
        let object = self.object_mut();
        maps::set(&mut object.maps.sweep, 0, ask);
        object.run_bare("limiter_sweep");
        maps::get(&object.maps.sweep, 0)
    }

    /// The flows that the last sweep named.
    pub fn suspects(&self, sweep: &Sweep) -> Vec<Suspect> {
        (0..u32::try_from(sweep.suspects).expect("a few"))
            .map(|number| maps::get(&self.object().maps.suspects, number))
            .collect()
    }

    /// Has a flow forgotten, and says what became of that.
    pub fn forget(&mut self, suspect: Suspect) -> Suspect {
        let object = self.object_mut();
        maps::set(&mut object.maps.forget, 0, suspect);
        object.run_bare("limiter_forget");
        maps::get(&object.maps.forget, 0)
    }

    /// Has connections that are not known refused until `boot_ns`.
    pub fn refuse_strangers_until(&mut self, boot_ns: u64) {
        self.change_clock(|clock| clock.refuse_strangers_until_ns = boot_ns);
    }

    /// Has the daemon answer for its store until `boot_ns`.
    pub fn attend_until(&mut self, boot_ns: u64) {
        self.change_clock(|clock| clock.attended_until_ns = boot_ns);
    }

    fn change_clock(&mut self, change: impl FnOnce(&mut Clock)) {
        let map = &mut self.object_mut().maps.clock;
        let mut clock = maps::get(map, 0);
        change(&mut clock);
        maps::set(map, 0, clock);
    }

    /// Sets what holds for a scope when its limits end.
    pub fn end(&mut self, scope: u32, then: Limits) {
        let ended = &mut self.object_mut().maps.ended;
        ended.insert(scope, Plain(then), 0).expect("enter limits");
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        HELD.set(false);
    }
}

fn load(tables: Tables) -> (Object, Link) {
    (Object::load(tables), Link::new())
}
