//! A TCP peer of which a test words every packet: a host on the client's
//! interface with addresses that no kernel owns, so that no kernel answers for
//! it. What it sends arrives without any checksum vouched for by a device.

mod conn;
mod frame;
mod link;

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

pub use self::{
    conn::{End, Opening, RawConn},
    frame::Frame,
    link::Link,
};
use crate::{
    Lab, Namespace,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
    process,
};

/// The host's addresses, in the networks of every lab.
pub const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
pub const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x2d, 0, 0, 0, 0x77);

/// Its link address: not the interface's, whose kernel then takes no notice.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0x77, 1];

/// The host.
#[derive(Debug)]
pub struct Host<'a> {
    lab: &'a Lab,
    server_mac: [u8; 6],
    interface: u32,
}

impl<'a> Host<'a> {
    /// The host of a lab that is joined by a veth pair: tells the server where
    /// it is, since nobody would answer that question.
    pub fn new(lab: &'a Lab) -> Self {
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        for address in [V4.to_string(), V6.to_string()] {
            lab.server().ip(&format!(
                "neigh replace {address} lladdr {mac} dev {SERVER_INTERFACE} nud permanent"
            ));
        }
        let server = interface(lab.server(), SERVER_INTERFACE);
        let client = interface(lab.client(), CLIENT_INTERFACE);
        Self {
            lab,
            server_mac: mac_of(&server),
            interface: client["ifindex"]
                .as_u64()
                .and_then(|index| index.try_into().ok())
                .expect("an interface has a number"),
        }
    }

    /// An open connection to the guarded port over IPv4.
    #[track_caller]
    pub fn connect(&self) -> RawConn {
        self.open(&Opening::default())
    }

    /// An open connection.
    #[track_caller]
    pub fn open(&self, opening: &Opening) -> RawConn {
        let mut conn = self.begin(opening);
        conn.shake_hands();
        conn
    }

    /// A connection of which nothing was sent yet.
    pub fn begin(&self, opening: &Opening) -> RawConn {
        let server = if opening.v6 {
            self.lab.v6()
        } else {
            self.lab.v4()
        };
        RawConn::new(self.link(), server, opening)
    }

    /// The host's end of the wire.
    pub fn link(&self) -> Link {
        Link::open(self.lab.client(), self.interface, self.server_mac)
    }
}

fn interface(namespace: &Namespace, name: &str) -> Value {
    let arguments = ["-j", "-n", namespace.name(), "link", "show", name];
    let text = process::succeed(std::process::Command::new("ip").args(arguments));
    let mut shown: Value = serde_json::from_str(&text).expect("ip's JSON");
    shown[0].take()
}

fn mac_of(interface: &Value) -> [u8; 6] {
    let text = interface["address"].as_str().expect("a link address");
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
        .collect();
    bytes.try_into().expect("six bytes")
}
