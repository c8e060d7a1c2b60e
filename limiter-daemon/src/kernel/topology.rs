//! How the interfaces of this namespace hang together, asked of the kernel (rtnetlink(7)).

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What the kernel makes a part of a dump at most (netlink_dump(), net/netlink/af_netlink.c).
const PART: usize = 32 * 1024;

/// An interface and what it is connected with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What `ip -d link` calls its kind: `bridge`, `vlan`, `veth` ...; empty for hardware and `lo`.
    pub kind: String,
    /// Whether it was brought up.
    pub is_up: bool,
    /// Whether it is `lo`.
    pub is_loopback: bool,
    /// What it lies on, or the other end of a veth, by index, if that is in this namespace.
    pub link: Option<u32>,
    /// The bridge, bond or team that it is a port of, by index.
    pub controller: Option<u32>,
}

/// All interfaces.
///
/// # Errors
/// The kernel does not answer.
pub fn devices() -> io::Result<Vec<Device>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // The kernel's own address.
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(all));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut devices = Vec::new();
    let mut part = Vec::with_capacity(PART);
    loop {
        part.clear();
        let len = socket.recv(&mut part, libc::MSG_TRUNC)?;
        if len > part.len() {
            return Err(io::Error::other("a part of the answer was too long"));
        }
        let mut rest = part.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(io::Error::other)?;
            let len = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(len..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    devices.push(device(&link));
                }
                NetlinkPayload::Done(_) => return Ok(devices),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

fn device(link: &LinkMessage) -> Device {
    let mut device = Device {
        index: link.header.index,
        is_up: link.header.flags.contains(LinkFlags::Up),
        is_loopback: link.header.flags.contains(LinkFlags::Loopback),
        ..Device::default()
    };
    let mut is_elsewhere = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Link(index) => device.link = Some(*index),
            LinkAttribute::Controller(index) => device.controller = Some(*index),
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        device.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    // An index of another namespace says nothing here.
    device.link = device.link.filter(|index| !is_elsewhere && *index != 0);
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_connected_with_nothing() {
        let found = devices().unwrap();
        let loopback = found.iter().find(|device| device.is_loopback).unwrap();
        assert_eq!(loopback.name, "lo");
        assert_eq!((loopback.link, loopback.controller), (None, None));
    }
}
