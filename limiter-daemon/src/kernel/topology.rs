// SPDX-License-Identifier: MIT OR Apache-2.0

//! The devices in this namespace and the connections between them, as read over rtnetlink(7).

use std::io;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Netlink;

/// A device, and its connections to other devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    /// The kind, as shown by `ip -d link` (`bridge`, `vlan`, `veth` and so on). It is empty for
    /// hardware and for `lo`.
    pub kind: String,
    /// Whether the device is up.
    pub is_up: bool,
    /// Whether the device is `lo`.
    pub is_loopback: bool,
    /// The index of the device below this device, or of the other end of a veth, if that device is
    /// in this namespace.
    pub link: Option<u32>,
    /// The index of the bridge, bond or team that this device is a port of.
    pub controller: Option<u32>,
    /// Whether an XDP program is attached to the device.
    pub has_xdp: bool,
}

/// Returns all devices.
///
/// # Errors
/// Returns an error if the kernel does not answer.
pub fn devices() -> io::Result<Vec<Device>> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    Netlink::open(NETLINK_ROUTE)?.dump(&all, |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(device(&link)),
        _ => None,
    })
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
            LinkAttribute::Xdp(attributes) => {
                let none = LinkXdp::Attached(XdpAttached::None);
                let is_attached = |xdp: &&LinkXdp| matches!(xdp, LinkXdp::Attached(_));
                device.has_xdp = attributes
                    .iter()
                    .find(is_attached)
                    .is_some_and(|xdp| *xdp != none);
            }
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
    // An index in another namespace is dropped, because in this namespace the same index would
    // refer to an unrelated device.
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
