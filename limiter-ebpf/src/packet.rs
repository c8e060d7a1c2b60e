//! Link, network and transport headers.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use limiter_common::{abi::FlowKey, seq::Seq};

use crate::{maps, skb::Skb, work::Work};

const ETH_LEN: u32 = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
/// Tags that stand in the frame itself; an outer one is usually with the device.
const MAX_VLAN_TAGS: u32 = 2;

const IPPROTO_TCP: u32 = 6;
const IPV4_LEN: u32 = 20;
const IPV6_LEN: u32 = 40;
/// Extension headers that are followed. Each kind should occur once (RFC 8200, section 4.1), and
/// there are six that may come before TCP; more is nobody's traffic.
const MAX_EXTENSIONS: u32 = 8;

const TCP_LEN: u32 = 20;
/// With all options.
const MAX_TCP_LEN: u32 = 60;
/// The furthest from the start of a packet that a TCP header is looked for: extension headers of
/// more are nobody's traffic, and the verifier wants a bound.
const MAX_L4: u32 = 2048;
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
    pub reserved: u32,
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
            if ethertype != ETH_P_8021Q && ethertype != ETH_P_8021AD {
                break;
            }
            let tag = linear.header(l3, 4).ok_or(())?;
            // SAFETY: the tag has four bytes.
            ethertype = u16::from_be(unsafe { tag.half::<2>() });
            l3 += 4;
        }
    }
    match ethertype {
        ETH_P_IP => ipv4(skb, linear, l3, direction),
        ETH_P_IPV6 => ipv6(skb, linear, l3, direction),
        _ => Ok((Parsed::Other, None)),
    }
}

#[inline(always)]
fn ipv4(skb: Skb, linear: Linear, l3: u32, direction: Direction) -> Attempt {
    let ip = linear.header(l3, IPV4_LEN).ok_or(())?;
    // SAFETY: the header has 20 bytes.
    let (protocol, ihl, fragment, total) = unsafe {
        let ihl = (ip.byte::<0>() & 0x0f) * 4;
        (
            ip.byte::<9>(),
            ihl,
            u16::from_be(ip.half::<6>()),
            u16::from_be(ip.half::<2>()),
        )
    };
    if protocol != IPPROTO_TCP || ihl < IPV4_LEN || fragment & 0x1fff != 0 {
        return Ok((Parsed::Other, None));
    }
    let l4 = l3 + ihl;
    if fragment & 0x2000 != 0 {
        return first_fragment(skb, linear, l4, direction);
    }
    let tcp = linear.header(l4, TCP_LEN).ok_or(())?;
    if !guarded(tcp, direction) {
        return Ok((Parsed::Other, None));
    }
    let Some(work) = maps::work() else {
        return Ok((Parsed::Unreadable, None));
    };
    // SAFETY: `work` is a live map value, of this CPU alone; the header has 20 bytes.
    unsafe {
        let packet = &raw mut (*work).packet;
        const MAPPED: u32 = u32::from_be(0x0000_ffff);
        (*packet).v6 = 0;
        (*packet).key.client = [0, 0, MAPPED, 0];
        (*packet).key.server = [0, 0, MAPPED, 0];
        let (source, destination) = ends(packet, direction);
        *source.add(3) = ip.word::<12>();
        *destination.add(3) = ip.word::<16>();
    }
    // A total length of 0 stands for what is too long for the field (BIG TCP).
    let end = if total == 0 {
        skb.len()
    } else {
        l3 + u32::from(total)
    };
    Ok(segment(skb, linear, tcp, work, l3, l4, end, direction))
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
fn ipv6(skb: Skb, linear: Linear, l3: u32, direction: Direction) -> Attempt {
    let mut linear = linear;
    let mut ip = linear.header(l3, IPV6_LEN).ok_or(())?;
    // SAFETY: the header has 40 bytes.
    let protocol = unsafe { ip.byte::<6>() };
    let mut l4 = l3 + IPV6_LEN;
    let mut fragmented = false;
    if protocol != IPPROTO_TCP {
        if !is_extension(protocol) {
            return Ok((Parsed::Other, None));
        }
        let mut walk = Walk {
            skb,
            protocol,
            at: l4,
            first_fragment: false,
            stranded: false,
        };
        walk_extensions(&mut walk);
        if walk.stranded {
            return Ok((Parsed::Unreadable, None));
        }
        if walk.protocol != IPPROTO_TCP {
            return Ok((Parsed::Other, None));
        }
        l4 = walk.at;
        fragmented = walk.first_fragment;
        if l4 > MAX_L4 {
            return Ok((Parsed::Unreadable, None));
        }
        // Behind long extensions the TCP header may not be linear where others are.
        if !fragmented && linear.header(l4, TCP_LEN).is_none() {
            let (len, wanted) = (skb.len(), l4 + MAX_TCP_LEN);
            if !skb.pull(if len < wanted { len } else { wanted }) {
                return Ok((Parsed::Unreadable, None));
            }
            linear = Linear::of(skb);
            ip = linear.header(l3, IPV6_LEN).ok_or(())?;
        }
    }
    if fragmented {
        return first_fragment(skb, linear, l4, direction);
    }
    let tcp = linear.header(l4, TCP_LEN).ok_or(())?;
    if !guarded(tcp, direction) {
        return Ok((Parsed::Other, None));
    }
    let Some(work) = maps::work() else {
        return Ok((Parsed::Unreadable, None));
    };
    // SAFETY: `work` is a live map value, of this CPU alone; the header has 40 bytes.
    let payload = unsafe {
        let packet = &raw mut (*work).packet;
        (*packet).v6 = 1;
        let (source, destination) = ends(packet, direction);
        *source.add(0) = ip.word::<8>();
        *source.add(1) = ip.word::<12>();
        *source.add(2) = ip.word::<16>();
        *source.add(3) = ip.word::<20>();
        *destination.add(0) = ip.word::<24>();
        *destination.add(1) = ip.word::<28>();
        *destination.add(2) = ip.word::<32>();
        *destination.add(3) = ip.word::<36>();
        u32::from(u16::from_be(ip.half::<4>()))
    };
    // A payload length of 0 stands for what is too long for the field (RFC 2675, BIG TCP).
    let end = if payload == 0 {
        skb.len()
    } else {
        l3 + IPV6_LEN + payload
    };
    Ok(segment(skb, linear, tcp, work, l3, l4, end, direction))
}

const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const FRAGMENT: u32 = 44;
const AUTHENTICATION: u32 = 51;
const DESTINATION: u32 = 60;
const MOBILITY: u32 = 135;
const HIP: u32 = 139;
const SHIM6: u32 = 140;

/// Whether a next-header number is that of an extension header that TCP may follow.
#[inline(always)]
fn is_extension(protocol: u32) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}

/// A walk along IPv6 extension headers (RFC 8200, section 4).
struct Walk {
    skb: Skb,
    /// What is at `at`.
    protocol: u32,
    at: u32,
    /// There was a fragment header, of a first fragment of more.
    first_fragment: bool,
    /// The headers are not whole, or too many.
    stranded: bool,
}

#[inline(never)]
fn walk_extensions(walk: *mut Walk) {
    // SAFETY: the caller's walk outlives the call.
    unsafe {
        bpf_loop(MAX_EXTENSIONS, walk_one as *mut c_void, walk.cast(), 0);
        if is_extension((*walk).protocol) {
            (*walk).stranded = true;
        }
    }
}

unsafe extern "C" fn walk_one(_: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `walk_extensions` passes what it was given; `header` has eight bytes.
    unsafe {
        let protocol = (*walk).protocol;
        if !is_extension(protocol) {
            return 1;
        }
        let mut header = [0u8; 8];
        if !(*walk).skb.load((*walk).at, header.as_mut_ptr(), 8) {
            (*walk).stranded = true;
            return 1;
        }
        let units = u32::from(header[1]);
        let len = match protocol {
            FRAGMENT => {
                let offset = u16::from_be_bytes([header[2], header[3]]);
                if offset & 0xfff8 != 0 {
                    // Not the first: no ports here.
                    (*walk).protocol = NO_NEXT;
                    return 1;
                }
                // An atomic fragment (RFC 6946) is whole.
                (*walk).first_fragment |= offset & 1 != 0;
                8
            }
            AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        (*walk).protocol = u32::from(header[0]);
        (*walk).at += len;
    }
    0
}

/// No next header (RFC 8200, section 4.7).
const NO_NEXT: u32 = 59;

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
        if data_offset > TCP_LEN {
            timestamp(skb, linear, packet, l4 + TCP_LEN, payload);
        }
    }
    (Parsed::Segment, Some(work))
}

/// Finds the timestamp option (RFC 7323, section 3.2) among the options from `at` to `end`.
///
/// # Safety
/// `packet` is a live map value, of this CPU alone.
#[inline(always)]
unsafe fn timestamp(skb: Skb, linear: Linear, packet: *mut Packet, at: u32, end: u32) {
    /// NOP, NOP, timestamp, 10 bytes: as everybody lays it out (RFC 7323, appendix A).
    const USUAL: u32 = u32::from_be(0x0101_080a);
    // SAFETY: the caller's promise; the options have twelve bytes.
    unsafe {
        if let Some(options) = linear.header(at, 12)
            && options.word::<0>() == USUAL
            && at + 12 <= end
        {
            (*packet).has_timestamp = 1;
            (*packet).tsval = u32::from_be(options.word::<4>());
            (*packet).tsecr = u32::from_be(options.word::<8>());
            return;
        }
        search_timestamp(skb, packet, at, end);
    }
}

/// The options of a TCP header: at most 40 bytes, so at most 40 of them.
const MAX_OPTIONS: u32 = 40;

struct Options {
    skb: Skb,
    packet: *mut Packet,
    at: u32,
    end: u32,
}

#[inline(never)]
fn search_timestamp(skb: Skb, packet: *mut Packet, at: u32, end: u32) {
    let mut options = Options {
        skb,
        packet,
        at,
        end,
    };
    // SAFETY: `options` outlives the call.
    unsafe {
        bpf_loop(
            MAX_OPTIONS,
            one_option as *mut c_void,
            (&raw mut options).cast(),
            0,
        );
    }
}

unsafe extern "C" fn one_option(_: u32, options: *mut Options) -> i64 {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const TIMESTAMP: u8 = 8;
    // SAFETY: `search_timestamp` passes its own options, whose packet is a live map value of this
    // CPU; the arrays have as many bytes as are loaded.
    unsafe {
        let Options {
            skb,
            packet,
            at,
            end,
        } = *options;
        let mut option = [0u8; 2];
        if at + 2 > end || !skb.load(at, option.as_mut_ptr(), 2) {
            return 1;
        }
        match option {
            [NOP, _] => (*options).at = at + 1,
            [END, _] | [_, 0 | 1] => return 1,
            [TIMESTAMP, 10] if at + 10 <= end => {
                let mut values = [0u32; 2];
                if skb.load(at + 2, values.as_mut_ptr().cast(), 8) {
                    (*packet).has_timestamp = 1;
                    (*packet).tsval = u32::from_be(values[0]);
                    (*packet).tsecr = u32::from_be(values[1]);
                }
                return 1;
            }
            [_, size] => (*options).at = at + u32::from(size),
        }
    }
    0
}
