// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device to which the packets of a test run belong, in a private network namespace. A socket
//! captures the packets that the programs send out of the device or into it (`bpf_clone_redirect`).
//!
//! The kernel delivers packets into a device later, in the order in which they were sent on a
//! processor. After a run, a marker is therefore sent into the device from the same processor. All
//! packets of the run have been captured when the marker is captured.

use std::{
    fs::File,
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _},
    panic,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use nix::{
    poll::{PollFd, PollFlags, poll},
    sched::{
        CloneFlags, CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity, setns, unshare,
    },
    unistd::Pid,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::process;

/// The name and the index of the device, and those of the other end of the veth pair, which
/// discards all packets.
const DEVICE: &str = "p0";
const IFINDEX: u32 = 42;
const PEER: &str = "p1";
const PEER_IFINDEX: u32 = 43;

/// The EtherType of markers, which is one for local experiments (IEEE 802).
const MARKER: u16 = 0x88b5;
/// The longest wait for a marker, in ms.
const MARKER_TIMEOUT: u16 = 30_000;

/// The maximum size of a captured packet in bytes.
const LONGEST: usize = 4096;

/// A veth pair in a network namespace. The kernel removes the pair and the namespace when the
/// process ends.
#[derive(Debug)]
pub struct TestDevice {
    namespace: File,
    socket: Socket,
    /// The socket that sends markers, at the other end of the pair.
    markers: Socket,
    /// The number of the last marker.
    marker: AtomicU32,
}

/// Keeps the calling thread on its present processor, until it is dropped.
#[derive(Debug)]
pub struct OneProcessor(CpuSet);

impl OneProcessor {
    /// # Panics
    /// Panics if the kernel refuses.
    pub fn new() -> Self {
        let this_thread = Pid::from_raw(0);
        let before = sched_getaffinity(this_thread).expect("the processors of this thread");
        let mut only = CpuSet::new();
        only.set(sched_getcpu().expect("the present processor"))
            .expect("a processor");
        sched_setaffinity(this_thread, &only).expect("stay on a processor");
        Self(before)
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        // The thread may stay where it is if this fails.
        let _restored = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

impl TestDevice {
    /// # Panics
    /// Panics if the process is not root, or if the kernel refuses to create the device.
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            // This call affects only the calling thread and the processes that it starts.
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (needs root)");
            for words in [
                format!(
                    "link add {DEVICE} index {IFINDEX} type veth \
                     peer name {PEER} index {PEER_IFINDEX}"
                ),
                format!("link set {PEER} up"),
                format!("link set {DEVICE} up"),
            ] {
                process::succeed(Command::new("ip").args(words.split_whitespace()));
            }
            let namespace = File::open("/proc/thread-self/ns/net").expect("open the namespace");
            Self {
                namespace,
                socket: packet_socket(IFINDEX).expect("a packet socket"),
                markers: packet_socket(PEER_IFINDEX).expect("a packet socket"),
                marker: AtomicU32::new(0),
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

    /// Discards the packets that have been captured, for example those of the namespace's own
    /// network stack.
    pub fn discard(&self) {
        let mut buffer = [0; LONGEST];
        while io::Read::read(&mut &self.socket, &mut buffer).is_ok() {}
    }

    /// Returns all packets, not only TCP, that have passed through the device since the last call.
    /// The caller keeps the thread on the processor on which the packets were sent
    /// ([`OneProcessor`]).
    ///
    /// # Panics
    /// Panics if the packets do not arrive.
    pub fn caught(&self) -> Vec<Vec<u8>> {
        let marker = marker(self.marker.fetch_add(1, Relaxed));
        self.markers.send(&marker).expect("send a marker");
        let mut packets = Vec::new();
        let mut buffer = vec![0; LONGEST];
        loop {
            match io::Read::read(&mut &self.socket, &mut buffer) {
                Ok(len) if buffer[..len] == marker => return packets,
                Ok(len) => packets.push(buffer[..len].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                Err(error) => panic!("receive: {error}"),
            }
        }
    }

    /// Waits until a packet has been captured.
    fn wait(&self) {
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut sockets, MARKER_TIMEOUT).expect("wait for a packet");
        assert!(ready > 0, "the marker was not captured");
    }
}

/// Returns the frame of a marker.
fn marker(number: u32) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[12..14].copy_from_slice(&MARKER.to_be_bytes());
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Returns a socket that sends packets out of a device, and receives every packet of the device in
/// both directions (packet(7)).
fn packet_socket(ifindex: u32) -> io::Result<Socket> {
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
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    let len = u32::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the socket is open, and the address outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if bound < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(socket)
    }
}
