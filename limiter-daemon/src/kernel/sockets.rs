//! This host's TCP sockets, asked of the kernel (sock_diag(7)).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use limiter_common::abi::FlowKey;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

/// What the kernel makes a part of a dump at most (netlink_dump(), net/netlink/af_netlink.c).
const PART: usize = 32 * 1024;
/// `idiag_cookie` that any socket has (`INET_DIAG_NOCOOKIE`, include/uapi/linux/inet_diag.h).
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// The two ends of a connection; addresses of IPv4 are of IPv4, however the socket has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ends {
    /// The server's.
    pub server: SocketAddr,
    /// The client's.
    pub client: SocketAddr,
}

impl From<&FlowKey> for Ends {
    fn from(key: &FlowKey) -> Self {
        let end = |address: [u32; 4], port: u16| {
            let mut bytes = [0; 16];
            for (to, word) in bytes.chunks_exact_mut(4).zip(address) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            let address = IpAddr::from(bytes).to_canonical();
            SocketAddr::new(address, u16::from_be(port))
        };
        Self {
            server: end(key.server, key.server_port),
            client: end(key.client, key.client_port),
        }
    }
}

impl From<&SocketId> for Ends {
    /// The socket's own end is the server's.
    fn from(id: &SocketId) -> Self {
        Self {
            server: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            client: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        }
    }
}

/// How a dump of sockets ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dump {
    /// All sockets were seen.
    Complete,
    /// The kernel says that some may have been left out.
    Interrupted,
}

/// Where sockets are looked up.
pub trait SocketTable {
    /// Tells `seen` of every TCP socket, in whatever state.
    ///
    /// # Errors
    /// The kernel's.
    fn dump(&mut self, seen: &mut dyn FnMut(Ends)) -> io::Result<Dump>;

    /// Looks one socket up; one that is bound to a device may not be found.
    ///
    /// # Errors
    /// The kernel's.
    fn find(&mut self, ends: Ends) -> io::Result<bool>;
}

/// The sockets of the network namespace that this was made in.
pub struct KernelSockets {
    socket: Socket,
    sequence: u32,
}

impl KernelSockets {
    /// Opens the way to the kernel's table.
    ///
    /// # Errors
    /// The kernel has no sock_diag.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        // The kernel's own address.
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn send(&mut self, family: u8, flags: u16, socket_id: SocketId) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            // TIME_WAIT and half-open ones too: `SYN_RECV` stands for those as well
            // (inet_diag_dump_icsk(), net/ipv4/inet_diag.c).
            states: StateFlags::all(),
            socket_id,
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// Reads the answer to the last request, to its end.
    fn answer(&self, seen: &mut dyn FnMut(&InetResponseHeader)) -> io::Result<Dump> {
        let mut dump = Dump::Complete;
        let mut part = Vec::with_capacity(PART);
        loop {
            part.clear();
            let len = self.socket.recv(&mut part, libc::MSG_TRUNC)?;
            if len > part.len() {
                return Err(io::Error::other("a part of the answer was too long"));
            }
            let mut rest = part.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                let len = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(len..).unwrap_or_default();
                // Left over from a request whose answer was not read to its end.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if message.header.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                let single = message.header.flags & NLM_F_MULTIPART == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        seen(&response.header);
                        if single {
                            return Ok(dump);
                        }
                    }
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(dump),
                    NetlinkPayload::Done(done) => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Overrun(_) => {
                        return Err(io::Error::other("the answer was cut short"));
                    }
                    _ => {}
                }
            }
        }
    }
}

impl KernelSockets {
    /// Where servers of this namespace listen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listeners(&mut self) -> io::Result<Vec<SocketAddr>> {
        let mut listeners = Vec::new();
        for family in [AF_INET6, AF_INET] {
            self.send(family, NLM_F_DUMP, SocketId::new_v6())?;
            self.answer(&mut |found| {
                if found.state == TCP_LISTEN {
                    listeners.push(Ends::from(&found.socket_id).server);
                }
            })?;
        }
        Ok(listeners)
    }
}

impl SocketTable for KernelSockets {
    fn dump(&mut self, seen: &mut dyn FnMut(Ends)) -> io::Result<Dump> {
        let mut dump = Dump::Complete;
        // IPv6 first: a socket may turn from it to IPv4 (`IPV6_ADDRFORM`), not the other way.
        for family in [AF_INET6, AF_INET] {
            self.send(family, NLM_F_DUMP, SocketId::new_v6())?;
            let part = self.answer(&mut |found| seen(Ends::from(&found.socket_id)))?;
            if part == Dump::Interrupted {
                dump = part;
            }
        }
        Ok(dump)
    }

    fn find(&mut self, ends: Ends) -> io::Result<bool> {
        let family = if ends.server.is_ipv4() {
            AF_INET
        } else {
            AF_INET6
        };
        let id = SocketId {
            source_port: ends.server.port(),
            destination_port: ends.client.port(),
            source_address: ends.server.ip(),
            destination_address: ends.client.ip(),
            interface_id: 0,
            cookie: ANY_COOKIE,
        };
        self.send(family, 0, id)?;
        let mut found = false;
        // Where there is no connection, the kernel looks for who listens there.
        match self.answer(&mut |socket| found = socket.state != TCP_LISTEN) {
            Ok(_) => Ok(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        net::{Ipv6Addr, TcpListener, TcpStream},
    };

    use super::*;

    fn key(server: SocketAddr, client: SocketAddr) -> FlowKey {
        let words = |address: IpAddr| {
            let bytes = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            }
            .octets();
            std::array::from_fn(|n| {
                u32::from_ne_bytes(std::array::from_fn(|byte| bytes[4 * n + byte]))
            })
        };
        FlowKey {
            client: words(client.ip()),
            server: words(server.ip()),
            client_port: client.port().to_be(),
            server_port: server.port().to_be(),
        }
    }

    #[test]
    fn those_who_listen_are_found_and_others_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let found = KernelSockets::open().unwrap().listeners().unwrap();
        assert!(found.contains(&at), "{at} not in {found:?}");
        assert!(!found.contains(&client.local_addr().unwrap()));
    }

    /// Connections of both families, the first to a socket that takes both.
    fn connections() -> Vec<(TcpListener, TcpStream, Ends)> {
        [
            ("[::]:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("127.0.0.1:0", "127.0.0.1"),
        ]
        .into_iter()
        .filter_map(|(at, server)| {
            // A host may have no IPv6.
            let listener = TcpListener::bind(at).ok()?;
            let port = listener.local_addr().unwrap().port();
            let server = SocketAddr::new(server.parse().unwrap(), port);
            let client = TcpStream::connect(server).unwrap();
            let ends = Ends::from(&key(server, client.local_addr().unwrap()));
            Some((listener, client, ends))
        })
        .collect()
    }

    #[test]
    fn a_flow_and_its_socket_have_the_same_ends() {
        let mut sockets = KernelSockets::open().unwrap();
        let connections = connections();
        let mut seen = HashSet::new();
        let dump = sockets
            .dump(&mut |ends| {
                seen.insert(ends);
            })
            .unwrap();
        assert_eq!(dump, Dump::Complete);
        for (_, _, ends) in &connections {
            assert!(seen.contains(ends), "no {ends:?} in {seen:?}");
        }
    }

    #[test]
    fn a_connection_is_found_and_a_listener_is_none() {
        let mut sockets = KernelSockets::open().unwrap();
        for (_, _, ends) in connections() {
            assert!(sockets.find(ends).unwrap(), "{ends:?}");
            let mut other = ends;
            other.client.set_port(1);
            assert!(!sockets.find(other).unwrap(), "{other:?}");
        }
    }

    #[test]
    fn what_is_closed_and_waits_is_still_there() {
        let mut sockets = KernelSockets::open().unwrap();
        for (listener, client, ends) in connections() {
            // The server closes first, so that it is its socket that waits.
            let (accepted, _) = listener.accept().unwrap();
            drop(accepted);
            drop(client);
            let mut seen = false;
            sockets.dump(&mut |found| seen |= found == ends).unwrap();
            assert!(seen, "{ends:?}");
        }
    }

    #[test]
    fn mapped_addresses_are_those_of_ipv4() {
        let id = SocketId {
            source_address: "::ffff:192.0.2.1".parse().unwrap(),
            destination_address: Ipv6Addr::LOCALHOST.into(),
            ..SocketId::new_v6()
        };
        let ends = Ends::from(&id);
        assert!(ends.server.is_ipv4() && ends.client.is_ipv6());
    }
}
