// SPDX-License-Identifier: MIT OR Apache-2.0

//! An array of 64-bit words that is mapped into this process. The words are read and changed in
//! place, with the same atomic operations that the kernel programs use.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};

use super::KernelError;

/// An array that is mapped into this process.
pub(super) struct Words {
    mapping: MmapRaw,
    entries: u32,
    /// The number of words in an entry.
    words: usize,
    /// The map itself, whose descriptor is needed for programs that are loaded later.
    data: MapData,
}

impl Words {
    /// Maps the whole map `name` into this process. The map must be `BPF_F_MMAPABLE`, and must have
    /// `entries` entries of `words` words each.
    pub(super) fn new(
        data: MapData,
        name: &str,
        entries: u32,
        words: usize,
    ) -> Result<Self, KernelError> {
        let len = entries as usize * words * size_of::<u64>();
        let mapping = MmapOptions::new()
            .len(len)
            .map_raw(data.fd().as_fd().as_raw_fd())
            .map_err(|source| KernelError::MapCall {
                action: "mmap",
                name: name.to_owned(),
                source,
            })?;
        Ok(Self {
            mapping,
            entries,
            words,
            data,
        })
    }

    /// Returns the map.
    pub(super) fn data(&self) -> &MapData {
        &self.data
    }

    /// Returns the number of entries.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Copies all words of `from` into this mapping. The entries of both mappings must have the
    /// same size, and `from` must not have more entries than this mapping. The caller makes sure
    /// that neither map changes during the copy.
    pub(super) fn copy(&self, from: &Self) {
        for entry in 0..from.entries {
            for word in 0..from.words {
                if let (Some(from), Some(to)) = (from.word(entry, word), self.word(entry, word)) {
                    to.store(from.load(Relaxed), Relaxed);
                }
            }
        }
    }

    /// Returns a word of an entry, or `None` if there is no such word.
    pub(super) fn word(&self, entry: u32, word: usize) -> Option<&AtomicU64> {
        if entry >= self.entries || word >= self.words {
            return None;
        }
        let at = entry as usize * self.words + word;
        // SAFETY: `at` is less than `entries * words` because of the check above, and `new` has
        // mapped that many words. The mapping is page-aligned and lives as long as `self`. Programs
        // and this process change its words only by atomic operations.
        Some(unsafe { AtomicU64::from_ptr(self.mapping.as_mut_ptr().cast::<u64>().add(at)) })
    }
}
