// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device to which the packets of a test run belong, in a private network namespace. A socket
//! captures the packets that the programs send out of the device or into it (`bpf_clone_redirect`).

use std::{fs::File, io, mem, os::fd::AsRawFd as _, panic, process::Command, thread};

use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use crate::process;

/// The name and the index of the device, and the name of the other end of the veth pair, which
/// discards all packets.
const DEVICE: &str = "p0";
const IFINDEX: u32 = 42;
const PEER: &str = "p1";

/// The maximum size of a captured packet in bytes.
const LONGEST: usize = 4096;

/// A veth pair in a network namespace. The kernel removes the pair and the namespace when the
/// process ends.
#[derive(Debug)]
pub struct TestDevice {
    namespace: File,
    socket: Socket,
}

impl TestDevice {
    /// # Panics
    /// Panics if the process is not root, or if the kernel refuses to create the device.
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            // This call affects only the calling thread and the processes that it starts.
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (needs root)");
            for words in [
                format!("link add {DEVICE} index {IFINDEX} type veth peer name {PEER}"),
                format!("link set {PEER} up"),
                format!("link set {DEVICE} up"),
            ] {
                process::succeed(Command::new("ip").args(words.split_whitespace()));
            }
            let namespace = File::open("/proc/thread-self/ns/net").expect("open the namespace");
            Self {
                namespace,
                socket: catching().expect("a packet socket"),
            }
        });
        made.join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    pub fn ifindex(&self) -> u32 {
        IFINDEX
    }

    /// Moves the calling thread into the namespace, because the test run looks up devices in the
    /// namespace of its caller.
    pub fn enter(&self) {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
    }

    /// Returns all packets, not only TCP, that have passed through the device since the last call.
    pub fn caught(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; LONGEST];
        while let Ok(len) = io::Read::read(&mut &self.socket, &mut buffer) {
            packets.push(buffer[..len].to_vec());
        }
        packets
    }
}

/// Returns a socket that receives every packet of the device in both directions (packet(7)).
fn catching() -> io::Result<Socket> {
    let protocol = u16::try_from(libc::ETH_P_ALL)
        .map_err(io::Error::other)?
        .to_be();
    let socket = Socket::new(
        Domain::from(libc::AF_PACKET),
        Type::from(libc::SOCK_RAW),
        Some(Protocol::from(i32::from(protocol))),
    )?;
    socket.set_nonblocking(true)?;
    // SAFETY: an all-zero sockaddr_ll is valid, because it consists of integers.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(IFINDEX).map_err(io::Error::other)?;
    let len = u32::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the socket is open, and the address outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if bound < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(socket)
    }
}
