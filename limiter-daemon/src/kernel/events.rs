//! What the programs tell: the ring buffers `EVENTS` and `REFUSALS`.

use std::{io, marker::PhantomData};

use aya::maps::{Map, MapData, RingBuf};
use limiter_common::abi;
use tokio::io::unix::AsyncFd;

use super::{KernelError, error::map_error};

/// A record of a ring buffer.
pub trait Told: Sized {
    /// It from its bytes; none from what is not one.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// The reading end of `EVENTS`.
pub type Events = Ring<abi::Event>;
/// The reading end of `REFUSALS`.
pub type Refusals = Ring<abi::Refused>;

/// The reading end of a ring buffer.
pub struct Ring<T>(RingBuf<MapData>, PhantomData<T>);

impl<T: Told> Ring<T> {
    pub(super) fn new(map: Map, name: &'static str) -> Result<Self, KernelError> {
        let ring = RingBuf::try_from(map).map_err(map_error(name))?;
        Ok(Self(ring, PhantomData))
    }

    /// Makes it something to wait for; within a tokio runtime.
    ///
    /// # Errors
    /// The runtime's.
    pub fn watch(self) -> io::Result<Watch<T>> {
        // SAFETY: the ring's descriptor stays open and the same as long as the ring lives, which only
        // the `AsyncFd` holds.
        unsafe { AsyncFd::register(self.0) }
            .map(|ring| Watch(ring, PhantomData))
            .map_err(io::Error::from)
    }
}

/// The reading end, to be waited for.
pub struct Watch<T>(AsyncFd<RingBuf<MapData>>, PhantomData<T>);

impl<T: Told> Watch<T> {
    /// All that has been told since the last time; waits until there is something. Nothing is lost when
    /// the waiting is given up.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn next(&mut self) -> io::Result<Vec<T>> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let told = drain(ready.get_inner_mut());
            ready.clear_ready();
            if !told.is_empty() {
                return Ok(told);
            }
        }
    }

    /// All that has been told since the last time, which may be nothing.
    pub fn told(&mut self) -> Vec<T> {
        drain(self.0.get_mut())
    }
}

fn drain<T: Told>(ring: &mut RingBuf<MapData>) -> Vec<T> {
    let mut told = Vec::new();
    while let Some(item) = ring.next() {
        told.extend(T::read(&item));
    }
    told
}

fn short(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Told for abi::Event {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: short(bytes, 0)?,
            scope: short(bytes, 4)?,
            key: [long(bytes, 8)?, long(bytes, 16)?],
        })
    }
}

impl Told for abi::Refused {
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
