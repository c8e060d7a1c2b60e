//! What the programs and the tests that drive them both know: the file is part of both.

/// Packets from clients.
pub const TO_SERVER: usize = 0;
/// Packets from the server.
pub const TO_CLIENT: usize = 1;

/// Certain, for the probabilities of a [`Rule`].
pub const CERTAIN: u32 = 65_536;

/// What becomes of the packets of one direction. Probabilities are parts of [`CERTAIN`].
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Only packets with one of these TCP flags; 0: all.
    pub flags: u32,
    /// It is lost, and the sender does not learn of it.
    pub lose: u32,
    /// It comes twice, at once.
    pub double: u32,
    /// It comes, and once more, after others.
    pub echo: u32,
    /// It comes after others.
    pub hold: u32,
}

/// Where the programs work.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The server's port; other packets are left alone.
    pub port: u32,
    /// 1: the interface is the server's, which sends to clients what leaves by it; 0: the client's,
    /// or loopback.
    pub server_side: u32,
    /// The interface that the programs are at.
    pub interface: u32,
    /// The end of a veth pair that packets go into to be late.
    pub slow: u32,
    /// The other end.
    pub back: u32,
    /// By direction.
    pub rules: [Rule; 2],
}

/// Kinds of counts.
pub mod count {
    /// Packets of the port.
    pub const SEEN: usize = 0;
    pub const LOST: usize = 1;
    pub const DOUBLED: usize = 2;
    pub const ECHOED: usize = 3;
    pub const HELD: usize = 4;
    /// Packets that were held, and echoes, which have been sent on.
    pub const LATE: usize = 5;
    /// How many there are.
    pub const KINDS: usize = 6;
}

/// Where a count is in [`COUNTS`].
pub const fn place(direction: usize, kind: usize) -> u32 {
    (direction * count::KINDS + kind) as u32
}
