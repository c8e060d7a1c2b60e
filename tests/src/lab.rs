//! A place to test in: namespaces, the way between them, a directory.

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

/// The client's end of the way, and the server's: the same in every lab, since
/// each has namespaces of its own.
pub const CLIENT_INTERFACE: &str = "c0";
pub const SERVER_INTERFACE: &str = "s0";

/// How client and server reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// Two namespaces joined by a veth pair: checksums and segmentation are
    /// left to "hardware" that is not there (`CHECKSUM_PARTIAL`, large skbs).
    Veth,
    /// The same with the offloads off: checksums are complete, segments small.
    VethNoOffload,
    /// One namespace and its `lo`: 64 KiB segments, both hooks see both ways.
    Loopback,
    /// Two namespaces, not joined yet: a [`crate::wire::Wire`] is to do it.
    Apart,
}

impl Net {
    /// The ways that every basic behaviour is tried on.
    pub const ALL: [Self; 3] = [Self::Veth, Self::VethNoOffload, Self::Loopback];
}

/// Namespaces, addresses and a directory; all of it goes when dropped.
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
    /// Without root, or when the machine refuses namespaces.
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

    /// Where files of this lab go.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where clients run.
    pub fn client(&self) -> &Namespace {
        self.client.as_ref().unwrap_or(&self.server)
    }

    /// Deletes the client's namespace, with all that is in it: what is asked of the client from now
    /// on, the server's is asked.
    pub fn delete_client(&mut self) {
        self.client = None;
    }

    /// Where the server and the daemon run.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// The interface of the server's namespace that traffic comes in by.
    pub fn interface(&self) -> &'static str {
        match self.net {
            Net::Loopback => "lo",
            _ => SERVER_INTERFACE,
        }
    }

    /// The server's address of each family.
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

    /// The client's address.
    pub fn client_v4(&self) -> IpAddr {
        match self.net {
            Net::Loopback => Ipv4Addr::LOCALHOST.into(),
            _ => CLIENT_V4.into(),
        }
    }

    /// The same of the other family.
    pub fn client_v6(&self) -> IpAddr {
        match self.net {
            Net::Loopback => Ipv6Addr::LOCALHOST.into(),
            _ => CLIENT_V6.into(),
        }
    }

    /// The server's address of both families.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// `http://SERVER:PORT` over IPv4.
    pub fn url(&self, port: u16, path: &str) -> String {
        self.url_of(self.v4(), port, path)
    }

    /// The same for one of the server's addresses.
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

    /// Whether something listens on `port` in the server's namespace.
    pub fn listens(&self, port: u16) -> bool {
        let filter = format!("sport = :{port}");
        let listing = process::succeed(self.server().command("ss").args(["-Hltn", &filter]));
        !listing.trim().is_empty()
    }

    /// Gives both ends their addresses and brings them up; the interfaces
    /// [`CLIENT_INTERFACE`] and [`SERVER_INTERFACE`] must be there.
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

    /// Prepares both ends for a bad way, before there are any sockets. They send again after 50 ms
    /// at the soonest, not 200, where the kernel can (6.11); have room from the start for more than
    /// one packet of loopback (without, a lost one now and then stalls a connection for good); and
    /// what an old SYN has opened by half is given up after 15 seconds, not 63.
    pub fn expect_a_bad_way(&self) {
        for namespace in [self.client(), self.server()] {
            namespace.set_if_there("net/ipv4/tcp_rto_min_us", "50000");
            namespace.set("net/ipv4/tcp_synack_retries", "3");
            namespace.set("net/ipv4/tcp_rmem", "4096 1048576 6291456");
        }
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
            // TCP hands out large packets even so, and they are cut behind the hooks: at the client
            // it shall not, so that what disturbs them there meets each by itself.
            self.client()
                .ip(&format!("link set {CLIENT_INTERFACE} gso_max_segs 1"));
        }
        self.address_ends();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Nothing to do about a failure here: the next run sweeps what is left.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// # Panics
/// Without root: a test that cannot look must not pass.
fn require_root() {
    let root = process::succeed(Command::new("id").arg("-u")).trim() == "0";
    assert!(
        root,
        "this test makes network namespaces and loads kernel programs: run it as root"
    );
}
