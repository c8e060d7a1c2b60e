//! Link, network and transport headers.

mod ipv4;
mod ipv6;
mod options;
mod tags;

use limiter_common::{abi::FlowKey, seq::Seq};

use crate::{maps, skb::Skb, work::Work};
use ipv4::ipv4;
use ipv6::ipv6;
pub use options::single_path;

pub const ETH_LEN: u32 = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
/// Tags that stand in the frame itself; an outer one is usually with the device.
const MAX_VLAN_TAGS: u32 = 2;

pub const IPPROTO_TCP: u32 = 6;
/// An IPv4 header without options.
pub const IPV4_LEN: u32 = 20;
/// An IPv6 header without extensions.
pub const IPV6_LEN: u32 = 40;
pub const TCP_LEN: u32 = 20;
/// The longest headers that are looked at in place: Ethernet, two tags, IP and TCP with options.
const MAX_HEADERS: u32 = ETH_LEN + 8 + 60 + 60;

pub const FIN: u32 = 0x01;
pub const SYN: u32 = 0x02;
pub const RST: u32 = 0x04;
pub const PSH: u32 = 0x08;
pub const ACK: u32 = 0x10;
pub const URG: u32 = 0x20;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client: the destination port is guarded.
    ToServer,
    /// From a server: the source port is guarded.
    ToClient,
}

/// What parsing came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// Not TCP of a guarded port.
    Other,
    /// A segment of a guarded port; `Packet` holds it.
    Segment,
    /// A first fragment of a guarded port. Without it the rest can never be put together.
    Fragment,
    /// For a guarded port, with an IPv4 header whose checksum is wrong.
    BadChecksum,
    /// For a guarded port, and has come to the end of its time to live.
    Expired,
    /// For a guarded port as far as one can see, but its headers are not whole.
    Unreadable,
}

/// A TCP segment of a guarded port.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Packet {
    /// Whose it is; the client's side first, whichever way the packet goes.
    pub key: FlowKey,
    /// Where the IP header starts in the packet.
    pub l3: u32,
    /// Where the TCP header starts.
    pub l4: u32,
    /// Where the payload starts.
    pub payload: u32,
    /// Bytes of payload.
    pub len: u32,
    /// 1: IPv6, 0: IPv4.
    pub v6: u32,
    pub seq: Seq,
    pub ack: Seq,
    /// The flags byte.
    pub flags: u32,
    /// The window, not scaled.
    pub window: u32,
    /// 1: there is a timestamp option (RFC 7323).
    pub has_timestamp: u32,
    pub tsval: u32,
    pub tsecr: u32,
    /// 1: there is a signature (RFC 2385, RFC 5925).
    pub signed: u32,
    /// The window scale option, of a SYN; 0 without (RFC 7323, section 2.2).
    pub window_shift: u32,
    /// 1: there is an option of Multipath TCP (RFC 8684).
    pub multipath: u32,
}

impl Packet {
    #[inline(always)]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// The linear part of a packet.
#[derive(Clone, Copy)]
struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    #[inline(always)]
    fn of(skb: Skb) -> Self {
        Self {
            start: skb.start(),
            end: skb.end(),
        }
    }

    /// `len` bytes at `offset`; `None` if they are not all in the linear part.
    #[inline(always)]
    fn header(self, offset: u32, len: u32) -> Option<Header> {
        let at = self.start + offset as usize;
        if at + len as usize > self.end {
            None
        } else {
            Some(Header(at as *const u8))
        }
    }
}

/// A header in the packet, checked to be there as far as its fields are read.
///
/// Fields are loaded in assembly: headers are not aligned, the kernel allows that where the CPU
/// does, and what rustc makes of an unaligned read is a load for each byte.
#[derive(Clone, Copy)]
struct Header(*const u8);

impl Header {
    /// # Safety
    /// The header was checked to have a byte at `AT`.
    #[inline(always)]
    unsafe fn byte<const AT: usize>(self) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { u32::from(*self.0.add(AT)) }
    }

    /// Two bytes, in network byte order.
    ///
    /// # Safety
    /// The header was checked to have two bytes at `AT`.
    #[inline(always)]
    unsafe fn half<const AT: usize>(self) -> u16 {
        let mut value: u64;
        // SAFETY: the caller's promise.
        unsafe {
            core::arch::asm!(
                "{value} = *(u16 *)({header} + {at})",
                value = lateout(reg) value, header = in(reg) self.0, at = const AT,
                options(readonly, nostack, preserves_flags)
            );
        }
        value as u16
    }

    /// Four bytes, in network byte order.
    ///
    /// # Safety
    /// The header was checked to have four bytes at `AT`.
    #[inline(always)]
    unsafe fn word<const AT: usize>(self) -> u32 {
        let mut value: u64;
        // SAFETY: the caller's promise.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({header} + {at})",
                value = lateout(reg) value, header = in(reg) self.0, at = const AT,
                options(readonly, nostack, preserves_flags)
            );
        }
        value as u32
    }
}

/// Parses a packet into `Work::packet`.
///
/// `L2`: the device has Ethernet headers.
#[inline(always)]
pub fn parse<const L2: bool>(skb: Skb, direction: Direction) -> (Parsed, Option<*mut Work>) {
    match attempt::<L2>(skb, direction) {
        Ok(done) => done,
        // Headers may lie outside the linear part (GRO, some drivers).
        Err(()) => {
            let len = skb.len();
            let wanted = if len < MAX_HEADERS { len } else { MAX_HEADERS };
            if !skb.pull(wanted) {
                return (Parsed::Unreadable, None);
            }
            // A TCP header that is not whole even so reaches no server.
            attempt::<L2>(skb, direction).unwrap_or((Parsed::Other, None))
        }
    }
}

#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD
}

/// What parsing came to; `Err`: the headers are not in the linear part.
type Attempt = Result<(Parsed, Option<*mut Work>), ()>;

#[inline(always)]
fn attempt<const L2: bool>(skb: Skb, direction: Direction) -> Attempt {
    let linear = Linear::of(skb);
    let mut l3 = 0;
    let mut ethertype = u16::from_be(skb.protocol() as u16);
    if L2 {
        l3 = ETH_LEN;
        let ethernet = linear.header(0, ETH_LEN).ok_or(())?;
        // SAFETY: the header has 14 bytes.
        ethertype = u16::from_be(unsafe { ethernet.half::<12>() });
        for _ in 0..MAX_VLAN_TAGS {
            if !is_vlan(ethertype) {
                break;
            }
            let tag = linear.header(l3, 4).ok_or(())?;
            // SAFETY: the tag has four bytes.
            ethertype = u16::from_be(unsafe { tag.half::<2>() });
            l3 += 4;
        }
        if is_vlan(ethertype) && direction == Direction::ToServer {
            // The stack takes off as many as there are, if their VLAN is none (0).
            if tags::leads_to_guarded(skb, l3) {
                return Ok((Parsed::Unreadable, None));
            }
            return Ok((Parsed::Other, None));
        }
    }
    // Whose version does not go with the EtherType reaches no server, and is found there.
    match ethertype {
        ETH_P_IP => ipv4(skb, linear, l3, direction),
        ETH_P_IPV6 => ipv6(skb, linear, l3, direction),
        _ => Ok((Parsed::Other, None)),
    }
}

/// A first fragment. Its TCP header need not be whole (RFC 1858), only the ports are sure to be: a
/// fragment has eight bytes or more.
#[inline(always)]
fn first_fragment(skb: Skb, linear: Linear, l4: u32, direction: Direction) -> Attempt {
    const PORTS_LEN: u32 = 4;
    match linear.header(l4, PORTS_LEN) {
        Some(ports) if !guarded(ports, direction) => Ok((Parsed::Other, None)),
        None if skb.len() >= l4 + PORTS_LEN => Err(()),
        _ => Ok((Parsed::Fragment, None)),
    }
}

/// The flow key's addresses of the packet's source and destination.
///
/// # Safety
/// `packet` is a live map value.
#[inline(always)]
unsafe fn ends(packet: *mut Packet, direction: Direction) -> (*mut u32, *mut u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let client = (&raw mut (*packet).key.client).cast::<u32>();
        let server = (&raw mut (*packet).key.server).cast::<u32>();
        match direction {
            Direction::ToServer => (client, server),
            Direction::ToClient => (server, client),
        }
    }
}

#[inline(always)]
fn guarded(tcp: Header, direction: Direction) -> bool {
    // SAFETY: the ports were checked to be there.
    let port = unsafe {
        match direction {
            Direction::ToServer => tcp.half::<2>(),
            Direction::ToClient => tcp.half::<0>(),
        }
    };
    maps::guarded(u16::from_be(port))
}

/// Reads the TCP header; `end` is where the IP packet ends.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "all that parsing has come to, once"
)]
fn segment(
    skb: Skb,
    linear: Linear,
    tcp: Header,
    work: *mut Work,
    l3: u32,
    l4: u32,
    end: u32,
    direction: Direction,
) -> (Parsed, Option<*mut Work>) {
    // SAFETY: `work` is a live map value, of this CPU alone; the header has 20 bytes.
    unsafe {
        let data_offset = (tcp.byte::<12>() >> 4) * 4;
        let payload = l4 + data_offset;
        if data_offset < TCP_LEN || payload > end || end > skb.len() {
            // No receiver takes such a segment.
            return (Parsed::Unreadable, None);
        }
        let packet = &raw mut (*work).packet;
        let (source, destination) = (tcp.half::<0>(), tcp.half::<2>());
        let (client, server) = match direction {
            Direction::ToServer => (source, destination),
            Direction::ToClient => (destination, source),
        };
        (*packet).key.client_port = client;
        (*packet).key.server_port = server;
        (*packet).l3 = l3;
        (*packet).l4 = l4;
        (*packet).payload = payload;
        (*packet).len = end - payload;
        (*packet).seq = Seq(u32::from_be(tcp.word::<4>()));
        (*packet).ack = Seq(u32::from_be(tcp.word::<8>()));
        (*packet).flags = tcp.byte::<13>();
        (*packet).window = u32::from(u16::from_be(tcp.half::<14>()));
        (*packet).has_timestamp = 0;
        (*packet).signed = 0;
        (*packet).window_shift = 0;
        (*packet).multipath = 0;
        if data_offset > TCP_LEN {
            options::read(skb, linear, packet, l4 + TCP_LEN, payload);
        }
    }
    (Parsed::Segment, Some(work))
}
