// SPDX-License-Identifier: MIT OR Apache-2.0

//! The ring buffers `EVENTS` and `REFUSALS`, in which the kernel programs report to the daemon.

use std::{io, marker::PhantomData};

use aya::maps::{Map, MapData, RingBuf};
use limiter_common::abi;
use tokio::io::unix::AsyncFd;

use super::{KernelError, error::map_error};

/// A record of a ring buffer.
pub trait RingRecord: Sized {
    /// Reads a record from its bytes. Returns `None` if there are too few bytes.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// The reader of `EVENTS`.
pub type EventRing = Ring<abi::Event>;
/// The reader of `REFUSALS`.
pub type RefusalRing = Ring<abi::RefusalRecord>;

/// The reader of a ring buffer.
pub struct Ring<T>(RingBuf<MapData>, PhantomData<T>);

impl<T: RingRecord> Ring<T> {
    pub(super) fn new(map: Map, name: &'static str) -> Result<Self, KernelError> {
        let ring = RingBuf::try_from(map).map_err(map_error(name))?;
        Ok(Self(ring, PhantomData))
    }

    /// Converts the reader into one that can wait for records within a tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the runtime cannot watch the descriptor.
    pub fn watch(self) -> io::Result<Watch<T>> {
        // SAFETY: aya's `RingBuf` keeps the same descriptor open for as long as it lives, and the
        // `AsyncFd` owns the only `RingBuf` with this descriptor.
        unsafe { AsyncFd::register(self.0) }
            .map(|ring| Watch(ring, PhantomData))
            .map_err(io::Error::from)
    }
}

/// The reader of a ring buffer within a tokio runtime.
pub struct Watch<T>(AsyncFd<RingBuf<MapData>>, PhantomData<T>);

impl<T: RingRecord> Watch<T> {
    /// Waits until there are records, removes them from the ring, and returns them. No record is
    /// lost if the future is dropped.
    ///
    /// # Errors
    /// Returns an error if the runtime cannot wait for the descriptor.
    pub async fn next(&mut self) -> io::Result<Vec<T>> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let records = drain(ready.get_inner_mut());
            ready.clear_ready();
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    /// Removes the records that are in the ring now, and returns them without waiting for more.
    pub fn pending(&mut self) -> Vec<T> {
        drain(self.0.get_mut())
    }
}

fn drain<T: RingRecord>(ring: &mut RingBuf<MapData>) -> Vec<T> {
    let mut records = Vec::new();
    while let Some(item) = ring.next() {
        records.extend(T::read(&item));
    }
    records
}

fn short(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl RingRecord for abi::Event {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: short(bytes, 0)?,
            scope: short(bytes, 4)?,
            key: [long(bytes, 8)?, long(bytes, 16)?],
        })
    }
}

impl RingRecord for abi::RefusalRecord {
    fn read(bytes: &[u8]) -> Option<Self> {
        let client = |part: usize| short(bytes, 24 + 4 * part);
        Some(Self {
            at_ns: long(bytes, 0)?,
            key: [long(bytes, 8)?, long(bytes, 16)?],
            client: [client(0)?, client(1)?, client(2)?, client(3)?],
            scope: short(bytes, 40)?,
            reason: short(bytes, 44)?,
            client_port: u16::from_ne_bytes(*bytes.get(48..)?.first_chunk()?),
            reserved: [0; 3],
        })
    }
}
