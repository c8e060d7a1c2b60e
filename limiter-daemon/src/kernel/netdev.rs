//! The network interfaces of the namespace that this process is in.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Whether frames carry an Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkLayer {
    /// 14 bytes before the network header; loopback too.
    Ethernet,
    /// Packets begin with the network header (tun, WireGuard, ipip, …).
    None,
}

/// An interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index, at least 1.
    pub index: u32,
    /// How its frames begin.
    pub link_layer: LinkLayer,
}

/// All interfaces, sorted by name.
///
/// Asked of the kernel, not of `/sys/class/net`: that shows the namespace in which `/sys` was
/// mounted, which is another one under `nsenter --net`.
///
/// # Errors
/// The kernel does not answer.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    // SAFETY: a plain system call; the result is checked.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut found = Vec::new();
    for (index, name) in names()? {
        // An interface may vanish while we look: then it is not there.
        if let Ok(link_layer) = link_layer(&socket, &name) {
            found.push(Interface {
                name,
                index,
                link_layer,
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn names() -> io::Result<Vec<(u32, String)>> {
    // SAFETY: returns null or an array that ends with index 0 and is ours to free.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    let mut at = list;
    // SAFETY: `at` walks the array up to its end mark, which has index 0 and a null name; names
    // are NUL-terminated strings that live until the array is freed below.
    unsafe {
        while (*at).if_index != 0 && !(*at).if_name.is_null() {
            let name = CStr::from_ptr((*at).if_name).to_string_lossy().into_owned();
            names.push(((*at).if_index, name));
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    Ok(names)
}

/// The kind of link (`ARPHRD_*`), by `SIOCGIFHWADDR` (netdevice(7)).
fn link_layer(socket: &OwnedFd, name: &str) -> io::Result<LinkLayer> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays NUL; the kernel gave us the name, so it fits.
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = from.cast_signed();
    }
    // SAFETY: `request` is a valid `ifreq` that outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFHWADDR fills the address, whose family holds the kind of link.
    let kind = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
    Ok(match kind {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkLayer::Ethernet,
        _ => LinkLayer::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_has_ethernet_headers() {
        let found = interfaces().unwrap();
        let loopback = found
            .iter()
            .find(|interface| interface.name == "lo")
            .unwrap();
        assert_eq!(loopback.link_layer, LinkLayer::Ethernet);
        assert!(loopback.index >= 1);
    }
}
