// SPDX-License-Identifier: MIT OR Apache-2.0

//! A TCP peer whose packets are all made by a test. The peer has addresses on the client's network
//! that no kernel owns, and therefore no kernel answers on its behalf. The checksums of its packets
//! have not been verified when the packets reach the server, so the server's kernel verifies them.

mod conn;
mod frame;
mod link;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

pub use self::{
    conn::{End, Opening, RawConn},
    frame::Frame,
    link::FrameSocket,
};
use crate::{
    Lab, Namespace,
    lab::{CLIENT_INTERFACE, SERVER_INTERFACE},
    packet::{Ends, Segment, Shape},
    process,
};

/// The addresses of the host, in the networks that every lab has.
pub const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
pub const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0x2d, 0, 0, 0, 0x77);

/// The link address of the host. Because it differs from the address of the interface, the client's
/// kernel ignores frames to the host.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0x77, 1];

/// The host of a raw TCP peer.
#[derive(Debug)]
pub struct RawHost<'a> {
    lab: &'a Lab,
    server_mac: [u8; 6],
    interface: u32,
}

impl<'a> RawHost<'a> {
    /// Makes the host in a lab with a veth pair, and registers [`MAC`] at the server as the link
    /// address of the host's IP addresses. Otherwise, the server would ask for the link address,
    /// and nobody would answer, because no kernel owns the IP addresses.
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

    /// Opens a connection to the guarded port over IPv4.
    #[track_caller]
    pub fn connect(&self) -> RawConn {
        self.open(&Opening::default())
    }

    /// Opens a connection with these parameters.
    #[track_caller]
    pub fn open(&self, opening: &Opening) -> RawConn {
        let mut conn = self.begin(opening);
        conn.shake_hands();
        conn
    }

    /// Makes a connection that has not sent anything yet.
    pub fn begin(&self, opening: &Opening) -> RawConn {
        let server = if opening.v6 {
            self.lab.v6()
        } else {
            self.lab.v4()
        };
        RawConn::new(self.link(), server, opening)
    }

    /// Sends `segment` to the client of a connection, with the server's addresses and ports as its
    /// source, as a forger would.
    pub fn forge(&self, ends: &Ends, segment: &Segment) {
        let shape = match ends.server {
            IpAddr::V4(_) => Shape::v4(),
            IpAddr::V6(_) => Shape::v6(),
        };
        let frame = Frame::new(&shape, ends, (MAC, self.server_mac), false, segment);
        self.link().send(&frame);
    }

    /// Returns the host's packet socket.
    pub fn link(&self) -> FrameSocket {
        FrameSocket::open(self.lab.client(), self.interface, self.server_mac)
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
