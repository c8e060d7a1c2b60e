// SPDX-License-Identifier: MIT OR Apache-2.0

//! The map `SWITCH`. Its only word selects one of two sets of maps, or makes the programs hold
//! packets during the change from one set to the other.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use aya::maps::{Map, MapData};
use limiter_common::abi::{map, switch};

use crate::kernel::{KernelError, error::map_error, sys::boot_ns, words::Words};

/// The time for which packets are held unless this process extends it. The time is long enough for
/// this process to get a CPU even on a busy host. It is no longer than the time after which TCP
/// would retransmit packets anyway.
const HOLD: Duration = Duration::from_secs(1);

/// The map `SWITCH`, whose memory is mapped into this process.
pub(super) struct Switch(Words);

impl Switch {
    pub(super) fn new(map: Map) -> Result<Self, KernelError> {
        let Map::Array(data) = map else {
            return Err(KernelError::Missing(format!("array {}", map::SWITCH)));
        };
        Words::new(data, map::SWITCH, 1, 1).map(Self)
    }

    /// Opens the map `SWITCH` that is pinned in `directory`. Returns `None` if there is no such
    /// pin, which means that no replacement of maps has begun there.
    pub(super) fn of(directory: &Path) -> Result<Option<Self>, KernelError> {
        let pin = directory.join(map::SWITCH);
        if !pin.exists() {
            return Ok(None);
        }
        let error = map_error(map::SWITCH);
        let data = MapData::from_pin(&pin).map_err(&error)?;
        Self::new(Map::from_map_data(data).map_err(&error)?).map(Some)
    }

    /// Returns the map `SWITCH`.
    pub(super) fn data(&self) -> &MapData {
        self.0.data()
    }

    pub(super) fn word(&self) -> Result<&AtomicU64, KernelError> {
        let missing = || KernelError::Missing(format!("entry of {}", map::SWITCH));
        self.0.word(0, 0).ok_or_else(missing)
    }

    /// Returns whether the new maps are in force.
    pub(super) fn is_new(&self) -> bool {
        self.word()
            .is_ok_and(|word| word.load(SeqCst) == switch::NEW)
    }

    /// Stops holding packets, and puts the old maps into force. Has no effect if the new maps are
    /// already in force.
    pub(super) fn release(&self) {
        if let Ok(word) = self.word() {
            let old = |word| (word != switch::NEW).then_some(switch::OLD);
            // An error means that the new maps are already in force.
            let _new = word.fetch_update(SeqCst, SeqCst, old);
        }
    }
}

/// Holds packets for a limited time, which [`Self::renew`] extends.
pub(super) struct Hold<'a> {
    word: &'a AtomicU64,
    until: u64,
}

impl<'a> Hold<'a> {
    pub(super) fn begin(word: &'a AtomicU64) -> Result<Self, KernelError> {
        let mut hold = Self {
            word,
            until: switch::OLD,
        };
        hold.renew()?;
        Ok(hold)
    }

    fn swap(&self, new: u64) -> Result<(), KernelError> {
        let swapped = self.word.compare_exchange(self.until, new, SeqCst, SeqCst);
        // The exchange fails if a program found that the time had passed and put the old maps back
        // into force.
        swapped.map(drop).map_err(|_| KernelError::Lapsed)
    }

    /// Extends the time until which packets are held.
    ///
    /// # Errors
    /// Returns [`KernelError::Lapsed`] if the time has passed and packets have been let through.
    pub(super) fn renew(&mut self) -> Result<(), KernelError> {
        let hold_ns = u64::try_from(HOLD.as_nanos()).unwrap_or(u64::MAX);
        let until = boot_ns().saturating_add(hold_ns);
        self.swap(until)?;
        self.until = until;
        Ok(())
    }

    /// Puts the new maps into force.
    ///
    /// # Errors
    /// Returns [`KernelError::Lapsed`] if the time has passed and packets have been let through.
    pub(super) fn commit(self) -> Result<(), KernelError> {
        self.swap(switch::NEW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_put_into_force_only_if_packets_were_held_all_the_while() {
        let word = AtomicU64::new(switch::OLD);
        let mut hold = Hold::begin(&word).unwrap();
        let first = word.load(SeqCst);
        assert!(first > boot_ns());
        hold.renew().unwrap();
        assert!(word.load(SeqCst) > first);
        hold.commit().unwrap();
        assert_eq!(word.load(SeqCst), switch::NEW);
        // Packets cannot be held once the new maps are in force.
        assert!(matches!(Hold::begin(&word), Err(KernelError::Lapsed)));

        word.store(switch::OLD, SeqCst);
        let mut hold = Hold::begin(&word).unwrap();
        // This is the word after a program has found that the time has passed.
        word.store(switch::OLD, SeqCst);
        assert!(matches!(hold.renew(), Err(KernelError::Lapsed)));
        assert!(matches!(hold.commit(), Err(KernelError::Lapsed)));
        assert_eq!(word.load(SeqCst), switch::OLD);
    }
}
