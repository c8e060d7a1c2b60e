// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lists the TCP sockets of this host over sock_diag(7).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use limiter_common::abi::{FlowKey, Link};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

pub use super::netlink::Dump;
use super::netlink::Netlink;

/// The value of `idiag_cookie` that matches any socket (`INET_DIAG_NOCOOKIE`,
/// include/uapi/linux/inet_diag.h).
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// The two ends of a connection. IPv4 addresses are never in the IPv6-mapped form, even if the
/// socket has them in that form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ends {
    /// The server's address and port.
    pub server: SocketAddr,
    /// The client's address and port.
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

impl From<Ends> for FlowKey {
    fn from(ends: Ends) -> Self {
        let words = |address: IpAddr| {
            let bytes = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            }
            .octets();
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            words
        };
        Self {
            client: words(ends.client.ip()),
            server: words(ends.server.ip()),
            client_port: ends.client.port().to_be(),
            server_port: ends.server.port().to_be(),
            link: Link::NONE,
        }
    }
}

impl From<&SocketId> for Ends {
    /// Converts the id of a socket of the server. In such an id the source is the server, and the
    /// destination is the client.
    fn from(id: &SocketId) -> Self {
        Self {
            server: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            client: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        }
    }
}

/// A table of sockets.
pub trait SocketTable {
    /// Calls `seen` with the ends of every TCP socket, whatever its state.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn dump(&mut self, seen: &mut dyn FnMut(Ends)) -> io::Result<Dump>;

    /// Returns whether there is a socket with the ends `ends`. A socket that is bound to a device
    /// is not always found.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn find(&mut self, ends: Ends) -> io::Result<bool>;
}

/// The sockets in the network namespace in which this value was created.
pub struct KernelSockets(Netlink);

impl KernelSockets {
    /// Connects to the kernel's table of sockets.
    ///
    /// # Errors
    /// Returns an error if the kernel has no sock_diag.
    pub fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_SOCK_DIAG).map(Self)
    }

    fn request(
        &mut self,
        family: u8,
        flags: u16,
        socket_id: SocketId,
        seen: &mut dyn FnMut(&InetResponseHeader),
    ) -> io::Result<Dump> {
        let request = inet_request(family, socket_id);
        self.0.request(request, flags, &mut |message| {
            if let SockDiagMessage::InetResponse(response) = message {
                seen(&response.header);
            }
        })
    }

    /// Ends the connection of the socket with the ends `ends`, as if its process had aborted it:
    /// both sides get a reset. Returns whether there is such a socket.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn destroy(&mut self, ends: Ends) -> io::Result<bool> {
        // The kernel ends exactly the socket with this cookie. Without a cookie, it would end the
        // socket that listens on the server's port if the connection has just ended by itself.
        let Some(cookie) = self.cookie(ends)? else {
            return Ok(false);
        };
        let id = SocketId {
            cookie,
            ..id_of(ends)
        };
        let request = SockDiagDestroy::new(inet_request(family_of(ends), id));
        match self.0.request(request, NLM_F_ACK, &mut |_| {}) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the cookie of the socket with the ends `ends`, which identifies the socket, or
    /// `None` if there is no such socket.
    fn cookie(&mut self, ends: Ends) -> io::Result<Option<[u8; 8]>> {
        let mut cookie = None;
        // If the connection does not exist, the kernel returns the socket that listens on the
        // server's port.
        match self.request(family_of(ends), 0, id_of(ends), &mut |socket| {
            cookie = (socket.state != TCP_LISTEN).then_some(socket.socket_id.cookie);
        }) {
            Ok(_) => Ok(cookie),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the addresses and ports on which servers in this namespace listen.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn listeners(&mut self) -> io::Result<Vec<SocketAddr>> {
        let mut listeners = Vec::new();
        for family in [AF_INET6, AF_INET] {
            self.request(family, NLM_F_DUMP, SocketId::new_v6(), &mut |socket| {
                if socket.state == TCP_LISTEN {
                    listeners.push(Ends::from(&socket.socket_id).server);
                }
            })?;
        }
        Ok(listeners)
    }
}

/// Returns a request for the TCP sockets with the id `socket_id`.
fn inet_request(family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        // All states are requested. Among them are TIME_WAIT, and SYN_RECV, which also selects
        // half-open connections (inet_diag_dump_icsk(), net/ipv4/inet_diag.c).
        states: StateFlags::all(),
        socket_id,
    })
}

fn family_of(ends: Ends) -> u8 {
    if ends.server.is_ipv4() {
        AF_INET
    } else {
        AF_INET6
    }
}

/// Returns the id of the server's socket with the ends `ends`.
fn id_of(ends: Ends) -> SocketId {
    SocketId {
        source_port: ends.server.port(),
        destination_port: ends.client.port(),
        source_address: ends.server.ip(),
        destination_address: ends.client.ip(),
        interface_id: 0,
        cookie: ANY_COOKIE,
    }
}

impl SocketTable for KernelSockets {
    fn dump(&mut self, seen: &mut dyn FnMut(Ends)) -> io::Result<Dump> {
        let mut dump = Dump::Complete;
        // A socket can change from IPv6 to IPv4 (`IPV6_ADDRFORM`), but not from IPv4 to IPv6. IPv6
        // comes first, so that a socket that changes between the two dumps is listed twice rather
        // than missed.
        for family in [AF_INET6, AF_INET] {
            let part = self.request(family, NLM_F_DUMP, SocketId::new_v6(), &mut |socket| {
                seen(Ends::from(&socket.socket_id));
            })?;
            if part == Dump::Interrupted {
                dump = part;
            }
        }
        Ok(dump)
    }

    fn find(&mut self, ends: Ends) -> io::Result<bool> {
        Ok(self.cookie(ends)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        io::Read as _,
        net::{Ipv6Addr, TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn listening_sockets_are_found_and_others_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let found = KernelSockets::open().unwrap().listeners().unwrap();
        assert!(found.contains(&at), "{at} not in {found:?}");
        assert!(!found.contains(&client.local_addr().unwrap()));
    }

    /// Returns up to three connections: one over IPv4 to an IPv6 socket that accepts both families,
    /// one over IPv6, and one over IPv4 to an IPv4 socket.
    fn connections() -> Vec<(TcpListener, TcpStream, Ends)> {
        [
            ("[::]:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("127.0.0.1:0", "127.0.0.1"),
        ]
        .into_iter()
        .filter_map(|(at, server)| {
            // The host may lack IPv6.
            let listener = TcpListener::bind(at).ok()?;
            let port = listener.local_addr().unwrap().port();
            let server = SocketAddr::new(server.parse().unwrap(), port);
            let client = TcpStream::connect(server).unwrap();
            let client_end = client.local_addr().unwrap();
            let ends = Ends {
                server,
                client: client_end,
            };
            let ends = Ends::from(&FlowKey::from(ends));
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
    fn a_connection_is_found_and_a_listener_is_not_one() {
        let mut sockets = KernelSockets::open().unwrap();
        for (_, _, ends) in connections() {
            assert!(sockets.find(ends).unwrap(), "{ends:?}");
            let mut other = ends;
            other.client.set_port(1);
            assert!(!sockets.find(other).unwrap(), "{other:?}");
        }
    }

    #[test]
    fn a_destroyed_connection_is_reset_and_its_listener_stays() {
        let mut sockets = KernelSockets::open().unwrap();
        for (listener, mut client, ends) in connections() {
            match sockets.destroy(ends) {
                // Only root may do that, in the tests as elsewhere.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
                destroyed => assert!(destroyed.unwrap(), "{ends:?}"),
            }
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{ends:?}");
            assert!(!sockets.destroy(ends).unwrap(), "{ends:?}");
            let again = TcpStream::connect(listener.local_addr().unwrap());
            assert!(again.is_ok(), "{ends:?}");
        }
    }

    #[test]
    fn a_closed_socket_that_waits_is_still_there() {
        let mut sockets = KernelSockets::open().unwrap();
        for (listener, client, ends) in connections() {
            // The server closes first, so that the server's socket is the one in TIME_WAIT.
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
