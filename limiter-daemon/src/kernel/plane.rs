// SPDX-License-Identifier: MIT OR Apache-2.0

//! Defines the access to the kernel as a trait, so that the engine can be tested without root, with
//! an implementation in memory.

use std::time::Duration;

use limiter_common::{
    abi::{self, Digest, KeyEntry, TextKey},
    day::{Day, DayCount},
    gcra::Rate,
};

use super::{KernelError, netdev::Interface};
use crate::{
    config::Tables,
    domain::hook::{Hook, Mechanism, Missing, Standing},
};

use serde::{Deserialize, Serialize};

/// A program that is attached to a hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The name of the interface.
    pub interface: String,
    /// The direction.
    pub hook: Hook,
    /// The programs and filters that packets meet before our program, in order.
    pub before: Vec<Standing>,
}

/// A count of a scope that a recount can correct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// The number of requests in flight.
    InFlight,
    /// The number of open connections.
    Connections,
}

/// A count, and the value that a recount has computed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountPair {
    /// The count to which the programs apply the limit.
    pub count: u64,
    /// The value that the recount has computed as the sum over all connections.
    pub recounted: u64,
}

/// The value of a [`CountPair`] that is read first. The order matters, because packets can change
/// both values between the two reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFirst {
    /// The count.
    Count,
    /// The recounted value.
    Recounted,
}

/// The kernel's measurements of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramTime {
    /// The name of the program.
    pub program: &'static str,
    /// The number of runs that have been measured since the program was loaded.
    pub runs: u64,
    /// The total duration of these runs.
    pub time: Duration,
}

/// Access to the programs and maps in the kernel.
pub trait Plane: Send {
    /// Publishes the configuration.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot write the entry.
    fn set_config(&mut self, config: &abi::Config) -> Result<(), KernelError>;

    /// Publishes the guarded ports.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot write the entry.
    fn set_ports(&mut self, ports: &[u16]) -> Result<(), KernelError>;

    /// Publishes the limits of a scope. [`abi::Limits::default`] marks the entry as unused.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot write the entry, or if the id is past the end of the
    /// table.
    fn set_limits(&mut self, scope: u32, limits: &abi::Limits) -> Result<(), KernelError>;

    /// Publishes the limits that apply to a scope from `Limits::until_s` on, or removes them if
    /// `ended` is `None`. If a scope gets limits with an end, call this function before
    /// [`Self::set_limits`], so that the programs find the later limits when the end comes.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot write the entry.
    fn set_ended(&mut self, scope: u32, ended: Option<&abi::Ended>) -> Result<(), KernelError>;

    /// Returns the limits of a scope, including `Limits::allowed`, as the programs read them.
    fn limits(&self, scope: u32) -> abi::Limits;

    /// Returns the limits that apply to a scope from `Limits::until_s` on.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entry.
    fn ended(&self, scope: u32) -> Result<Option<abi::Ended>, KernelError>;

    /// Returns the day and the count up to which requests of a scope are admitted before the store
    /// has to allow more (`Limits::allowed`).
    fn allowed(&self, scope: u32) -> DayCount;

    /// Sets the day and the count of [`Self::allowed`], which [`Self::set_limits`] does not change.
    fn set_allowed(&self, scope: u32, allowed: DayCount);

    /// Sets the rate of a scope, and lowers its theoretical arrival time if the new rate would not
    /// have allowed it. The other limits do not change.
    fn set_rate(&self, scope: u32, rate: Rate);

    /// Sets the number of requests of `Limits::ahead`.
    fn set_ahead(&self, scope: u32, ahead: u32);

    /// Returns the lease of a scope, or zeros for an id past the end of the table.
    fn lease(&self, scope: u32) -> abi::Lease;

    /// Sets the lease of a scope.
    fn set_lease(&self, scope: u32, lease: &abi::Lease);

    /// Waits until no program uses a lease that has been replaced.
    fn wait_for_programs(&self);

    /// Returns the state of a scope, or zeros for an id past the end of the table.
    fn state(&self, scope: u32) -> abi::ScopeState;

    /// Sets the day and the count of a scope, even if the present day or count is later or higher.
    fn set_day_count(&self, scope: u32, count: DayCount);

    /// Raises the count of a scope for `day` to `used` if the count is lower. If the scope's day is
    /// earlier than `day`, the scope gets the day `day` and the count `used`. This function never
    /// lowers the count of a day.
    fn raise_day_count(&self, scope: u32, day: Day, used: u64);

    /// Adds `more` to the count of a scope for `day`. If the scope's day is earlier than `day`, the
    /// scope gets the day `day` and the count `more`. If the scope's day is later, this function
    /// does nothing.
    fn add_to_day_count(&self, scope: u32, day: Day, more: u64);

    /// Sets the state of a scope to zero for the next owner of its id.
    fn clear_state(&self, scope: u32);

    /// Inserts or replaces a key.
    ///
    /// # Errors
    /// Returns [`KernelError::Full`] if the table is full, or another error if the kernel cannot
    /// write the entry.
    fn set_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError>;

    /// Inserts a key, unless it exists already.
    ///
    /// # Errors
    /// Returns [`KernelError::Full`] if the table is full, or another error if the kernel cannot
    /// write the entry.
    fn add_key(&mut self, digest: &Digest, entry: &KeyEntry) -> Result<(), KernelError>;

    /// Inserts or replaces the keys in `entries`, in the order of `entries`. After an error, some
    /// of them may have been inserted already.
    ///
    /// # Errors
    /// Returns [`KernelError::Full`] if the table is full, or another error if the kernel cannot
    /// write an entry.
    fn set_keys(&mut self, entries: &[(Digest, KeyEntry)]) -> Result<(), KernelError>;

    /// Removes a key, if it exists.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot remove the entry.
    fn remove_key(&mut self, digest: &Digest) -> Result<(), KernelError>;

    /// Returns the entry of a key, or `None` if the key does not exist.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entry.
    fn key(&self, digest: &Digest) -> Result<Option<KeyEntry>, KernelError>;

    /// Returns all keys and their entries.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entries.
    fn keys(&self) -> Result<Vec<(Digest, KeyEntry)>, KernelError>;

    /// Inserts or replaces the text of a response.
    ///
    /// # Errors
    /// Returns [`KernelError::Full`] if the table is full, or another error if the kernel cannot
    /// write the entry.
    fn set_text(&mut self, key: TextKey, text: &abi::Text) -> Result<(), KernelError>;

    /// Removes the text of a response, if it exists.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot remove the entry.
    fn remove_text(&mut self, key: TextKey) -> Result<(), KernelError>;

    /// Returns the keys of all texts.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entries.
    fn text_keys(&self) -> Result<Vec<TextKey>, KernelError>;

    /// Returns the sums of all counters over the CPUs, in the order of [`abi::counter`].
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entries.
    fn counters(&self) -> Result<Vec<u64>, KernelError>;

    /// Returns the request and the result of the last sweep, which may have been run by an earlier
    /// daemon.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entry.
    fn last_sweep(&self) -> Result<abi::Sweep, KernelError>;

    /// Publishes the id of the current recount, which each new flow records when it begins.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot write the entry.
    fn set_recount(&mut self, number: u32) -> Result<(), KernelError>;

    /// Examines every flow as requested by the input fields of `ask`, removes dead flows, and
    /// releases the slots that they held. Returns the request with its output fields.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot run the program.
    fn sweep(&mut self, ask: &abi::Sweep) -> Result<abi::Sweep, KernelError>;

    /// Returns the first `count` flows that the last sweep reported.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entries.
    fn suspects(&self, count: u64) -> Result<Vec<abi::Suspect>, KernelError>;

    /// Removes a flow and releases the slots that it held, unless its server has sent a packet
    /// since the sweep reported the flow. Returns `suspect` with its output fields.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot run the program.
    fn forget(&mut self, suspect: &abi::Suspect) -> Result<abi::Suspect, KernelError>;

    /// Adds connections that are older than the programs to the untracked connections, except those
    /// that are tracked. Returns the number of entries that were added.
    ///
    /// # Errors
    /// Returns [`KernelError::Full`] if the table is full, or another error if the kernel cannot
    /// write an entry.
    fn add_older(&mut self, keys: &[abi::FlowKey]) -> Result<u64, KernelError>;

    /// Returns the number of flows of each client address, as counted by the sweep whose census has
    /// the id `census`.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot read the entries.
    fn clients(&self, census: u64) -> Result<Vec<u64>, KernelError>;

    /// Returns the number of scope ids that are available for unknown keys.
    fn unused_left(&self) -> usize;

    /// Returns the scope ids that are available for unknown keys.
    fn unused(&self) -> Vec<u32>;

    /// Adds scope ids for unknown keys.
    fn add_unused(&self, ids: &[u32]);

    /// Removes all scope ids for unknown keys.
    fn clear_unused(&self);

    /// Begins the recount with the id `number` for a scope, and sets the recounted sums of the
    /// scope to zero.
    fn begin_recount(&self, scope: u32, number: u32);

    /// Ends the recount with the id `number` for a scope.
    fn end_recount(&self, scope: u32, number: u32);

    /// Returns a count, and the value that the recount with the id `number` has computed for the
    /// count. Returns `None` if the scope does not take part in that recount.
    fn counted(&self, scope: u32, count: Count, first: ReadFirst, number: u32)
    -> Option<CountPair>;

    /// Adds `by` to a count, or sets the count to zero if the sum would be negative. Returns the
    /// absolute value of the actual change.
    fn correct(&self, scope: u32, count: Count, by: i64) -> u64;

    /// Attaches the programs to the interfaces in `interfaces`, and detaches them from all others.
    /// An interface that has older programs gets the current ones without a gap. Returns
    /// descriptions of the changes.
    ///
    /// # Errors
    /// Returns the first error, with the number of further errors. The remaining interfaces get
    /// their programs nevertheless.
    fn follow(&mut self, interfaces: &[Interface]) -> Result<Vec<String>, KernelError>;

    /// Returns the programs that are attached.
    fn attached(&self) -> Vec<Attachment>;

    /// Returns the hooks to which [`Self::follow`] could not attach a program.
    fn missing(&self) -> Vec<Missing> {
        Vec::new()
    }

    /// Returns an error if a map that is in use is no longer pinned. The next daemon would not find
    /// such a map.
    fn unpinned(&self) -> Option<KernelError> {
        None
    }

    /// Returns the hooks at which other software repeatedly detaches our program, or puts its own
    /// program before ours.
    fn contested(&mut self) -> Vec<(String, Hook)> {
        Vec::new()
    }

    /// Returns the mechanism of the attachments.
    fn mechanism(&self) -> Mechanism;

    /// Makes the kernel measure the run time of all loaded programs for as long as this process
    /// lives.
    ///
    /// # Errors
    /// Returns an error if this process lacks CAP_SYS_ADMIN, which the kernel requires for
    /// measurements.
    fn measure_programs(&mut self) -> Result<(), KernelError>;

    /// Returns the measurements of the loaded programs, or an empty list if the kernel does not
    /// measure them.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot describe a program.
    fn program_times(&self) -> Result<Vec<ProgramTime>, KernelError>;

    /// Detaches all programs. Afterwards packets pass without inspection, and the maps stay as they
    /// are. Returns descriptions of the changes.
    ///
    /// # Errors
    /// Returns the first error.
    fn release(&mut self) -> Result<Vec<String>, KernelError>;

    /// Removes all attachments, maps and pins. Returns descriptions of the changes.
    ///
    /// # Errors
    /// Returns the first error.
    fn detach(&mut self) -> Result<Vec<String>, KernelError>;

    /// Creates the larger maps that `wanted` requires, and returns true. The present maps stay in
    /// force. Returns false if `wanted` requires no larger map.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects an operation. In that case everything that was
    /// created is removed again.
    fn prepare_larger(&mut self, wanted: &Tables) -> Result<bool, KernelError>;

    /// Puts the maps of [`Self::prepare_larger`] into force with all entries of the old maps, and
    /// returns the new sizes. Packets of guarded ports are dropped for a moment, and TCP
    /// retransmits them.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects an operation. In that case the old maps stay in
    /// force.
    fn make_larger(&mut self) -> Result<Tables, KernelError>;

    /// Returns the identity of the set of maps that is in use. Two readings of a counter can be
    /// compared only if both come from the same set. Maps keep their identity when they are made
    /// larger.
    fn identity(&self) -> String;
}
