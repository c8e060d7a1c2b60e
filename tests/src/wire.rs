//! A cable in user space: two TUN or TAP devices and a thread that carries
//! every packet between them, through the hands of a test. It reaches what a
//! veth pair does not show: devices without Ethernet headers, packets without
//! offloads, tagged, fragmented, dropped and doubled ones.

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

/// Longest packet: TUN and TAP devices segment before they hand out.
const LONGEST: usize = 65_536;

/// What the devices carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ethernet frames.
    Tap,
    /// IP packets without a link header.
    Tun,
}

impl Kind {
    /// Bytes before the IP header.
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

/// The cable; unplugged when dropped.
#[derive(Debug)]
pub struct Wire {
    /// Closing it wakes the thread, which then ends.
    plug: Option<UnixStream>,
    carrier: Option<JoinHandle<()>>,
}

/// What becomes of a packet on its way: nothing, one or several.
pub type Way = Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>> + Send>;

/// Carries every packet as it is.
pub fn untouched() -> Way {
    Box::new(|packet| vec![packet])
}

/// Loses so many of a hundred packets, the same ones in every run with the same
/// seed and the same packets.
pub fn lossy(percent: u64, seed: u64) -> Way {
    // Marsaglia's xorshift64, which must not start at 0.
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
    /// Joins the namespaces of a lab that is [`crate::Net::Apart`].
    pub fn join(lab: &Lab, kind: Kind, mut to_server: Way, mut to_client: Way) -> Self {
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

fn carry(mut from: &File, mut to: &File, way: &mut Way) {
    let mut packet = vec![0; LONGEST];
    let Ok(length) = from.read(&mut packet) else {
        return;
    };
    packet.truncate(length);
    for packet in way(packet) {
        // A device that is down loses packets, as cables do.
        let _ = to.write_all(&packet);
    }
}

fn device(namespace: &Namespace, name: &str, kind: Kind) -> File {
    let made = namespace.enter(|| -> io::Result<File> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // SAFETY: an all-zero ifreq is valid: it is a name, a union of plain
        // numbers and addresses, and nothing else.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::try_from(from).expect("names are ASCII");
        }
        request.ifr_ifru.ifru_flags = kind.flags().try_into().expect("flags fit");
        // SAFETY: TUNSETIFF (Documentation/networking/tuntap.rst) reads the
        // ifreq, which lives through the call; the descriptor is open.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    });
    made.unwrap_or_else(|error| panic!("cannot make the device {name}: {error}"))
}
