// SPDX-License-Identifier: MIT OR Apache-2.0

//! A TCP segment whose fields a test chooses.

use std::net::IpAddr;

use super::checksum;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;

/// A TCP segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// The options, whose total length is a multiple of four bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Segment {
    /// Returns the bytes of the segment, with a correct checksum.
    pub fn bytes(&self, from: IpAddr, to: IpAddr, ports: (u16, u16)) -> Vec<u8> {
        assert!(
            self.options.len().is_multiple_of(4) && self.options.len() <= 40,
            "options of TCP"
        );
        let mut tcp = Vec::with_capacity(60 + self.payload.len());
        tcp.extend(ports.0.to_be_bytes());
        tcp.extend(ports.1.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let words = u8::try_from(5 + self.options.len() / 4).expect("a short header");
        tcp.extend([words << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 2]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let pseudo = checksum::pseudo_header(from, to, tcp.len());
        let check = !checksum::sum(&[&pseudo, &tcp]);
        tcp[16..18].copy_from_slice(&check.to_be_bytes());
        tcp
    }

    #[must_use]
    pub fn with_flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    #[must_use]
    pub fn with_ack(self, ack: u32) -> Self {
        Self { ack, ..self }
    }

    #[must_use]
    pub fn with_window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    #[must_use]
    pub fn with_options(self, options: Vec<u8>) -> Self {
        Self { options, ..self }
    }
}

/// Returns the timestamp option (RFC 7323, section 3.2) in its usual layout, after two NOPs.
pub fn timestamp(value: u32, echo: u32) -> Vec<u8> {
    [
        &[1, 1, 8, 10],
        &value.to_be_bytes()[..],
        &echo.to_be_bytes(),
    ]
    .concat()
}
