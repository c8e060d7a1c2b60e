//! The loaded object: programs, maps and attachments together.

use std::os::fd::OwnedFd;

use aya::{
    programs::{Program, TestRun as _, TestRunOptions},
    sys::{Stats, enable_stats},
    util::KernelVersion,
};
use limiter_common::{
    abi::{self, Digest, KeyEntry, TextKey, counter, map},
    day::{Day, DayCount},
    gcra::Rate,
};

use super::{
    Attached, KernelError, Mechanism, Plane,
    attach::{Attachments, PROGRAMS, loaded, program_name},
    detach,
    error::map_error,
    growth::{self, Larger},
    layouts,
    maps::{ClockMap, Plain, add, all, insert, insert_all, lookup, remove},
    netdev::Interface,
    pins::{PinDirectory, TEXT_ENTRIES},
    plane::{Count, Counted, First, ProgramTime},
    set::{MapSet, Rings},
    sys,
};
use crate::config::{AttachHook, Tables};

/// The program that removes dead flows.
const SWEEP_PROGRAM: &str = "limiter_sweep";
/// The program that removes one flow.
const FORGET_PROGRAM: &str = "limiter_forget";

/// What to load, and where to keep it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sizes of the tables that are not pinned yet; see [`Plane::prepare_larger`] for the others.
    pub tables: Tables,
    /// How to attach.
    pub hook: AttachHook,
    /// Where to pin.
    pub pins: PinDirectory,
}

/// The kernel's side, for real.
pub struct Kernel {
    set: MapSet,
    /// What is to take its place.
    larger: Option<Larger>,
    attachments: Attachments,
    pins: PinDirectory,
    identity: String,
    /// While it is open, the kernel measures what programs take.
    measuring: Option<OwnedFd>,
}

impl Kernel {
    /// Loads the object; pinned maps are taken over with what they hold. Nothing is attached
    /// yet, and what an earlier daemon attached goes on.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn load(settings: &Settings) -> Result<(Self, ClockMap, Rings), KernelError> {
        let Settings { tables, hook, pins } = settings;
        let mechanism = match hook {
            AttachHook::Tcx if !has_tcx() => return Err(KernelError::NoTcx),
            AttachHook::Clsact => Mechanism::Clsact,
            AttachHook::Tcx => Mechanism::Tcx,
            AttachHook::Auto if has_tcx() => Mechanism::Tcx,
            AttachHook::Auto => Mechanism::Clsact,
        };
        pins.prepare()?;
        layouts::carry_over(pins, tables)?;
        let tables = pins.tables(tables)?;
        if pins.verify(&tables)? {
            log::info!("taking over the maps pinned in {}", pins.root().display());
        }
        let (set, clock, rings) = MapSet::open(&pins.maps(), &tables)?;
        let identity = growth::identity(&pins.maps())?;
        let kernel = Self {
            set,
            larger: None,
            attachments: Attachments::new(mechanism, pins.clone()),
            pins: pins.clone(),
            identity,
            measuring: None,
        };
        Ok((kernel, clock, rings))
    }
}

impl Kernel {
    /// What sizes the tables have.
    pub fn tables(&self) -> Tables {
        self.set.tables
    }

    /// Runs a program that is attached nowhere.
    fn run_program(&mut self, name: &str) -> Result<(), KernelError> {
        let program = loaded(&mut self.set.ebpf, name)?;
        // The kernel wants an Ethernet frame to run a classifier on; the programs do not look.
        let frame = [0u8; 64];
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: 1,
            ..TestRunOptions::default()
        };
        match program.test_run(options) {
            Ok(_) => Ok(()),
            Err(source) => Err(KernelError::Program {
                name: name.to_owned(),
                source: Box::new(source),
            }),
        }
    }
}

/// TCX links came with 6.6. A kernel whose version cannot be read gets what every kernel has.
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
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
        self.set
            .maps
            .ports
            .set(0, Plain(bits), 0)
            .map_err(map_error(map::PORTS))
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

    fn set_ended(&mut self, scope: u32, limits: Option<&abi::Limits>) -> Result<(), KernelError> {
        match limits {
            Some(limits) => {
                let full = KernelError::scopes_full(self.set.tables.scopes);
                insert(
                    &mut self.set.maps.ended,
                    scope,
                    Plain(*limits),
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

    fn ended(&self, scope: u32) -> Result<Option<abi::Limits>, KernelError> {
        Ok(lookup(&self.set.maps.ended, &scope, map::ENDED)?.map(|limits| limits.0))
    }

    fn allowed(&self, scope: u32) -> DayCount {
        self.set.limits.allowed(scope)
    }

    fn set_allowed(&self, scope: u32, allowed: DayCount) {
        self.set.limits.set_allowed(scope, allowed);
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
            what: "texts",
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

    fn counted(&self, scope: u32, count: Count, first: First, number: u32) -> Option<Counted> {
        self.set.state.counted(scope, count, first, number)
    }

    fn correct(&self, scope: u32, count: Count, by: i64) -> u64 {
        self.set.state.correct(scope, count, by)
    }

    fn follow(&mut self, interfaces: &[Interface]) -> Result<Vec<String>, KernelError> {
        let done = self.attachments.follow(&mut self.set.ebpf, interfaces)?;
        layouts::retire(&self.pins, &mut self.set.maps.counters)?;
        if self.larger.is_none() {
            growth::clear(&self.pins)?;
        }
        Ok(done)
    }

    fn attached(&self) -> Vec<Attached> {
        self.attachments.list()
    }

    fn mechanism(&self) -> Mechanism {
        self.attachments.mechanism()
    }

    fn release(&mut self) -> Result<Vec<String>, KernelError> {
        let removed = detach::remove_attachments(&self.pins)?;
        self.attachments = Attachments::new(self.attachments.mechanism(), self.pins.clone());
        Ok(removed)
    }

    fn measure_programs(&mut self) -> Result<(), KernelError> {
        let measuring = enable_stats(Stats::RunTime).map_err(|error| KernelError::Io {
            path: "BPF_ENABLE_STATS".into(),
            source: error.io_error,
        })?;
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
                // Those that no interface wanted yet are not loaded.
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
        let mut removed = self.release()?;
        removed.extend(detach::remove_maps(self.pins.root())?);
        Ok(removed)
    }

    fn prepare_larger(&mut self, wanted: &Tables) -> Result<bool, KernelError> {
        let tables = self.set.tables.at_least(wanted);
        if tables == self.set.tables {
            return Ok(false);
        }
        let (pins, attachments) = (&self.pins, &self.attachments);
        let larger = Larger::prepare(pins, &mut self.set, &tables, attachments, &self.identity)?;
        self.larger = Some(larger);
        Ok(true)
    }

    fn make_larger(&mut self) -> Result<Tables, KernelError> {
        if let Some(larger) = self.larger.take() {
            self.set = larger.put_in_force(&self.pins, &mut self.set, &mut self.attachments)?;
            // From here on it is done; what is not tidy is tidied by `follow`, or by the next start.
            let programs = self
                .attachments
                .replace(&mut self.set.ebpf, program_name)
                .and_then(|()| growth::clear(&self.pins));
            if let Err(error) = programs {
                log::warn!("the tables are larger; still to be tidied up: {error}");
            }
        }
        Ok(self.set.tables)
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}
