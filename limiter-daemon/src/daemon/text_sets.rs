//! Which set of responses belongs to which limits.
//!
//! A set's number is a hash of the limits, so a new daemon that takes the maps over gives every
//! scope the number that it has already, and no refusal in between reads another scope's text.

use std::collections::{HashMap, HashSet};

use limiter_common::abi::TextKey;

use crate::{
    kernel::{KernelError, Plane},
    limits::Limits,
    texts::{self, Refusal},
};

/// The set of refusals that concern no scope.
pub(super) const COMMON: u32 = 0;

/// The sets in use.
#[derive(Debug, Default)]
pub(super) struct TextSets {
    numbers: HashMap<Limits, u32>,
    taken: HashSet<u32>,
}

impl TextSets {
    /// Writes the responses that concern no scope.
    pub(super) fn publish_common(plane: &mut dyn Plane) -> Result<(), KernelError> {
        for refusal in Refusal::COMMON {
            let key = TextKey {
                set: COMMON,
                reason: refusal.reason(),
            };
            plane.set_text(key, &texts::common(refusal))?;
        }
        Ok(())
    }

    /// The number for `limits`; its responses are in the kernel when this returns.
    pub(super) fn number(
        &mut self,
        plane: &mut dyn Plane,
        limits: &Limits,
    ) -> Result<u32, KernelError> {
        if let Some(number) = self.numbers.get(limits) {
            return Ok(*number);
        }
        let mut number = preferred(limits);
        while number == COMMON || self.taken.contains(&number) {
            number = number.wrapping_add(1);
        }
        for refusal in Refusal::LIMITS {
            let key = TextKey {
                set: number,
                reason: refusal.reason(),
            };
            plane.set_text(key, &texts::over_limit(refusal, limits))?;
        }
        self.numbers.insert(*limits, number);
        self.taken.insert(number);
        Ok(number)
    }

    /// Forgets sets that none of `used` has, and removes what else is in the kernel.
    pub(super) fn retain(
        &mut self,
        plane: &mut dyn Plane,
        used: &HashSet<Limits>,
    ) -> Result<(), KernelError> {
        self.numbers.retain(|limits, _| used.contains(limits));
        self.taken = self.numbers.values().copied().collect();
        for key in plane.text_keys()? {
            if key.set != COMMON && !self.taken.contains(&key.set) {
                plane.remove_text(key)?;
            }
        }
        Ok(())
    }
}

/// FNV-1a of the limits in words: it must not change between versions of the compiler, as the
/// standard library's hash may.
fn preferred(limits: &Limits) -> u32 {
    let Limits {
        daily_quota,
        rate,
        burst,
        concurrency,
        connections,
    } = limits;
    let rate = rate.map(|rate| rate.to_string()).unwrap_or_default();
    format!("{daily_quota:?} {rate} {burst} {concurrency:?} {connections:?}")
        .bytes()
        .fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}
