// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sets of response texts, one for each combination of limits.
//!
//! The number that identifies a set is derived from a hash of the limits. A new daemon that takes
//! over the maps therefore gives every scope the number that the scope already has, and no refusal
//! during the start of the daemon uses the text of another scope.

use std::collections::{HashMap, HashSet};

use limiter_common::abi::TextKey;

use crate::{
    domain::limits::Limits,
    engine::publish::texts::{self, Refusal},
    kernel::{KernelError, Plane},
};

/// The number that identifies the set of responses that concern no scope.
pub(crate) const COMMON: u32 = 0;

/// The text sets in use.
#[derive(Debug, Default)]
pub(crate) struct TextSets {
    /// Whether connections can go on after a refusal.
    keeps: bool,
    numbers: HashMap<Limits, u32>,
    taken: HashSet<u32>,
}

impl TextSets {
    /// Writes the responses that concern no scope to the kernel. `keeps` states whether connections
    /// can go on after a refusal. If that has changed, the other responses are written again as
    /// they are used.
    pub(crate) fn publish_common(
        &mut self,
        plane: &mut dyn Plane,
        keeps: bool,
    ) -> Result<(), KernelError> {
        if self.keeps != keeps {
            *self = Self {
                keeps,
                ..Self::default()
            };
        }
        for refusal in Refusal::COMMON {
            let key = TextKey {
                set: COMMON,
                reason: refusal.reason(),
            };
            plane.set_text(key, &texts::common(refusal, self.keeps))?;
        }
        Ok(())
    }

    /// Writes the responses for `limits` to the kernel if the kernel does not have them yet, and
    /// returns the number that identifies their set.
    pub(crate) fn number(
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
            plane.set_text(key, &texts::over_limit(refusal, limits, self.keeps))?;
        }
        self.numbers.insert(*limits, number);
        self.taken.insert(number);
        Ok(number)
    }

    /// Forgets the sets for limits that are not in `used`, and removes the texts of all forgotten
    /// or unknown sets from the kernel.
    pub(crate) fn retain(
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

/// Returns the number for the set of `limits`, which is used unless another set has it. It is the
/// FNV-1a hash of the limits as text. The standard library's hash is not used, because it may
/// differ between versions of the compiler.
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
