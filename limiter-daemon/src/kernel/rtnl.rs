// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads interfaces, qdiscs and filters over rtnetlink(7). Only a few attributes are read, so the
//! attributes that later kernels add do not matter.

use std::{convert::Infallible, io};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::netlink::Netlink;

/// The types of messages (include/uapi/linux/rtnetlink.h).
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWQDISC: u16 = 36;
pub(super) const RTM_GETQDISC: u16 = 38;
pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_GETTFILTER: u16 = 46;

/// The groups of notifications (`enum rtnetlink_groups`) about interfaces, and about qdiscs with
/// their filters.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_TC: u32 = 4;

/// The bits of an attribute's type that are not flags (`NLA_TYPE_MASK`).
const TYPE: u16 = 0x3fff;

/// A message whose body is not decoded.
#[derive(Debug, Clone)]
struct RawMessage {
    kind: u16,
    body: Vec<u8>,
}

impl NetlinkSerializable for RawMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for RawMessage {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

/// A connection to rtnetlink.
pub(super) struct Route(Netlink);

impl Route {
    /// Opens a connection.
    ///
    /// # Errors
    /// Returns an error if the socket cannot be opened.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_ROUTE).map(Self)
    }

    /// Requests all objects of a kind, with a message of type `request` whose header is followed by
    /// `body`. Calls `make` with the body of each message of type `answer`, in the order in which
    /// the messages arrive.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects the request.
    pub(super) fn dump<T>(
        &mut self,
        request: u16,
        answer: u16,
        body: &[u8],
        mut make: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let request = RawMessage {
            kind: request,
            body: body.to_vec(),
        };
        self.0.dump(&request, |message| {
            if message.kind == answer {
                make(&message.body)
            } else {
                None
            }
        })
    }
}

/// Returns a socket that receives notifications about interfaces, qdiscs and filters in this
/// namespace.
///
/// # Errors
/// Returns an error if the socket cannot be opened.
pub fn watch() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for group in [RTNLGRP_LINK, RTNLGRP_TC] {
        socket.add_membership(group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Returns the attributes in `bytes`, each with its type.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)? & TYPE;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the value of the first attribute with the type `kind`.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(of, value)| (of == kind).then_some(value))
}

/// Returns the string in `value`, up to the first NUL if there is one.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(value.get(..end.unwrap_or(value.len())).unwrap_or_default())
        .into_owned()
}

/// Returns the 32-bit word at the offset `at`, in bytes.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// Returns the 16-bit word at the offset `at`, in bytes.
pub(super) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn attributes_are_found_and_a_malformed_one_ends_the_list() {
        let mut bytes = attribute_of(3, b"eth0\0");
        bytes.extend(attribute_of(52 | 0x8000, &attribute_of(53, b"uplink\0")));
        assert_eq!(attribute(&bytes, 3).map(text).as_deref(), Some("eth0"));
        let nested = attribute(&bytes, 52).unwrap();
        assert_eq!(attribute(nested, 53).map(text).as_deref(), Some("uplink"));
        assert_eq!(attribute(&bytes, 4), None);
        for cut in 0..bytes.len() {
            assert!(attributes(&bytes[..cut]).count() <= 2);
        }
        for length in [0u16, 1, 3, 400] {
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attributes(&bytes).count(), 0, "{length}");
        }
    }
}
