// SPDX-License-Identifier: MIT OR Apache-2.0

//! The test environment: network namespaces, the network between them, and a directory.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Conn, Namespace, cleanup, process};

const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x2d, 0, 0, 0, 1);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x2d, 0, 0, 0, 2);

/// The names of the client's and the server's interface. They are the same in every lab, because
/// each lab has its own namespaces.
pub const CLIENT_INTERFACE: &str = "c0";
pub const SERVER_INTERFACE: &str = "s0";

/// The connection between the client and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// Two namespaces connected by a veth pair with its offloads enabled. The kernel therefore
    /// neither completes checksums nor segments packets before they cross the pair
    /// (`CHECKSUM_PARTIAL`, large skbs).
    Veth,
    /// The same as [`Self::Veth`] with the offloads disabled: checksums are complete and segments
    /// are small.
    VethNoOffload,
    /// One namespace and its `lo`. Segments contain up to 64 KiB, and each of the two hooks sees
    /// the packets of both directions.
    Loopback,
    /// Two namespaces with no network between them; a [`crate::wire::Wire`] connects them.
    Apart,
}

impl Net {
    /// The networks on which every basic behaviour is tested.
    pub const ALL: [Self; 3] = [Self::Veth, Self::VethNoOffload, Self::Loopback];
}

/// One or two namespaces, their addresses and a directory. Dropping the lab removes all of them.
#[derive(Debug)]
pub struct Lab {
    name: String,
    net: Net,
    client: Option<Namespace>,
    server: Namespace,
    directory: PathBuf,
}

impl Lab {
    /// # Panics
    /// Panics if the process is not root, or if the kernel refuses to create namespaces.
    pub fn new(net: Net) -> Self {
        require_root();
        let name = cleanup::unique_name();
        let directory = cleanup::directory(&name);
        fs::create_dir(&directory)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", directory.display()));
        let server = Namespace::new(&format!("{name}s"));
        let client = (net != Net::Loopback).then(|| Namespace::new(&format!("{name}c")));
        let lab = Self {
            name,
            net,
            client,
            server,
            directory,
        };
        match net {
            Net::Veth | Net::VethNoOffload => lab.join_by_veth(),
            Net::Loopback | Net::Apart => {}
        }
        lab
    }

    pub fn veth() -> Self {
        Self::new(Net::Veth)
    }

    pub fn loopback() -> Self {
        Self::new(Net::Loopback)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the directory for the files of this lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the namespace of the clients.
    pub fn client(&self) -> &Namespace {
        self.client.as_ref().unwrap_or(&self.server)
    }

    /// Deletes the client's namespace with everything in it. Afterwards, [`Self::client`] returns
    /// the server's namespace.
    pub fn delete_client(&mut self) {
        self.client = None;
    }

    /// Returns the namespace of the server and the daemon.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// Returns the interface of the server's namespace on which traffic arrives.
    pub fn interface(&self) -> &'static str {
        match self.net {
            Net::Loopback => "lo",
            _ => SERVER_INTERFACE,
        }
    }

    /// Returns the server's IPv4 address.
    pub fn v4(&self) -> IpAddr {
        match self.net {
            Net::Loopback => Ipv4Addr::LOCALHOST.into(),
            _ => SERVER_V4.into(),
        }
    }

    pub fn v6(&self) -> IpAddr {
        match self.net {
            Net::Loopback => Ipv6Addr::LOCALHOST.into(),
            _ => SERVER_V6.into(),
        }
    }

    /// Returns the client's IPv4 address.
    pub fn client_v4(&self) -> IpAddr {
        match self.net {
            Net::Loopback => Ipv4Addr::LOCALHOST.into(),
            _ => CLIENT_V4.into(),
        }
    }

    /// Returns the client's IPv6 address.
    pub fn client_v6(&self) -> IpAddr {
        match self.net {
            Net::Loopback => Ipv6Addr::LOCALHOST.into(),
            _ => CLIENT_V6.into(),
        }
    }

    /// Returns the server's address in each family.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// Returns `http://SERVER:PORT/PATH` with the server's IPv4 address.
    pub fn url(&self, port: u16, path: &str) -> String {
        self.url_of(self.v4(), port, path)
    }

    /// Does the same as [`Self::url`] with another address of the server.
    pub fn url_of(&self, address: IpAddr, port: u16, path: &str) -> String {
        format!("http://{}{path}", SocketAddr::new(address, port))
    }

    /// Opens a connection from the client to the server over IPv4.
    pub fn connect(&self, port: u16) -> Conn {
        self.connect_to(self.v4(), port)
    }

    pub fn connect_to(&self, address: IpAddr, port: u16) -> Conn {
        Conn::open(self.client(), SocketAddr::new(address, port))
    }

    /// Returns whether a socket listens on `port` in the server's namespace.
    pub fn listens(&self, port: u16) -> bool {
        let filter = format!("sport = :{port}");
        let listing = process::succeed(self.server().command("ss").args(["-Hltn", &filter]));
        !listing.trim().is_empty()
    }

    /// Assigns the addresses of both ends and brings the interfaces up. The interfaces
    /// [`CLIENT_INTERFACE`] and [`SERVER_INTERFACE`] must exist.
    pub fn address_ends(&self) {
        for (namespace, interface, v4, v6) in [
            (self.client(), CLIENT_INTERFACE, CLIENT_V4, CLIENT_V6),
            (self.server(), SERVER_INTERFACE, SERVER_V4, SERVER_V6),
        ] {
            namespace.ip(&format!("addr add {v4}/24 dev {interface}"));
            namespace.ip(&format!("-6 addr add {v6}/64 dev {interface} nodad"));
            namespace.ip(&format!("link set {interface} up"));
        }
    }

    /// Prepares both ends for a bad network path. This function must be called before any socket
    /// exists, because the settings apply only to new sockets. The minimum retransmission timeout
    /// becomes 50 ms instead of 200 ms, if the kernel supports this (since 6.11). The receive
    /// buffers can hold more than one loopback packet from the start, because with smaller buffers
    /// a lost packet occasionally stalls a connection permanently. A half-open connection from an
    /// old SYN is given up after 15 seconds instead of 63.
    pub fn tune_for_packet_loss(&self) {
        for namespace in [self.client(), self.server()] {
            namespace.set_if_there("net/ipv4/tcp_rto_min_us", "50000");
            namespace.set("net/ipv4/tcp_synack_retries", "3");
            namespace.set("net/ipv4/tcp_rmem", "4096 1048576 6291456");
        }
    }

    /// Restores the addresses of the server's interface after some of them were removed.
    pub fn address_ends_again(&self) {
        let server = self.server();
        // A command fails if its address is still present, and the failure is ignored.
        server.ip_works(&format!("addr add {SERVER_V4}/24 dev {SERVER_INTERFACE}"));
        server.ip_works(&format!(
            "-6 addr add {SERVER_V6}/64 dev {SERVER_INTERFACE} nodad"
        ));
        server.ip(&format!("link set {SERVER_INTERFACE} up"));
    }

    fn join_by_veth(&self) {
        self.client().ip(&format!(
            "link add {CLIENT_INTERFACE} type veth peer name {SERVER_INTERFACE} netns {}",
            self.server.name()
        ));
        if self.net == Net::VethNoOffload {
            for (namespace, interface) in [
                (self.client(), CLIENT_INTERFACE),
                (self.server(), SERVER_INTERFACE),
            ] {
                process::succeed(
                    namespace
                        .command("ethtool")
                        .args(["-K", interface, "tx", "off", "tso", "off", "gso", "off"]),
                );
            }
            // Even without the offloads, TCP passes large packets to the device, and they are
            // segmented after the hooks. The client must send each segment in a packet of its own,
            // because the programs that disturb packets on the client's interface must see each
            // segment separately.
            self.client()
                .ip(&format!("link set {CLIENT_INTERFACE} gso_max_segs 1"));
        }
        self.address_ends();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A failure is ignored, because the next run removes the remaining files.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// # Panics
/// Panics if the process is not root, because a test that cannot run must not pass.
fn require_root() {
    let root = process::succeed(Command::new("id").arg("-u")).trim() == "0";
    assert!(
        root,
        "this test makes network namespaces and loads kernel programs: run it as root"
    );
}
