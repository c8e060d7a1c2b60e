// SPDX-License-Identifier: MIT OR Apache-2.0

//! The operations of [`Plane`] on the programs and maps in the kernel.

use aya::{
    programs::Program,
    sys::{Stats, enable_stats},
};
use limiter_common::{
    abi::{self, Digest, KeyEntry, TextKey, counter, map},
    day::{Day, DayCount},
    gcra::Rate,
};

use super::{
    Attachment, Kernel, KernelError, Plane, detach,
    error::map_error,
    growth::{self, LargerMaps},
    layouts,
    maps::{Plain, add, all, insert, insert_all, lookup, remove},
    netdev::Interface,
    pins::{TEXT_ENTRIES, shapes, untracked_entries},
    plane::{Count, CountPair, ProgramTime, ReadFirst},
    programs::{FORGET_PROGRAM, PROGRAMS, SWEEP_PROGRAM, program_name},
    sys, translated,
};
use crate::{
    config::Tables,
    domain::hook::{Hook, Mechanism, Missing},
};

impl Kernel {
    /// Ends the connections whose packets are translated and for which `is_wanted` returns true,
    /// and logs that. Call this function before and after the programs stop seeing these
    /// connections: before, because a reset of the server has to be translated, and after, because
    /// more requests may have been refused in between.
    fn end_translated(&self, is_wanted: impl Fn(&abi::Flow) -> bool) {
        for change in translated::end(&self.set.maps.flows, is_wanted) {
            log::info!("{change}");
        }
    }
}

impl Plane for Kernel {
    fn set_config(&mut self, config: &abi::Config) -> Result<(), KernelError> {
        self.set
            .maps
            .config
            .set(0, Plain(*config), 0)
            .map_err(map_error(map::CONFIG))
    }

    fn set_ports(&mut self, ports: &[u16]) -> Result<(), KernelError> {
        let mut bits = abi::Ports([0; 1024]);
        for port in ports {
            bits.0[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        let ports = &self.set.maps.ports;
        let Plain(guarded) = ports.get(&0, 0).map_err(map_error(map::PORTS))?;
        let is_dropped = |flow: &abi::Flow| {
            let port = u16::from_be(flow.key.server_port);
            let (word, bit) = (usize::from(port >> 6), 1 << (port & 63));
            guarded.0[word] & !bits.0[word] & bit != 0
        };
        let mut words = guarded.0.iter().zip(&bits.0);
        let drops = words.any(|(old, new)| old & !new != 0);
        if drops {
            self.end_translated(is_dropped);
        }
        let ports = &mut self.set.maps.ports;
        ports
            .set(0, Plain(bits), 0)
            .map_err(map_error(map::PORTS))?;
        if drops {
            self.end_translated(is_dropped);
        }
        Ok(())
    }

    fn set_limits(&mut self, scope: u32, limits: &abi::Limits) -> Result<(), KernelError> {
        if !self.set.limits.set(scope, limits) {
            return Err(KernelError::scopes_full(self.set.tables.scopes));
        }
        let rate = Rate {
            interval_ns: limits.interval_ns,
            tolerance_ns: limits.tolerance_ns,
        };
        self.set.state.lower_tat(scope, rate, sys::boot_ns());
        Ok(())
    }

    fn set_ended(&mut self, scope: u32, ended: Option<&abi::Ended>) -> Result<(), KernelError> {
        match ended {
            Some(ended) => {
                let full = KernelError::scopes_full(self.set.tables.scopes);
                insert(
                    &mut self.set.maps.ended,
                    scope,
                    Plain(*ended),
                    map::ENDED,
                    full,
                )
            }
            None => remove(&mut self.set.maps.ended, &scope, map::ENDED),
        }
    }

    fn limits(&self, scope: u32) -> abi::Limits {
        self.set.limits.get(scope)
    }

    fn ended(&self, scope: u32) -> Result<Option<abi::Ended>, KernelError> {
        Ok(lookup(&self.set.maps.ended, &scope, map::ENDED)?.map(|ended| ended.0))
    }

    fn allowed(&self, scope: u32) -> DayCount {
        self.set.limits.allowed(scope)
    }

    fn set_allowed(&self, scope: u32, allowed: DayCount) {
        self.set.limits.set_allowed(scope, allowed);
    }

    fn set_rate(&self, scope: u32, rate: Rate) {
        self.set.limits.set_rate(scope, rate);
        self.set.state.lower_tat(scope, rate, sys::boot_ns());
    }

    fn set_ahead(&self, scope: u32, ahead: u32) {
        self.set.limits.set_ahead(scope, ahead);
    }

    fn lease(&self, scope: u32) -> abi::Lease {
        self.set.leases.get(scope)
    }

    fn set_lease(&self, scope: u32, lease: &abi::Lease) {
        self.set.leases.set(scope, lease);
    }

    fn wait_for_programs(&self) {
        sys::wait_for_programs();
    }

    fn state(&self, scope: u32) -> abi::ScopeState {
        self.set.state.read(scope)
    }

    fn set_day_count(&self, scope: u32, count: DayCount) {
        self.set.state.set_day_count(scope, count);
    }

    fn raise_day_count(&self, scope: u32, day: Day, used: u64) {
        self.set.state.raise_day_count(scope, day, used);
    }

    fn add_to_day_count(&self, scope: u32, day: Day, more: u64) {
        self.set.state.add_to_day_count(scope, day, more);
    }

    fn clear_state(&self, scope: u32) {
        self.set.state.clear(scope);
    }

    fn set_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError> {
        let full = KernelError::keys_full(self.set.tables.keys);
        insert(
            &mut self.set.maps.keys,
            digest,
            Plain(*entry),
            map::KEYS,
            full,
        )
    }

    fn add_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError> {
        let full = KernelError::keys_full(self.set.tables.keys);
        add(
            &mut self.set.maps.keys,
            digest,
            Plain(*entry),
            map::KEYS,
            full,
        )
    }

    fn set_keys(&mut self, entries: &[(Digest, KeyEntry)]) -> Result<(), KernelError> {
        let entries: Vec<_> = entries
            .iter()
            .map(|(digest, entry)| (*digest, Plain(*entry)))
            .collect();
        let full = || KernelError::keys_full(self.set.tables.keys);
        insert_all(&mut self.set.maps.keys, &entries, map::KEYS, full)
    }

    fn remove_key(&mut self, digest: &Digest) -> Result<(), KernelError> {
        remove(&mut self.set.maps.keys, digest, map::KEYS)
    }

    fn key(&self, digest: &Digest) -> Result<Option<KeyEntry>, KernelError> {
        Ok(lookup(&self.set.maps.keys, digest, map::KEYS)?.map(|entry| entry.0))
    }

    fn keys(&self) -> Result<Vec<(Digest, KeyEntry)>, KernelError> {
        let entries = all(&self.set.maps.keys, map::KEYS)?;
        Ok(entries
            .into_iter()
            .map(|(digest, entry)| (digest, entry.0))
            .collect())
    }

    fn set_text(&mut self, key: TextKey, text: &abi::Text) -> Result<(), KernelError> {
        let hint = "too many scopes have limits of their own that no other scope has: use tiers";
        let full = KernelError::Full {
            table: "texts",
            entries: TEXT_ENTRIES,
            hint,
        };
        insert(
            &mut self.set.maps.texts,
            Plain(key),
            Plain(*text),
            map::TEXTS,
            full,
        )
    }

    fn remove_text(&mut self, key: TextKey) -> Result<(), KernelError> {
        remove(&mut self.set.maps.texts, &Plain(key), map::TEXTS)
    }

    fn text_keys(&self) -> Result<Vec<TextKey>, KernelError> {
        self.set
            .maps
            .texts
            .keys()
            .map(|key| key.map(|key| key.0))
            .collect::<Result<_, _>>()
            .map_err(map_error(map::TEXTS))
    }

    fn counters(&self) -> Result<Vec<u64>, KernelError> {
        (0..counter::COUNT)
            .map(|index| {
                let values = self
                    .set
                    .maps
                    .counters
                    .get(&index, 0)
                    .map_err(map_error(map::COUNTERS))?;
                Ok(values.iter().sum())
            })
            .collect()
    }

    fn last_sweep(&self) -> Result<abi::Sweep, KernelError> {
        Ok(self
            .set
            .maps
            .sweep
            .get(&0, 0)
            .map_err(map_error(map::SWEEP))?
            .0)
    }

    fn set_recount(&mut self, number: u32) -> Result<(), KernelError> {
        let sweep = abi::Sweep {
            recount: number,
            ..self.last_sweep()?
        };
        self.set
            .maps
            .sweep
            .set(0, Plain(sweep), 0)
            .map_err(map_error(map::SWEEP))
    }

    fn sweep(&mut self, ask: &abi::Sweep) -> Result<abi::Sweep, KernelError> {
        self.set
            .maps
            .sweep
            .set(0, Plain(*ask), 0)
            .map_err(map_error(map::SWEEP))?;
        self.run_program(SWEEP_PROGRAM)?;
        self.last_sweep()
    }

    fn suspects(&self, count: u64) -> Result<Vec<abi::Suspect>, KernelError> {
        let count = u32::try_from(count).unwrap_or(abi::MAX_SUSPECTS);
        (0..count.min(abi::MAX_SUSPECTS))
            .map(|number| Ok(self.set.maps.suspects.get(&number, 0)?.0))
            .collect::<Result<_, _>>()
            .map_err(map_error(map::SUSPECTS))
    }

    fn forget(&mut self, suspect: &abi::Suspect) -> Result<abi::Suspect, KernelError> {
        let forget = map_error(map::FORGET);
        self.set
            .maps
            .forget
            .set(0, Plain(*suspect), 0)
            .map_err(&forget)?;
        self.run_program(FORGET_PROGRAM)?;
        Ok(self.set.maps.forget.get(&0, 0).map_err(forget)?.0)
    }

    fn add_older(&mut self, keys: &[abi::FlowKey]) -> Result<u64, KernelError> {
        let older = abi::UntrackedConnection {
            kind: abi::untracked_kind::OLDER,
            flags: 0,
            last_seen_ns: sys::coarse_ns(),
        };
        let mut added = 0;
        for key in keys.iter().copied().map(Plain) {
            let maps = &mut self.set.maps;
            if lookup(&maps.flows, &key, map::FLOWS)?.is_some() {
                continue;
            }
            let full = KernelError::untracked_full(untracked_entries(&self.set.tables));
            add(&mut maps.untracked, key, Plain(older), map::UNTRACKED, full)?;
            added += 1;
            // A connection that was opened in the meantime is tracked, so it must not stay among
            // the untracked connections.
            if lookup(&maps.flows, &key, map::FLOWS)?.is_some() {
                remove(&mut maps.untracked, &key, map::UNTRACKED)?;
                added -= 1;
            }
        }
        Ok(added)
    }

    fn clients(&self, census: u64) -> Result<Vec<u64>, KernelError> {
        let clients = all(&self.set.maps.clients, map::CLIENTS)?;
        let counted = clients
            .into_iter()
            .filter(|(_, client)| client.0.census == census);
        Ok(counted.map(|(_, client)| client.0.flows).collect())
    }

    fn unused_left(&self) -> usize {
        self.set.unused.left() as usize
    }

    fn unused(&self) -> Vec<u32> {
        self.set.unused.list()
    }

    fn add_unused(&self, ids: &[u32]) {
        self.set.unused.add(ids);
    }

    fn clear_unused(&self) {
        self.set.unused.clear();
    }

    fn begin_recount(&self, scope: u32, number: u32) {
        self.set.state.begin_recount(scope, number);
    }

    fn end_recount(&self, scope: u32, number: u32) {
        self.set.state.end_recount(scope, number);
    }

    fn counted(
        &self,
        scope: u32,
        count: Count,
        first: ReadFirst,
        number: u32,
    ) -> Option<CountPair> {
        self.set.state.counted(scope, count, first, number)
    }

    fn correct(&self, scope: u32, count: Count, by: i64) -> u64 {
        self.set.state.correct(scope, count, by)
    }

    fn follow(&mut self, interfaces: &[Interface]) -> Result<Vec<String>, KernelError> {
        let dropped = self.attachments.dropped(interfaces)?;
        let is_dropped = |flow: &abi::Flow| dropped.contains(&flow.link.ifindex);
        if !dropped.is_empty() {
            self.end_translated(is_dropped);
        }
        let followed = self.attachments.follow(&mut self.set.ebpf, interfaces);
        if !dropped.is_empty() {
            self.end_translated(is_dropped);
        }
        let done = followed?;
        layouts::retire(&self.pins, &mut self.set.maps.counters)?;
        if self.larger.is_none() {
            growth::clear(&self.pins)?;
        }
        Ok(done)
    }

    fn attached(&self) -> Vec<Attachment> {
        self.attachments.list()
    }

    fn missing(&self) -> Vec<Missing> {
        self.attachments.missing()
    }

    fn unpinned(&self) -> Option<KernelError> {
        let mut pins = shapes(&self.set.tables)
            .into_iter()
            .map(|shape| self.pins.maps().join(shape.name));
        pins.find(|pin| !pin.exists()).map(KernelError::Unpinned)
    }

    fn contested(&mut self) -> Vec<(String, Hook)> {
        self.attachments.contested()
    }

    fn mechanism(&self) -> Mechanism {
        self.attachments.mechanism()
    }

    fn release(&mut self) -> Result<Vec<String>, KernelError> {
        let mut removed = translated::end(&self.set.maps.flows, |_| true);
        removed.extend(detach::remove_attachments(&self.pins)?);
        self.end_translated(|_| true);
        self.attachments = self.attachments.emptied();
        Ok(removed)
    }

    fn measure_programs(&mut self) -> Result<(), KernelError> {
        let measuring =
            enable_stats(Stats::RunTime).map_err(|error| KernelError::Measure(error.io_error))?;
        self.measuring = Some(measuring);
        Ok(())
    }

    fn program_times(&self) -> Result<Vec<ProgramTime>, KernelError> {
        if self.measuring.is_none() {
            return Ok(Vec::new());
        }
        let mut times = Vec::new();
        for name in PROGRAMS {
            let program = match self.set.ebpf.program(name) {
                // A program that no interface has needed yet is not loaded, and has no
                // measurements.
                Some(Program::SchedClassifier(program)) if program.fd().is_ok() => program,
                _ => continue,
            };
            let info = program.info().map_err(|source| KernelError::Program {
                name: name.to_owned(),
                source: Box::new(source),
            })?;
            times.push(ProgramTime {
                program: name,
                runs: info.run_count(),
                time: info.run_time(),
            });
        }
        Ok(times)
    }

    fn detach(&mut self) -> Result<Vec<String>, KernelError> {
        let mut removed = detach::remove_attachments(&self.pins)?;
        self.attachments = self.attachments.emptied();
        removed.extend(detach::remove_maps(self.pins.root())?);
        Ok(removed)
    }

    fn prepare_larger(&mut self, wanted: &Tables) -> Result<bool, KernelError> {
        let tables = self.set.tables.at_least(wanted);
        if tables == self.set.tables {
            return Ok(false);
        }
        let (pins, attachments) = (&self.pins, &self.attachments);
        let larger =
            LargerMaps::prepare(pins, &mut self.set, &tables, attachments, &self.identity)?;
        self.larger = Some(larger);
        Ok(true)
    }

    fn make_larger(&mut self) -> Result<Tables, KernelError> {
        if let Some(larger) = self.larger.take() {
            self.set = larger.put_in_force(&self.pins, &mut self.set, &mut self.attachments)?;
            // The new tables are in force now. If the following steps fail, `follow` or the next
            // start completes them.
            let programs = self
                .attachments
                .replace(&mut self.set.ebpf, program_name)
                .and_then(|()| growth::clear(&self.pins));
            if let Err(error) = programs {
                log::warn!(
                    "the tables are larger, but the previous ones could not be cleaned up yet: {error}"
                );
            }
        }
        Ok(self.set.tables)
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}
