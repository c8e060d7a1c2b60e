// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The data layout that the kernel programs share with the tests that control them. Both include
//! this file.

/// The index of the direction to the server, in [`Config::rules`] and for [`place`].
pub const TO_SERVER: usize = 0;
/// The index of the direction to the client.
pub const TO_CLIENT: usize = 1;

/// The value that a probability in a [`Rule`] has if the event always happens.
pub const CERTAIN: u32 = 65_536;

/// The treatment of the packets in one direction. Each probability is given in units of
/// 1/[`CERTAIN`].
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The TCP flags that select packets. The rule applies only to packets with at least one of
    /// these flags. 0 means that it applies to all packets.
    pub flags: u32,
    /// The probability that a packet is lost. The sender does not learn of the loss.
    pub lose: u32,
    /// The probability that a packet arrives twice in a row.
    pub double: u32,
    /// The probability that a packet arrives in time and that, in addition, a copy of the packet
    /// arrives after later packets.
    pub echo: u32,
    /// The probability that a packet is delayed, which means that it arrives after later packets.
    pub hold: u32,
}

/// The configuration of the programs.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The server's port. Packets for other ports are not changed.
    pub port: u32,
    /// 1 if the interface is that of the server, where outgoing packets go to clients. 0 if the
    /// interface is that of a client, or loopback.
    pub server_side: u32,
    /// The index of the interface to which the programs are attached.
    pub interface: u32,
    /// The index of the interface to which delayed packets are sent. This is one end of a veth
    /// pair.
    pub slow: u32,
    /// The index of the interface that is the other end of the veth pair.
    pub back: u32,
    /// The rules, by direction.
    pub rules: [Rule; 2],
}

/// The kinds of packets that the programs count. Each constant is a part of an index (see
/// [`place`]).
pub mod count {
    /// All packets of the port.
    pub const SEEN: usize = 0;
    pub const LOST: usize = 1;
    pub const DOUBLED: usize = 2;
    pub const ECHOED: usize = 3;
    pub const HELD: usize = 4;
    /// Delayed packets, and delayed copies, that have left the queue.
    pub const LATE: usize = 5;
    /// The number of kinds.
    pub const KINDS: usize = 6;
}

/// Returns the index in the map `COUNTS` of the count for `direction` and `kind`.
pub const fn place(direction: usize, kind: usize) -> u32 {
    (direction * count::KINDS + kind) as u32
}
