//! One packet through one program.

use super::{object::Object, test_run::Run};
use crate::packet::{Decoded, ETHERNET};

/// Room for whatever comes out.
const LONGEST: usize = 8192;

/// `struct __sk_buff` (include/uapi/linux/bpf.h): its size, and where fields of it are.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const IFINDEX: usize = 40;
const GSO_SIZE: usize = 176;

/// `TCX_NEXT`, `TC_ACT_SHOT` and `TC_ACT_REDIRECT` (include/uapi/linux/pkt_cls.h).
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// Where a program is attached, and on which kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Ingress,
    Egress,
    IngressBare,
    EgressBare,
    /// What is there instead while maps take the place of others.
    HoldIngress,
    HoldEgress,
    HoldIngressBare,
    HoldEgressBare,
}

impl Hook {
    /// For packets to the server (`to_server`) or to the client, with Ethernet headers or without.
    pub fn of(to_server: bool, ethernet: bool) -> Self {
        match (to_server, ethernet) {
            (true, true) => Self::Ingress,
            (false, true) => Self::Egress,
            (true, false) => Self::IngressBare,
            (false, false) => Self::EgressBare,
        }
    }

    pub fn program(self) -> &'static str {
        match self {
            Self::Ingress => "limiter_ingress",
            Self::Egress => "limiter_egress",
            Self::IngressBare => "limiter_ingress_l3",
            Self::EgressBare => "limiter_egress_l3",
            Self::HoldIngress => "limiter_hold_ingress",
            Self::HoldEgress => "limiter_hold_egress",
            Self::HoldIngressBare => "limiter_hold_ingress_l3",
            Self::HoldEgressBare => "limiter_hold_egress_l3",
        }
    }

    /// What is there instead while maps take the place of others.
    pub fn holding(self) -> Self {
        match self {
            Self::Ingress | Self::HoldIngress => Self::HoldIngress,
            Self::Egress | Self::HoldEgress => Self::HoldEgress,
            Self::IngressBare | Self::HoldIngressBare => Self::HoldIngressBare,
            Self::EgressBare | Self::HoldEgressBare => Self::HoldEgressBare,
        }
    }

    pub fn ethernet(self) -> bool {
        matches!(
            self,
            Self::Ingress | Self::Egress | Self::HoldIngress | Self::HoldEgress
        )
    }
}

/// What is to become of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next program and the stack.
    Pass,
    Drop,
    /// Out of the device, or into it (the test-run does not do it).
    Redirect,
}

/// How a program left a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub verdict: Verdict,
    /// The packet, changed or not.
    pub packet: Vec<u8>,
    pub mark: u32,
    /// Packets of TCP sent besides, in order.
    pub sent: Vec<Vec<u8>>,
    ethernet: bool,
}

impl Ran {
    /// The packet taken apart; its checksums must be right.
    #[track_caller]
    pub fn decoded(&self) -> Decoded {
        Decoded::of(&self.packet, self.ethernet)
    }

    /// The one packet that was sent besides.
    #[track_caller]
    pub fn answer(&self) -> Decoded {
        assert_eq!(self.sent.len(), 1, "packets sent besides");
        Decoded::of(&self.sent[0], self.ethernet)
    }
}

/// What a packet brings along that does not stand in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras {
    pub mark: u32,
    /// The payload of each of the packets that it was merged from, or will be cut into; 0: of one.
    pub gso_size: u32,
    /// The device has taken a sum of all that is behind the link header (CHECKSUM_COMPLETE); it
    /// must still hold afterwards, or the kernel says so.
    pub checksum_complete: bool,
}

/// Runs `hook`'s program on a packet.
///
/// # Panics
/// When the kernel refuses the packet, or on a verdict that no program has.
#[track_caller]
pub fn run(object: &Object, hook: Hook, ifindex: u32, packet: &[u8], extras: Extras) -> Ran {
    let mut context = [0; CONTEXT];
    for (at, value) in [
        (MARK, extras.mark),
        (IFINDEX, ifindex),
        (GSO_SIZE, extras.gso_size),
    ] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let (mut left, mut after) = (vec![0; LONGEST], [0; CONTEXT]);
    let run = Run {
        packet,
        left: &mut left,
        context: &context,
        after: &mut after,
        checksum_complete: extras.checksum_complete,
    };
    let (len, value) = run.on(object.fd(hook.program())).unwrap_or_else(|error| {
        panic!(
            "run {} on {} bytes: {error:?}",
            hook.program(),
            packet.len()
        )
    });
    left.truncate(len);
    let verdict = match value.cast_signed() {
        NEXT => Verdict::Pass,
        SHOT => Verdict::Drop,
        REDIRECT => Verdict::Redirect,
        other => panic!("{} returned {other}", hook.program()),
    };
    let mark = u32::from_ne_bytes(after[MARK..MARK + 4].try_into().expect("four bytes"));
    Ran {
        verdict,
        packet: left,
        mark,
        sent: Vec::new(),
        ethernet: hook.ethernet(),
    }
}

/// Whether a packet without options or extensions, as the programs send them, is TCP.
pub fn is_tcp(packet: &[u8], ethernet: bool) -> bool {
    let mut at = if ethernet { ETHERNET } else { 0 };
    while at > 0 && matches!(packet.get(at - 2..at), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    let ip = packet.get(at..).unwrap_or_default();
    match ip.first().map(|first| first >> 4) {
        Some(4) => ip.get(9) == Some(&6),
        Some(6) => ip.get(6) == Some(&6),
        _ => false,
    }
}
