//! What the daemon does with the kernel's side, as a trait: the daemon's own logic is tested
//! against a table in memory, without root.

use std::time::Duration;

use limiter_common::{
    abi::{self, Digest, KeyEntry, TextKey},
    day::{Day, DayCount},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KernelError, netdev::Interface};
use crate::config::Tables;

/// Which way packets go through an attachment.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Packets that arrive.
    Ingress,
    /// Packets that leave.
    Egress,
}

impl Hook {
    /// Egress first: a flow begins when the server's SYN-ACK leaves, so a program that sees
    /// only arrivals would take every new connection for an old one.
    pub const ATTACH_ORDER: [Self; 2] = [Self::Egress, Self::Ingress];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// A TCX link (kernel 6.6 and later).
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

impl Mechanism {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attached {
    /// The interface's name.
    pub interface: String,
    /// Which way.
    pub hook: Hook,
}

/// One of a scope's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// Requests in flight.
    InFlight,
    /// Open connections.
    Connections,
}

/// A count as it is, and what a recount makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// What limits are held against.
    pub count: u64,
    /// The sum over the connections.
    pub recounted: u64,
}

/// Which of the two is read first; packets may change them in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// The count.
    Count,
    /// The recounted one.
    Recounted,
}

/// What the kernel has measured of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramTime {
    /// The program's name.
    pub program: &'static str,
    /// How often it has run since it was loaded, while that was measured.
    pub runs: u64,
    /// How long it took, all together.
    pub time: Duration,
}

/// The kernel's side.
pub trait Plane: Send {
    /// Publishes the configuration.
    ///
    /// # Errors
    /// The kernel's.
    fn set_config(&mut self, config: &abi::Config) -> Result<(), KernelError>;

    /// Publishes the guarded ports.
    ///
    /// # Errors
    /// The kernel's.
    fn set_ports(&mut self, ports: &[u16]) -> Result<(), KernelError>;

    /// Publishes a scope's limits; the default ones free its place.
    ///
    /// # Errors
    /// The kernel's, or an id past the table.
    fn set_limits(&mut self, scope: u32, limits: &abi::Limits) -> Result<(), KernelError>;

    /// Publishes what holds for a scope from `Limits::until_s` on; before limits that have one.
    ///
    /// # Errors
    /// The kernel's.
    fn set_ended(&mut self, scope: u32, limits: Option<&abi::Limits>) -> Result<(), KernelError>;

    /// A scope's limits, with what it is allowed, as the programs find them.
    fn limits(&self, scope: u32) -> abi::Limits;

    /// What holds for a scope from `Limits::until_s` on.
    ///
    /// # Errors
    /// The kernel's.
    fn ended(&self, scope: u32) -> Result<Option<abi::Limits>, KernelError>;

    /// Up to which count of which day a scope's requests are admitted before the store is asked
    /// (`Limits::allowed`).
    fn allowed(&self, scope: u32) -> DayCount;

    /// Sets that; [`Self::set_limits`] leaves it alone.
    fn set_allowed(&self, scope: u32, allowed: DayCount);

    /// What a scope's state is; zero for an id past the table.
    fn state(&self, scope: u32) -> abi::ScopeState;

    /// Sets a scope's day and count, whatever they were.
    fn set_day_count(&self, scope: u32, count: DayCount);

    /// Raises a scope's count of `day` to `used` if it is lower, and opens that day if the word
    /// stands at an earlier one. Never takes a charge back.
    fn raise_day_count(&self, scope: u32, day: Day, used: u64);

    /// Adds `more` to a scope's count of `day`, and opens that day if the word stands at an earlier
    /// one; nothing if it stands at a later one.
    fn add_to_day_count(&self, scope: u32, day: Day, more: u64);

    /// Zeroes a scope's state for its next owner.
    fn clear_state(&self, scope: u32);

    /// Enters or replaces a key.
    ///
    /// # Errors
    /// [`KernelError::Full`], or the kernel's.
    fn set_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError>;

    /// Enters a key, unless it is there already.
    ///
    /// # Errors
    /// [`KernelError::Full`], or the kernel's.
    fn add_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError>;

    /// Enters or replaces many keys, in this order. After an error some of them may be entered.
    ///
    /// # Errors
    /// [`KernelError::Full`], or the kernel's.
    fn set_keys(&mut self, entries: &[(Digest, KeyEntry)]) -> Result<(), KernelError>;

    /// Removes a key; it may be gone already.
    ///
    /// # Errors
    /// The kernel's.
    fn remove_key(&mut self, digest: &Digest) -> Result<(), KernelError>;

    /// A key's entry.
    ///
    /// # Errors
    /// The kernel's.
    fn key(&self, digest: &Digest) -> Result<Option<KeyEntry>, KernelError>;

    /// All keys and their entries.
    ///
    /// # Errors
    /// The kernel's.
    fn keys(&self) -> Result<Vec<(Digest, KeyEntry)>, KernelError>;

    /// Enters or replaces a response.
    ///
    /// # Errors
    /// [`KernelError::Full`], or the kernel's.
    fn set_text(&mut self, key: TextKey, text: &abi::Text) -> Result<(), KernelError>;

    /// Removes a response; it may be gone already.
    ///
    /// # Errors
    /// The kernel's.
    fn remove_text(&mut self, key: TextKey) -> Result<(), KernelError>;

    /// All responses there are.
    ///
    /// # Errors
    /// The kernel's.
    fn text_keys(&self) -> Result<Vec<TextKey>, KernelError>;

    /// All counters, in the order of [`abi::counter`], summed over the CPUs.
    ///
    /// # Errors
    /// The kernel's.
    fn counters(&self) -> Result<Vec<u64>, KernelError>;

    /// What the last sweep was asked and answered, by this daemon or one before it.
    ///
    /// # Errors
    /// The kernel's.
    fn last_sweep(&self) -> Result<abi::Sweep, KernelError>;

    /// Publishes the number of the recount that new flows begin with.
    ///
    /// # Errors
    /// The kernel's.
    fn set_recount(&mut self, number: u32) -> Result<(), KernelError>;

    /// Looks at every flow as `ask` says (its fields that are "in"), removes dead ones and gives
    /// back what they held.
    ///
    /// # Errors
    /// The kernel's.
    fn sweep(&mut self, ask: &abi::Sweep) -> Result<abi::Sweep, KernelError>;

    /// The first `count` flows that the last sweep named.
    ///
    /// # Errors
    /// The kernel's.
    fn suspects(&self, count: u64) -> Result<Vec<abi::Suspect>, KernelError>;

    /// Removes a flow and gives back what it held, unless its server has sent since it was named.
    ///
    /// # Errors
    /// The kernel's.
    fn forget(&mut self, suspect: &abi::Suspect) -> Result<abi::Suspect, KernelError>;

    /// How many scope ids unknown keys can still get.
    fn unused_left(&self) -> usize;

    /// These ids.
    fn unused(&self) -> Vec<u32>;

    /// Lets unknown keys get these ids too.
    fn add_unused(&self, ids: &[u32]);

    /// Lets unknown keys get none.
    fn clear_unused(&self);

    /// Lets a scope's recount of this number begin at zero.
    fn begin_recount(&self, scope: u32, number: u32);

    /// Ends a scope's recount of this number.
    fn end_recount(&self, scope: u32, number: u32);

    /// A count, and what the recount of this number makes of it; `None` if the scope is not in it.
    fn counted(&self, scope: u32, count: Count, first: First, number: u32) -> Option<Counted>;

    /// Changes a count by so much, never below zero; says by how much it changed.
    fn correct(&self, scope: u32, count: Count, by: i64) -> u64;

    /// Attaches to exactly these interfaces: new ones are attached, those that are attached
    /// already get the current programs without a gap, others are let go. Says what changed.
    ///
    /// # Errors
    /// The first that failed; the others are attached all the same.
    fn follow(&mut self, interfaces: &[Interface]) -> Result<Vec<String>, KernelError>;

    /// What is attached now.
    fn attached(&self) -> Vec<Attached>;

    /// How it is attached.
    fn mechanism(&self) -> Mechanism;

    /// From now on the kernel measures what programs take, all that are loaded, for as long as this
    /// process lives.
    ///
    /// # Errors
    /// The kernel's: it wants CAP_SYS_ADMIN for that.
    fn measure_programs(&mut self) -> Result<(), KernelError>;

    /// What it has measured of those that are loaded to be attached; nothing if it does not measure.
    ///
    /// # Errors
    /// The kernel's.
    fn program_times(&self) -> Result<Vec<ProgramTime>, KernelError>;

    /// Takes all attachments off: packets pass, and the maps stay as they are. Says what was removed.
    ///
    /// # Errors
    /// The first that failed.
    fn release(&mut self) -> Result<Vec<String>, KernelError>;

    /// Takes everything down: what is still attached, maps and pins. Says what was removed.
    ///
    /// # Errors
    /// The first that failed.
    fn detach(&mut self) -> Result<Vec<String>, KernelError>;

    /// Makes maps beside those that are in force where `wanted` asks for larger ones; false if it does
    /// not. Nothing else changes yet.
    ///
    /// # Errors
    /// The kernel's; what was made is gone again.
    fn prepare_larger(&mut self, wanted: &Tables) -> Result<bool, KernelError>;

    /// Puts what [`Self::prepare_larger`] has made into force, with all that the maps before have in them:
    /// what sizes the tables have then. Packets of guarded ports are dropped for that moment, and come
    /// again.
    ///
    /// # Errors
    /// The kernel's; the maps before stay in force.
    fn make_larger(&mut self) -> Result<Tables, KernelError>;

    /// What tells this set of maps from any other: counters go on counting only within one. Maps that were
    /// made larger are of the same set.
    fn identity(&self) -> String;
}
