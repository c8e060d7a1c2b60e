//! An array of plain words, mapped into this process: read and changed in place, with the same atomic
//! operations that the kernel program uses.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};

use super::KernelError;

/// The mapping of an array.
pub(super) struct Words {
    mapping: MmapRaw,
    entries: u32,
    /// Words of one entry.
    words: usize,
    /// Programs that are loaded later still refer to the map by this descriptor.
    data: MapData,
}

impl Words {
    /// Maps the whole of the map `name`, which must be `BPF_F_MMAPABLE` and have `entries` entries of
    /// so many words.
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
            .map_err(|source| KernelError::Io {
                path: name.into(),
                source,
            })?;
        Ok(Self {
            mapping,
            entries,
            words,
            data,
        })
    }

    /// The map.
    pub(super) fn data(&self) -> &MapData {
        &self.data
    }

    /// How many entries there are.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Takes over all that is in another mapping of such entries, which must not have more of them. Nobody
    /// else changes either meanwhile.
    pub(super) fn copy(&self, from: &Self) {
        for entry in 0..from.entries {
            for word in 0..from.words {
                if let (Some(from), Some(to)) = (from.word(entry, word), self.word(entry, word)) {
                    to.store(from.load(Relaxed), Relaxed);
                }
            }
        }
    }

    /// A word of an entry, if there is one.
    pub(super) fn word(&self, entry: u32, word: usize) -> Option<&AtomicU64> {
        if entry >= self.entries || word >= self.words {
            return None;
        }
        let at = entry as usize * self.words + word;
        // SAFETY: `at` lies within the mapping, which is page-aligned, as long as `self` lives,
        // and holds plain words that everyone changes atomically.
        Some(unsafe { AtomicU64::from_ptr(self.mapping.as_mut_ptr().cast::<u64>().add(at)) })
    }
}
