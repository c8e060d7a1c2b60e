// SPDX-License-Identifier: MIT OR Apache-2.0

//! A run of one program on one packet.

use super::{object::Object, test_run::Run};
use crate::packet::{DecodedSegment, ETHERNET};

/// The size in bytes of the buffer for the packet after the run, in which every packet of a test
/// fits.
const LONGEST: usize = 8192;

/// The size of `struct __sk_buff` (include/uapi/linux/bpf.h), and the offsets of some of its
/// fields.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const GSO_SIZE: usize = 176;

/// The values of `TCX_NEXT`, `TC_ACT_SHOT` and `TC_ACT_REDIRECT` (include/uapi/linux/pkt_cls.h).
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// The hook of a program, and whether its device has Ethernet headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Ingress,
    Egress,
    IngressBare,
    EgressBare,
    /// The program on the ingress hook that holds packets while maps are replaced.
    HoldIngress,
    HoldEgress,
    HoldIngressBare,
    HoldEgressBare,
}

impl Hook {
    /// Returns the hook for a direction, and for a device with or without Ethernet headers.
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

    /// Returns the same hook, but with the program that holds packets while maps are replaced.
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

/// The program's decision about the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The packet continues to the next program and then to the network stack.
    Pass,
    Drop,
    /// The packet is to be sent out of a device or into it. The test run only reports this verdict,
    /// and the packet is not sent.
    Redirect,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunResult {
    pub verdict: Verdict,
    /// The packet as it is after the run.
    pub packet: Vec<u8>,
    pub mark: u32,
    /// The additional TCP packets that the program sent, in order.
    pub sent: Vec<Vec<u8>>,
    ethernet: bool,
}

impl RunResult {
    /// Decodes the packet, whose checksums must be correct.
    #[track_caller]
    pub fn decoded(&self) -> DecodedSegment {
        DecodedSegment::of(&self.packet, self.ethernet)
    }

    /// Decodes the only additional packet that was sent.
    #[track_caller]
    pub fn answer(&self) -> DecodedSegment {
        assert_eq!(self.sent.len(), 1, "additional packets");
        DecodedSegment::of(&self.sent[0], self.ethernet)
    }
}

/// The properties of a packet that are not part of its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras {
    pub mark: u32,
    /// The index of the packet's interface, if it differs from the interface of the tests.
    pub ifindex: Option<u32>,
    /// For a packet that leaves the host, the index of the interface through which the packet
    /// entered the host, or 0 if the host itself sent the packet.
    pub ingress_ifindex: u32,
    /// The payload size in bytes of the individual packets, if the packet was merged from several
    /// packets or will be segmented into several; otherwise 0.
    pub gso_size: u32,
    /// Whether the device has computed a sum of everything after the link header
    /// (CHECKSUM_COMPLETE). The kernel then reports an error if the programs have not updated the
    /// sum correctly.
    pub checksum_complete: bool,
}

/// Runs the program of `hook` on a packet.
///
/// # Panics
/// Panics if the kernel rejects the packet, or if the verdict is one that no program should return.
#[track_caller]
pub fn run(object: &Object, hook: Hook, ifindex: u32, packet: &[u8], extras: Extras) -> RunResult {
    let mut context = [0; CONTEXT];
    for (at, value) in [
        (MARK, extras.mark),
        (INGRESS_IFINDEX, extras.ingress_ifindex),
        (IFINDEX, extras.ifindex.unwrap_or(ifindex)),
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
    RunResult {
        verdict,
        packet: left,
        mark,
        sent: Vec::new(),
        ethernet: hook.ethernet(),
    }
}

/// Returns whether a packet is TCP. The function does not skip IPv6 extension headers, because
/// packets from the programs have none.
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
