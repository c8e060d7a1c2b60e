// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sends requests to the kernel over netlink(7), and reads the messages of the answers.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The maximum size in bytes of one part of a dump (netlink_dump(), net/netlink/af_netlink.c).
const PART: usize = 32 * 1024;
/// The maximum number of requests for the same dump. If objects change during every dump, the last
/// dump is used although it is incomplete.
const ATTEMPTS: u32 = 8;

/// The completeness of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dump {
    /// The dump contains all objects.
    Complete,
    /// The kernel reports that objects have changed during the dump, so some may be missing.
    Interrupted,
}

/// A connection to one of the kernel's netlink families.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Connects to the netlink family `family` (`NETLINK_*`).
    ///
    /// # Errors
    /// Returns an error if the kernel does not have the family.
    pub(super) fn open(family: isize) -> io::Result<Self> {
        let mut socket = Socket::new(family)?;
        socket.bind_auto()?;
        // This is the address of the kernel.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Requests a dump, and requests it again until it is complete or has been requested
    /// [`ATTEMPTS`] times. Calls `make` with each message, and returns the results for the last
    /// dump in the order of the messages.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub(super) fn dump<M, T>(
        &mut self,
        request: &M,
        mut make: impl FnMut(M) -> Option<T>,
    ) -> io::Result<Vec<T>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        let mut tries = 1;
        loop {
            let mut objects = Vec::new();
            let dump = self.request(request.clone(), NLM_F_DUMP, &mut |message| {
                objects.extend(make(message));
            })?;
            if dump == Dump::Complete || tries == ATTEMPTS {
                return Ok(objects);
            }
            tries += 1;
        }
    }

    /// Sends a request, and calls `each` with every message of the answer.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub(super) fn request<M>(
        &mut self,
        request: M,
        flags: u16,
        each: &mut dyn FnMut(M),
    ) -> io::Result<Dump>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.read_answer(each)
    }

    /// Reads the whole answer to the last request.
    fn read_answer<M: NetlinkDeserializable>(&self, each: &mut dyn FnMut(M)) -> io::Result<Dump> {
        let mut dump = Dump::Complete;
        let mut part = Vec::with_capacity(PART);
        loop {
            part.clear();
            let len = self.socket.recv(&mut part, libc::MSG_TRUNC)?;
            if len > part.len() {
                return Err(io::Error::other(
                    "a part of the kernel's answer was too long",
                ));
            }
            let mut rest = part.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                let len = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(len..).unwrap_or_default();
                // This message belongs to an earlier request whose answer was not read completely.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if message.header.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                let is_single = message.header.flags & NLM_F_MULTIPART == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        each(message);
                        if is_single {
                            return Ok(dump);
                        }
                    }
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(dump),
                    NetlinkPayload::Done(done) => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(dump),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Overrun(_) => {
                        return Err(io::Error::other("the kernel's answer was cut short"));
                    }
                    _ => {}
                }
            }
        }
    }
}
