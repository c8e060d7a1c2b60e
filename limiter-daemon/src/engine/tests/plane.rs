// SPDX-License-Identifier: MIT OR Apache-2.0

//! An in-memory kernel for tests.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use limiter_common::{
    abi::{self, Digest, KeyEntry, TextKey, counter},
    day::{Day, DayCount},
    gcra::Rate,
};

use super::flows::Flow;
use crate::{
    config,
    domain::hook::{Hook, Mechanism},
    kernel::{
        Attachment, KernelError, Plane,
        netdev::Interface,
        plane::{Count, CountPair, ProgramTime, ReadFirst},
    },
};

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) config: Option<abi::Config>,
    pub(crate) ports: Vec<u16>,
    pub(crate) limits: BTreeMap<u32, abi::Limits>,
    pub(crate) ended: BTreeMap<u32, abi::Ended>,
    pub(crate) allowed: BTreeMap<u32, DayCount>,
    pub(crate) leases: BTreeMap<u32, abi::Lease>,
    /// All limits that have ever been published, in the order of publication.
    pub(crate) published: Vec<(u32, abi::Limits)>,
    pub(crate) state: BTreeMap<u32, abi::ScopeState>,
    pub(crate) keys: HashMap<Digest, KeyEntry>,
    /// The maximum number of keys, if the table of keys is limited.
    pub(crate) key_capacity: Option<usize>,
    /// The number of keys that were entered or replaced in bulk.
    pub(crate) key_writes: usize,
    pub(crate) texts: HashMap<(u32, u32), String>,
    pub(crate) attached: Vec<Attachment>,
    pub(crate) flows: Vec<Flow>,
    /// The number of half-open flows besides those in `flows`.
    pub(crate) more_half_open: u64,
    /// The parameters of the last sweep.
    pub(crate) sweep: abi::Sweep,
    pub(crate) sweeps: Vec<abi::Sweep>,
    pub(crate) suspects: Vec<abi::Suspect>,
    /// The number of flows that each sweep misses.
    pub(crate) missed: u64,
    /// The connections that were entered as older than the limiter.
    pub(crate) older: Vec<abi::FlowKey>,
    /// The number of flows of each client address.
    pub(crate) clients: Vec<u64>,
    /// The number of times that all keys were read.
    pub(crate) key_scans: usize,
    /// The ids that are available for unknown keys.
    pub(crate) unused: Vec<u32>,
    /// The amount by which a count and its recounted sum differ in some reads (see
    /// [`Tables::counted`]).
    pub(crate) noise: u64,
    pub(crate) looks: u64,
    /// For each scope, the requests that the kernel admits just before the last attachment is
    /// removed.
    pub(crate) last_requests: BTreeMap<u32, (Day, u64)>,
    /// The table sizes that were requested.
    pub(crate) larger: Option<config::Tables>,
    /// The step at which making tables larger fails.
    pub(crate) no_larger: Option<NoLarger>,
}

#[derive(Clone, Copy)]
pub(crate) enum NoLarger {
    Prepared,
    Made,
}

impl Tables {
    fn admit(&mut self, scope: u32, day: Day, requests: u64) {
        let state = self.state.entry(scope).or_default();
        let word = DayCount(state.day_count).on(day);
        state.day_count = DayCount::new(word.day(), word.count() + requests).0;
        state.admitted += requests;
    }

    fn no_room_for_keys(&self) -> bool {
        self.key_capacity
            .is_some_and(|room| self.keys.len() >= room)
    }
}

/// An in-memory kernel. A clone refers to the same kernel. This allows another daemon to take over
/// the maps.
#[derive(Clone, Default)]
pub(crate) struct MemoryPlane {
    tables: Arc<Mutex<Tables>>,
    identity: String,
}

impl MemoryPlane {
    pub(crate) fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// Admits `requests` requests of a scope on `day`.
    pub(crate) fn admit(&self, scope: u32, day: Day, requests: u64) {
        self.tables().admit(scope, day, requests);
    }

    pub(crate) fn refuse(&self, scope: u32, reason: u32, requests: u64) {
        self.tables().state.entry(scope).or_default().refused[reason as usize] += requests;
    }
}

impl Plane for MemoryPlane {
    fn set_config(&mut self, config: &abi::Config) -> Result<(), KernelError> {
        self.tables().config = Some(*config);
        Ok(())
    }

    fn set_ports(&mut self, ports: &[u16]) -> Result<(), KernelError> {
        self.tables().ports = ports.to_vec();
        Ok(())
    }

    fn set_limits(&mut self, scope: u32, limits: &abi::Limits) -> Result<(), KernelError> {
        let mut tables = self.tables();
        tables.limits.insert(scope, *limits);
        tables.published.push((scope, *limits));
        Ok(())
    }

    fn set_ended(&mut self, scope: u32, ended: Option<&abi::Ended>) -> Result<(), KernelError> {
        let mut tables = self.tables();
        match ended {
            Some(ended) => tables.ended.insert(scope, *ended),
            None => tables.ended.remove(&scope),
        };
        Ok(())
    }

    fn limits(&self, scope: u32) -> abi::Limits {
        let limits = self.tables().limits.get(&scope).copied();
        abi::Limits {
            allowed: self.allowed(scope).0,
            ..limits.unwrap_or_default()
        }
    }

    fn ended(&self, scope: u32) -> Result<Option<abi::Ended>, KernelError> {
        Ok(self.tables().ended.get(&scope).copied())
    }

    fn allowed(&self, scope: u32) -> DayCount {
        self.tables()
            .allowed
            .get(&scope)
            .copied()
            .unwrap_or_default()
    }

    fn set_allowed(&self, scope: u32, allowed: DayCount) {
        self.tables().allowed.insert(scope, allowed);
    }

    fn set_rate(&self, scope: u32, rate: Rate) {
        if let Some(limits) = self.tables().limits.get_mut(&scope) {
            limits.interval_ns = rate.interval_ns;
            limits.tolerance_ns = rate.tolerance_ns;
        }
    }

    fn set_ahead(&self, scope: u32, ahead: u32) {
        if let Some(limits) = self.tables().limits.get_mut(&scope) {
            limits.ahead = ahead;
        }
    }

    fn lease(&self, scope: u32) -> abi::Lease {
        self.tables()
            .leases
            .get(&scope)
            .copied()
            .unwrap_or_default()
    }

    fn set_lease(&self, scope: u32, lease: &abi::Lease) {
        self.tables().leases.insert(scope, *lease);
    }

    fn wait_for_programs(&self) {}

    fn state(&self, scope: u32) -> abi::ScopeState {
        self.tables().state.get(&scope).copied().unwrap_or_default()
    }

    fn set_day_count(&self, scope: u32, count: DayCount) {
        self.tables().state.entry(scope).or_default().day_count = count.0;
    }

    fn raise_day_count(&self, scope: u32, day: Day, used: u64) {
        let mut tables = self.tables();
        let state = tables.state.entry(scope).or_default();
        let word = DayCount(state.day_count).on(day);
        if word.day() == day && word.count() < used {
            state.day_count = DayCount::new(day, used).0;
        }
    }

    fn add_to_day_count(&self, scope: u32, day: Day, more: u64) {
        let mut tables = self.tables();
        let state = tables.state.entry(scope).or_default();
        let word = DayCount(state.day_count).on(day);
        if word.day() == day {
            state.day_count = DayCount::new(day, word.count() + more).0;
        }
    }

    fn clear_state(&self, scope: u32) {
        self.tables().state.remove(&scope);
    }

    fn set_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError> {
        self.tables().keys.insert(*digest, *entry);
        Ok(())
    }

    fn add_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError> {
        self.tables().keys.entry(*digest).or_insert(*entry);
        Ok(())
    }

    fn set_keys(&mut self, entries: &[(Digest, KeyEntry)]) -> Result<(), KernelError> {
        for (digest, entry) in entries {
            if self.tables().no_room_for_keys() {
                return Err(KernelError::keys_full(0));
            }
            self.set_key(digest, entry)?;
            self.tables().key_writes += 1;
        }
        Ok(())
    }

    fn remove_key(&mut self, digest: &Digest) -> Result<(), KernelError> {
        self.tables().keys.remove(digest);
        Ok(())
    }

    fn key(&self, digest: &Digest) -> Result<Option<KeyEntry>, KernelError> {
        Ok(self.tables().keys.get(digest).copied())
    }

    fn keys(&self) -> Result<Vec<(Digest, KeyEntry)>, KernelError> {
        self.tables().key_scans += 1;
        Ok(self
            .tables()
            .keys
            .iter()
            .map(|(digest, entry)| (*digest, *entry))
            .collect())
    }

    fn set_text(&mut self, key: TextKey, text: &abi::Text) -> Result<(), KernelError> {
        let text = String::from_utf8_lossy(&text.bytes[..text.len as usize]).into_owned();
        self.tables().texts.insert((key.set, key.reason), text);
        Ok(())
    }

    fn remove_text(&mut self, key: TextKey) -> Result<(), KernelError> {
        self.tables().texts.remove(&(key.set, key.reason));
        Ok(())
    }

    fn text_keys(&self) -> Result<Vec<TextKey>, KernelError> {
        let tables = self.tables();
        Ok(tables
            .texts
            .keys()
            .map(|(set, reason)| TextKey {
                set: *set,
                reason: *reason,
            })
            .collect())
    }

    fn counters(&self) -> Result<Vec<u64>, KernelError> {
        Ok((0..u64::from(counter::COUNT)).collect())
    }

    fn last_sweep(&self) -> Result<abi::Sweep, KernelError> {
        Ok(self.tables().sweep)
    }

    fn set_recount(&mut self, number: u32) -> Result<(), KernelError> {
        self.tables().sweep.recount = number;
        Ok(())
    }

    fn sweep(&mut self, ask: &abi::Sweep) -> Result<abi::Sweep, KernelError> {
        Ok(self.tables().swept(ask))
    }

    fn suspects(&self, count: u64) -> Result<Vec<abi::Suspect>, KernelError> {
        let tables = self.tables();
        assert_eq!(tables.suspects.len() as u64, count);
        Ok(tables.suspects.clone())
    }

    fn forget(&mut self, suspect: &abi::Suspect) -> Result<abi::Suspect, KernelError> {
        Ok(self.tables().forget(suspect))
    }

    fn add_older(&mut self, keys: &[abi::FlowKey]) -> Result<u64, KernelError> {
        let mut tables = self.tables();
        tables.older.extend_from_slice(keys);
        Ok(keys.len() as u64)
    }

    fn clients(&self, _census: u64) -> Result<Vec<u64>, KernelError> {
        Ok(self.tables().clients.clone())
    }

    fn unused_left(&self) -> usize {
        self.tables().unused.len()
    }

    fn unused(&self) -> Vec<u32> {
        self.tables().unused.clone()
    }

    fn add_unused(&self, ids: &[u32]) {
        self.tables().unused.extend(ids);
    }

    fn clear_unused(&self) {
        self.tables().unused.clear();
    }

    fn begin_recount(&self, scope: u32, number: u32) {
        let mut tables = self.tables();
        let state = tables.state.entry(scope).or_default();
        state.recount = number.into();
        state.recounted_in_flight = 0;
        state.recounted_connections = 0;
    }

    fn end_recount(&self, scope: u32, number: u32) {
        let mut tables = self.tables();
        let state = tables.state.entry(scope).or_default();
        if state.recount == u64::from(number) {
            state.recount = 0;
        }
    }

    fn counted(
        &self,
        scope: u32,
        count: Count,
        first: ReadFirst,
        number: u32,
    ) -> Option<CountPair> {
        self.tables().counted(scope, count, first, number)
    }

    fn correct(&self, scope: u32, count: Count, by: i64) -> u64 {
        let mut tables = self.tables();
        let state = tables.state.entry(scope).or_default();
        let word = match count {
            Count::InFlight => &mut state.in_flight,
            Count::Connections => &mut state.connections,
        };
        let before = *word;
        *word = before.saturating_add_signed(by);
        word.abs_diff(before)
    }

    fn follow(&mut self, interfaces: &[Interface]) -> Result<Vec<String>, KernelError> {
        self.tables().attached = interfaces
            .iter()
            .map(|interface| Attachment {
                interface: interface.name.clone(),
                hook: Hook::Ingress,
                before: Vec::new(),
            })
            .collect();
        Ok(Vec::new())
    }

    fn attached(&self) -> Vec<Attachment> {
        self.tables().attached.clone()
    }

    fn mechanism(&self) -> Mechanism {
        Mechanism::Tcx
    }

    fn release(&mut self) -> Result<Vec<String>, KernelError> {
        let mut tables = self.tables();
        tables.attached.clear();
        for (scope, (day, requests)) in std::mem::take(&mut tables.last_requests) {
            tables.admit(scope, day, requests);
        }
        Ok(vec!["attachments".to_owned()])
    }

    fn measure_programs(&mut self) -> Result<(), KernelError> {
        Ok(())
    }

    fn program_times(&self) -> Result<Vec<ProgramTime>, KernelError> {
        Ok(Vec::new())
    }

    fn detach(&mut self) -> Result<Vec<String>, KernelError> {
        *self.tables() = Tables::default();
        Ok(vec!["everything".to_owned()])
    }

    fn prepare_larger(&mut self, wanted: &config::Tables) -> Result<bool, KernelError> {
        let mut tables = self.tables();
        tables.larger = Some(*wanted);
        match tables.no_larger {
            Some(NoLarger::Prepared) => Err(KernelError::Lapsed),
            _ => Ok(true),
        }
    }

    fn make_larger(&mut self) -> Result<config::Tables, KernelError> {
        let tables = self.tables();
        match tables.no_larger {
            Some(_) => Err(KernelError::Lapsed),
            None => tables.larger.ok_or(KernelError::Lapsed),
        }
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}
