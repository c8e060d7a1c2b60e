//! What the programs tell: the ring buffer `EVENTS`.

use std::io;

use aya::maps::{Map, MapData, RingBuf};
use limiter_common::abi::{self, map};
use tokio::io::unix::AsyncFd;

use super::{KernelError, error::map_error};

/// The reading end.
pub struct Events(RingBuf<MapData>);

impl Events {
    pub(super) fn new(map: Map) -> Result<Self, KernelError> {
        RingBuf::try_from(map)
            .map(Self)
            .map_err(map_error(map::EVENTS))
    }

    /// Makes it something to wait for; within a tokio runtime.
    ///
    /// # Errors
    /// The runtime's.
    pub fn watch(self) -> io::Result<EventWatch> {
        // SAFETY: the ring's descriptor stays open and the same as long as the ring lives, which only
        // the `AsyncFd` holds.
        unsafe { AsyncFd::register(self.0) }
            .map(EventWatch)
            .map_err(io::Error::from)
    }
}

/// The reading end, to be waited for.
pub struct EventWatch(AsyncFd<RingBuf<MapData>>);

impl EventWatch {
    /// All that has been told since the last time; waits until there is something.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn next(&mut self) -> io::Result<Vec<abi::Event>> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let mut events = Vec::new();
            let ring = ready.get_inner_mut();
            while let Some(item) = ring.next() {
                events.extend(read(&item));
            }
            ready.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// An event from its bytes; none from what is not one.
fn read(bytes: &[u8]) -> Option<abi::Event> {
    let short = |at| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let long = |at| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    Some(abi::Event {
        kind: short(0)?,
        scope: short(4)?,
        key: [long(8)?, long(16)?],
    })
}
