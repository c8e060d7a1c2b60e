// SPDX-License-Identifier: MIT OR Apache-2.0

//! The network interfaces in the namespace of this process.

use std::io;

use super::rtnl::{RTM_GETLINK, RTM_NEWLINK, Route, attribute, attributes, half, text, word};

/// The attributes of an interface (include/uapi/linux/if_link.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
/// The flag that makes the kernel leave out the counters of interfaces, which are not used here
/// (`RTEXT_FILTER_SKIP_STATS`).
const SKIP_STATS: u32 = 8;
/// The size of `struct ifinfomsg` in bytes, and the offsets of its type and its index in bytes.
const LINK_BODY: usize = 16;
const LINK_TYPE: usize = 2;
const LINK_INDEX: usize = 4;

/// The kind of header with which an interface's frames begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkLayer {
    /// An Ethernet header of 14 bytes, which frames on the loopback interface have too.
    Ethernet,
    /// No link-layer header. Frames begin with the header of the network layer (tun, WireGuard,
    /// ipip and others).
    None,
}

/// An interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The name that the kernel uses.
    pub name: String,
    /// The alternative names (`ip link property add ... altname`).
    pub alternative_names: Vec<String>,
    /// The index, which is at least 1.
    pub index: u32,
    /// The kind of header with which the interface's frames begin.
    pub link_layer: LinkLayer,
}

impl Interface {
    /// Returns all names of the interface, beginning with the one that the kernel uses.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let others = self.alternative_names.iter().map(String::as_str);
        std::iter::once(self.name.as_str()).chain(others)
    }
}

/// Returns all interfaces, sorted by name.
///
/// The list comes from netlink rather than from `/sys/class/net`, which shows the namespace in
/// which `/sys` was mounted. Under `nsenter --net` that is a different namespace.
///
/// # Errors
/// Returns an error if the kernel does not answer.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut request = vec![0; LINK_BODY];
    request.extend(8u16.to_ne_bytes());
    request.extend(IFLA_EXT_MASK.to_ne_bytes());
    request.extend(SKIP_STATS.to_ne_bytes());
    let mut found = Route::open()?.dump(RTM_GETLINK, RTM_NEWLINK, &request, interface)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.index == b.index);
    Ok(found)
}

fn interface(message: &[u8]) -> Option<Interface> {
    let rest = message.get(LINK_BODY..)?;
    let properties = attribute(rest, IFLA_PROP_LIST).unwrap_or_default();
    let alternative = |(kind, name)| (kind == IFLA_ALT_IFNAME).then(|| text(name));
    Some(Interface {
        name: attribute(rest, IFLA_IFNAME).map(text)?,
        alternative_names: attributes(properties).filter_map(alternative).collect(),
        index: word(message, LINK_INDEX)?,
        link_layer: match half(message, LINK_TYPE)? {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkLayer::Ethernet,
            _ => LinkLayer::None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_exists_and_has_ethernet_headers() {
        let found = interfaces().unwrap();
        let loopback = found
            .iter()
            .find(|interface| interface.name == "lo")
            .unwrap();
        assert_eq!(loopback.link_layer, LinkLayer::Ethernet);
        assert!(loopback.index >= 1);
    }
}
