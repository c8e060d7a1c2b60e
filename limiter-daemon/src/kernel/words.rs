//! An array of plain words, mapped into this process: read and changed in place, with the same atomic
//! operations that the kernel program uses.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::AtomicU64,
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
    _data: MapData,
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
            _data: data,
        })
    }

    /// How many entries there are.
    pub(super) fn entries(&self) -> u32 {
        self.entries
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
