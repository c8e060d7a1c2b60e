// SPDX-License-Identifier: MIT OR Apache-2.0

//! A cable in user space: two TUN or TAP devices, and a thread that carries every packet between
//! them and lets a test change it. Tests use it for cases that do not occur on a veth pair: devices
//! without Ethernet headers, packets without offloads, and tagged, fragmented, dropped and
//! duplicated packets.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    Lab, Namespace,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
};

/// The maximum size of a packet in bytes. Larger packets are segmented before a TUN or TAP device
/// passes them to this process.
const LONGEST: usize = 65_536;

/// The kind of a cable's two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Devices that carry Ethernet frames.
    Tap,
    /// Devices that carry IP packets without a link header.
    Tun,
}

impl DeviceKind {
    /// Returns the size of the link header before the IP header, in bytes.
    pub fn link_header(self) -> usize {
        match self {
            Self::Tap => 14,
            Self::Tun => 0,
        }
    }

    fn flags(self) -> libc::c_int {
        match self {
            Self::Tap => libc::IFF_TAP | libc::IFF_NO_PI,
            Self::Tun => libc::IFF_TUN | libc::IFF_NO_PI,
        }
    }
}

/// A cable between two namespaces. Dropping it disconnects them.
#[derive(Debug)]
pub struct Wire {
    /// One end of a socket pair. The thread waits at the other end, and stops when this end is
    /// closed.
    plug: Option<UnixStream>,
    carrier: Option<JoinHandle<()>>,
}

/// A function that receives a packet on the cable and returns the packets that replace it. It may
/// return none.
pub type PacketHandler = Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>> + Send>;

/// Returns a handler that passes on every packet unchanged.
pub fn untouched() -> PacketHandler {
    Box::new(|packet| vec![packet])
}

/// Returns a handler that drops `percent` of the packets. For the same seed and the same sequence
/// of packets, the handler drops the same packets in every run.
pub fn lossy(percent: u64, seed: u64) -> PacketHandler {
    // This is Marsaglia's xorshift64, whose state must not be 0.
    let mut state = seed | 1;
    Box::new(move |packet| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state % 100 < percent {
            Vec::new()
        } else {
            vec![packet]
        }
    })
}

impl Wire {
    /// Connects the namespaces of a [`crate::Net::Apart`] lab.
    pub fn join(
        lab: &Lab,
        kind: DeviceKind,
        mut to_server: PacketHandler,
        mut to_client: PacketHandler,
    ) -> Self {
        let client = device(lab.client(), CLIENT_INTERFACE, kind);
        let server = device(lab.server(), SERVER_INTERFACE, kind);
        lab.address_ends();
        let (plug, unplugged) = UnixStream::pair().expect("a pair of sockets");
        let carrier = thread::spawn(move || {
            loop {
                let mut ends = [
                    PollFd::new(client.as_fd(), PollFlags::POLLIN),
                    PollFd::new(server.as_fd(), PollFlags::POLLIN),
                    PollFd::new(unplugged.as_fd(), PollFlags::POLLIN),
                ];
                poll(&mut ends, PollTimeout::NONE).expect("wait for packets");
                let [at_client, at_server, stop] = ends.map(|end| end.any().unwrap_or(true));
                if stop {
                    return;
                }
                if at_client {
                    carry(&client, &server, &mut to_server);
                }
                if at_server {
                    carry(&server, &client, &mut to_client);
                }
            }
        });
        Self {
            plug: Some(plug),
            carrier: Some(carrier),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.plug.take());
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

fn carry(mut from: &File, mut to: &File, way: &mut PacketHandler) {
    let mut packet = vec![0; LONGEST];
    let Ok(length) = from.read(&mut packet) else {
        return;
    };
    packet.truncate(length);
    for packet in way(packet) {
        // A device that is down does not accept packets. Like packets on an unplugged cable, they
        // are lost.
        let _ = to.write_all(&packet);
    }
}

fn device(namespace: &Namespace, name: &str, kind: DeviceKind) -> File {
    let made = namespace.enter(|| -> io::Result<File> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // SAFETY: an all-zero ifreq is valid, because it consists of a name and a union of integers
        // and addresses.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::try_from(from).expect("names are ASCII");
        }
        request.ifr_ifru.ifru_flags = kind.flags().try_into().expect("flags fit");
        // SAFETY: TUNSETIFF (Documentation/networking/tuntap.rst) reads the ifreq, which outlives
        // the call, and the descriptor is open.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    });
    made.unwrap_or_else(|error| panic!("cannot make the device {name}: {error}"))
}
