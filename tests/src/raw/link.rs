// SPDX-License-Identifier: MIT OR Apache-2.0

//! A packet socket that sends and receives frames on an interface (packet(7)).

use std::{
    io::{self, Read as _},
    os::fd::AsFd as _,
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Frame;
use crate::Namespace;

/// The size of the receive buffer in bytes. The buffer has to hold all frames that arrive while the
/// test does something else.
const ROOM: usize = 4 << 20;

/// The maximum size of a frame in bytes. Frames can be larger than the MTU, because a veth pair
/// does not segment large packets.
const LONGEST: usize = 70_000;

/// A socket that sends and receives complete frames.
#[derive(Debug)]
pub struct FrameSocket {
    socket: Socket,
    pub(super) server_mac: [u8; 6],
    buffer: Vec<u8>,
}

impl FrameSocket {
    /// # Panics
    /// Panics if the kernel does not support packet sockets.
    pub(super) fn open(namespace: &Namespace, interface: u32, server_mac: [u8; 6]) -> Self {
        let socket = namespace.enter(|| {
            // The socket is made without a protocol, so that it receives nothing until it is bound
            // to the interface.
            let socket = Socket::new(
                Domain::from(libc::AF_PACKET),
                Type::from(libc::SOCK_RAW),
                None,
            )?;
            socket.set_recv_buffer_size(ROOM)?;
            socket.bind(&address(interface)?)?;
            Ok::<_, io::Error>(socket)
        });
        Self {
            socket: socket.unwrap_or_else(|error| panic!("no packet socket: {error}")),
            server_mac,
            buffer: vec![0; LONGEST],
        }
    }

    /// Sends one frame.
    pub fn send(&self, frame: &Frame) {
        let sent = self.socket.send(frame.bytes());
        sent.unwrap_or_else(|error| panic!("cannot send a frame: {error}"));
    }

    /// Returns the next frame that passes through the interface in either direction, or `None` if
    /// no frame passes before `deadline`.
    pub(super) fn receive(&mut self, deadline: Instant) -> Option<&[u8]> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left.as_millis()).expect("a short time");
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, timeout) {
                Ok(0) if Instant::now() < deadline => {}
                Ok(0) => return None,
                Ok(_) => {
                    let length = self.socket.read(&mut self.buffer).expect("read a frame");
                    return Some(&self.buffer[..length]);
                }
                Err(Errno::EINTR) => {}
                Err(error) => panic!("cannot wait for frames: {error}"),
            }
        }
    }
}

/// Returns the address for binding a socket that is to receive all frames of an interface.
fn address(interface: u32) -> io::Result<SockAddr> {
    let all = u16::try_from(libc::ETH_P_ALL).expect("an EtherType");
    let index = i32::try_from(interface).expect("an interface's number");
    // SAFETY: the storage is zeroed, aligned and large enough for any address. The closure writes a
    // `sockaddr_ll` (packet(7)) to the storage, and sets the length to that of a `sockaddr_ll`.
    let (_, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).expect("it fits");
            (*address).sll_protocol = all.to_be();
            (*address).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>()
                .try_into()
                .expect("a short address");
            Ok(())
        })?
    };
    Ok(address)
}
