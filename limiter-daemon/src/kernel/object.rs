//! The loaded object: programs, maps and attachments together.

use std::{fs, os::fd::OwnedFd};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
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
    attach::{Attachments, PROGRAMS, loaded},
    detach,
    error::map_error,
    events::Events,
    layouts,
    limits::LimitsMap,
    maps::{ClockMap, Maps, Plain, all, insert, insert_all, lookup, remove},
    netdev::Interface,
    pins::{PinDirectory, TEXT_ENTRIES, key_entries, unused_entries},
    plane::{Count, Counted, First, ProgramTime},
    state::StateMap,
    sys,
    unused::UnusedMap,
};
use crate::config::{AttachHook, Tables};

/// The kernel program, built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/limiter-ebpf"));

/// The program that removes dead flows.
const SWEEP_PROGRAM: &str = "limiter_sweep";
/// The program that removes one flow.
const FORGET_PROGRAM: &str = "limiter_forget";

/// What to load, and where to keep it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sizes of the tables.
    pub tables: Tables,
    /// How to attach.
    pub hook: AttachHook,
    /// Where to pin.
    pub pins: PinDirectory,
}

/// The kernel's side, for real.
pub struct Kernel {
    ebpf: Ebpf,
    maps: Maps,
    state: StateMap,
    limits: LimitsMap,
    unused: UnusedMap,
    attachments: Attachments,
    pins: PinDirectory,
    tables: Tables,
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
    pub fn load(settings: &Settings) -> Result<(Self, ClockMap, Events), KernelError> {
        let Settings { tables, hook, pins } = settings;
        pins.prepare()?;
        layouts::carry_over(pins, tables)?;
        if pins.verify(tables)? {
            log::info!("taking over the maps pinned in {}", pins.root().display());
        }
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins.maps())
            .map_max_entries(map::KEYS, key_entries(tables))
            .map_max_entries(map::LIMITS, tables.scope_ids())
            .map_max_entries(map::ENDED, tables.scope_ids())
            .map_max_entries(map::STATE, tables.scope_ids())
            .map_max_entries(map::UNUSED, unused_entries(tables))
            .map_max_entries(map::FLOWS, tables.flows)
            .load(OBJECT)
            .map_err(|source| KernelError::Load(Box::new(source)))?;
        let state_data = array_data(&mut ebpf, map::STATE)?;
        let identity = identity(&state_data)?;
        let state = StateMap::new(state_data, tables.scope_ids())?;
        let limits_data = array_data(&mut ebpf, map::LIMITS)?;
        let limits = LimitsMap::new(limits_data, tables.scope_ids())?;
        let unused_data = array_data(&mut ebpf, map::UNUSED)?;
        let unused = UnusedMap::new(unused_data, unused_entries(tables))?;
        let maps = Maps {
            config: array(&mut ebpf, map::CONFIG)?,
            ports: array(&mut ebpf, map::PORTS)?,
            sweep: array(&mut ebpf, map::SWEEP)?,
            suspects: array(&mut ebpf, map::SUSPECTS)?,
            forget: array(&mut ebpf, map::FORGET)?,
            ended: HashMap::try_from(take(&mut ebpf, map::ENDED)?)
                .map_err(map_error(map::ENDED))?,
            keys: HashMap::try_from(take(&mut ebpf, map::KEYS)?).map_err(map_error(map::KEYS))?,
            texts: HashMap::try_from(take(&mut ebpf, map::TEXTS)?)
                .map_err(map_error(map::TEXTS))?,
            counters: PerCpuArray::try_from(take(&mut ebpf, map::COUNTERS)?)
                .map_err(map_error(map::COUNTERS))?,
        };
        let clock = ClockMap::new(take(&mut ebpf, map::CLOCK)?)?;
        let events = Events::new(take(&mut ebpf, map::EVENTS)?)?;
        let mechanism = match hook {
            AttachHook::Tcx => Mechanism::Tcx,
            AttachHook::Clsact => Mechanism::Clsact,
            AttachHook::Auto if has_tcx() => Mechanism::Tcx,
            AttachHook::Auto => Mechanism::Clsact,
        };
        let kernel = Self {
            ebpf,
            maps,
            state,
            limits,
            unused,
            attachments: Attachments::new(mechanism, pins.clone()),
            pins: pins.clone(),
            tables: *tables,
            identity,
            measuring: None,
        };
        Ok((kernel, clock, events))
    }
}

impl Kernel {
    /// Runs a program that is attached nowhere.
    fn run_program(&mut self, name: &str) -> Result<(), KernelError> {
        let program = loaded(&mut self.ebpf, name)?;
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

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name)
        .ok_or_else(|| KernelError::Missing(format!("map {name}")))
}

/// An array that is mapped, not read by system calls.
fn array_data(ebpf: &mut Ebpf, name: &str) -> Result<MapData, KernelError> {
    match take(ebpf, name)? {
        Map::Array(data) => Ok(data),
        _ => Err(KernelError::Missing(format!("array {name}"))),
    }
}

fn array<T: Copy>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Array<MapData, Plain<T>>, KernelError>
where
    Plain<T>: aya::Pod,
{
    Array::try_from(take(ebpf, name)?).map_err(map_error(name))
}

/// Map ids are never used twice before a reboot, and the boot id tells reboots apart.
fn identity(state: &MapData) -> Result<String, KernelError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let boot = fs::read_to_string(path).map_err(|source| KernelError::Io {
        path: path.into(),
        source,
    })?;
    let info = state.info().map_err(map_error(map::STATE))?;
    Ok(format!("{}:{}", boot.trim(), info.id()))
}

impl Plane for Kernel {
    fn set_config(&mut self, config: &abi::Config) -> Result<(), KernelError> {
        self.maps
            .config
            .set(0, Plain(*config), 0)
            .map_err(map_error(map::CONFIG))
    }

    fn set_ports(&mut self, ports: &[u16]) -> Result<(), KernelError> {
        let mut bits = abi::Ports([0; 1024]);
        for port in ports {
            bits.0[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        self.maps
            .ports
            .set(0, Plain(bits), 0)
            .map_err(map_error(map::PORTS))
    }

    fn set_limits(&mut self, scope: u32, limits: &abi::Limits) -> Result<(), KernelError> {
        if !self.limits.set(scope, limits) {
            return Err(KernelError::scopes_full(self.tables.scopes));
        }
        let rate = Rate {
            interval_ns: limits.interval_ns,
            tolerance_ns: limits.tolerance_ns,
        };
        self.state.lower_tat(scope, rate, sys::boot_ns());
        Ok(())
    }

    fn set_ended(&mut self, scope: u32, limits: Option<&abi::Limits>) -> Result<(), KernelError> {
        match limits {
            Some(limits) => {
                let full = KernelError::scopes_full(self.tables.scopes);
                insert(
                    &mut self.maps.ended,
                    scope,
                    Plain(*limits),
                    map::ENDED,
                    full,
                )
            }
            None => remove(&mut self.maps.ended, &scope, map::ENDED),
        }
    }

    fn allowed(&self, scope: u32) -> DayCount {
        self.limits.allowed(scope)
    }

    fn set_allowed(&self, scope: u32, allowed: DayCount) {
        self.limits.set_allowed(scope, allowed);
    }

    fn state(&self, scope: u32) -> abi::ScopeState {
        self.state.read(scope)
    }

    fn set_day_count(&self, scope: u32, count: DayCount) {
        self.state.set_day_count(scope, count);
    }

    fn raise_day_count(&self, scope: u32, day: Day, used: u64) {
        self.state.raise_day_count(scope, day, used);
    }

    fn add_to_day_count(&self, scope: u32, day: Day, more: u64) {
        self.state.add_to_day_count(scope, day, more);
    }

    fn clear_state(&self, scope: u32) {
        self.state.clear(scope);
    }

    fn set_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError> {
        let full = KernelError::keys_full(self.tables.keys);
        insert(&mut self.maps.keys, digest, Plain(*entry), map::KEYS, full)
    }

    fn set_keys(&mut self, entries: &[(Digest, KeyEntry)]) -> Result<(), KernelError> {
        let entries: Vec<_> = entries
            .iter()
            .map(|(digest, entry)| (*digest, Plain(*entry)))
            .collect();
        let full = || KernelError::keys_full(self.tables.keys);
        insert_all(&mut self.maps.keys, &entries, map::KEYS, full)
    }

    fn remove_key(&mut self, digest: &Digest) -> Result<(), KernelError> {
        remove(&mut self.maps.keys, digest, map::KEYS)
    }

    fn key(&self, digest: &Digest) -> Result<Option<KeyEntry>, KernelError> {
        Ok(lookup(&self.maps.keys, digest, map::KEYS)?.map(|entry| entry.0))
    }

    fn keys(&self) -> Result<Vec<(Digest, KeyEntry)>, KernelError> {
        let entries = all(&self.maps.keys, map::KEYS)?;
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
            &mut self.maps.texts,
            Plain(key),
            Plain(*text),
            map::TEXTS,
            full,
        )
    }

    fn remove_text(&mut self, key: TextKey) -> Result<(), KernelError> {
        remove(&mut self.maps.texts, &Plain(key), map::TEXTS)
    }

    fn text_keys(&self) -> Result<Vec<TextKey>, KernelError> {
        self.maps
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
                    .maps
                    .counters
                    .get(&index, 0)
                    .map_err(map_error(map::COUNTERS))?;
                Ok(values.iter().sum())
            })
            .collect()
    }

    fn last_sweep(&self) -> Result<abi::Sweep, KernelError> {
        Ok(self.maps.sweep.get(&0, 0).map_err(map_error(map::SWEEP))?.0)
    }

    fn set_recount(&mut self, number: u32) -> Result<(), KernelError> {
        let sweep = abi::Sweep {
            recount: number,
            ..self.last_sweep()?
        };
        self.maps
            .sweep
            .set(0, Plain(sweep), 0)
            .map_err(map_error(map::SWEEP))
    }

    fn sweep(&mut self, ask: &abi::Sweep) -> Result<abi::Sweep, KernelError> {
        self.maps
            .sweep
            .set(0, Plain(*ask), 0)
            .map_err(map_error(map::SWEEP))?;
        self.run_program(SWEEP_PROGRAM)?;
        self.last_sweep()
    }

    fn suspects(&self, count: u64) -> Result<Vec<abi::Suspect>, KernelError> {
        let count = u32::try_from(count).unwrap_or(abi::MAX_SUSPECTS);
        (0..count.min(abi::MAX_SUSPECTS))
            .map(|number| Ok(self.maps.suspects.get(&number, 0)?.0))
            .collect::<Result<_, _>>()
            .map_err(map_error(map::SUSPECTS))
    }

    fn forget(&mut self, suspect: &abi::Suspect) -> Result<abi::Suspect, KernelError> {
        let forget = map_error(map::FORGET);
        self.maps
            .forget
            .set(0, Plain(*suspect), 0)
            .map_err(&forget)?;
        self.run_program(FORGET_PROGRAM)?;
        Ok(self.maps.forget.get(&0, 0).map_err(forget)?.0)
    }

    fn unused_left(&self) -> usize {
        self.unused.left() as usize
    }

    fn unused(&self) -> Vec<u32> {
        self.unused.list()
    }

    fn add_unused(&self, ids: &[u32]) {
        self.unused.add(ids);
    }

    fn clear_unused(&self) {
        self.unused.clear();
    }

    fn begin_recount(&self, scope: u32, number: u32) {
        self.state.begin_recount(scope, number);
    }

    fn end_recount(&self, scope: u32, number: u32) {
        self.state.end_recount(scope, number);
    }

    fn counted(&self, scope: u32, count: Count, first: First, number: u32) -> Option<Counted> {
        self.state.counted(scope, count, first, number)
    }

    fn correct(&self, scope: u32, count: Count, by: i64) -> u64 {
        self.state.correct(scope, count, by)
    }

    fn follow(&mut self, interfaces: &[Interface]) -> Result<Vec<String>, KernelError> {
        let done = self.attachments.follow(&mut self.ebpf, interfaces)?;
        layouts::retire(&self.pins, &mut self.maps.counters)?;
        Ok(done)
    }

    fn attached(&self) -> Vec<Attached> {
        self.attachments.list()
    }

    fn mechanism(&self) -> Mechanism {
        self.attachments.mechanism()
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
            let program = match self.ebpf.program(name) {
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
        let removed = detach::remove_all(&self.pins)?;
        self.attachments = Attachments::new(self.attachments.mechanism(), self.pins.clone());
        Ok(removed)
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}
