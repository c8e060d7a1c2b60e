//! Resets both sides of a connection, with no state to remember.

use limiter_common::{
    abi::{OWN_MARK, counter},
    seq::Seq,
};

use super::{
    packet_end,
    segment::{self, Segment},
    to_server,
};
use crate::{
    maps,
    packet::{ACK, Direction, RST},
    skb::{DROP, NEXT, Skb},
    work::Work,
};

/// Resets both sides of a connection of which nothing is known but this packet of the client, which
/// becomes the server's reset.
#[inline(never)]
pub fn reset_both(skb: Skb, work: *mut Work) -> i32 {
    // SAFETY: a live map value, of this CPU alone.
    let packet = unsafe { &(*work).packet };
    if packet.has(RST) {
        return NEXT;
    }
    // RFC 9293, section 3.10.7.1; exact for both receivers (RFC 5961, section 3.2) if the packet
    // is next in order. If it is not, they answer it, and the side that is reset resets the other.
    let to_client = Segment {
        seq: if packet.has(ACK) { packet.ack } else { Seq(0) },
        ack: packet_end(packet),
        flags: RST | ACK,
        window: 0,
        tsval: packet.tsecr,
        tsecr: packet.tsval,
        text: 0,
    };
    let to_server = Segment {
        seq: packet.seq,
        ack: packet.ack,
        flags: RST | (packet.flags & ACK),
        window: 0,
        tsval: packet.tsval,
        tsecr: packet.tsecr,
        text: 0,
    };
    both(skb, work, Direction::ToServer, &to_client, &to_server)
}

/// Refuses a connection: the server's SYN-ACK becomes the client's reset, and the server forgets
/// the connection.
#[inline(never)]
pub fn reset_syn_ack(skb: Skb, work: *mut Work) -> i32 {
    // SAFETY: a live map value, of this CPU alone.
    let packet = unsafe { &(*work).packet };
    // A client in SYN-SENT believes a reset that acknowledges its SYN (RFC 9293, section 3.10.7.3).
    let to_client = Segment {
        seq: packet.seq,
        ack: packet.ack,
        flags: RST | ACK,
        window: 0,
        tsval: packet.tsval,
        tsecr: packet.tsecr,
        text: 0,
    };
    let to_server = Segment {
        seq: packet.ack,
        ack: packet_end(packet),
        flags: RST | ACK,
        window: 0,
        tsval: packet.tsecr,
        tsecr: packet.tsval,
        text: 0,
    };
    both(skb, work, Direction::ToClient, &to_server, &to_client)
}

/// Sends `back` where the packet came from, and turns the packet into `on`, which goes its way.
#[inline(always)]
fn both(skb: Skb, work: *mut Work, going: Direction, back: &Segment, on: &Segment) -> i32 {
    let (backward, way) = match going {
        Direction::ToServer => (Direction::ToClient, 0),
        Direction::ToClient => (Direction::ToServer, to_server(skb)),
    };
    let mark = skb.mark();
    if !segment::begin(skb, work, going) {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    skb.set_mark(OWN_MARK);
    if segment::write(skb, work, backward, back) && skb.clone_redirect(skb.ifindex(), way) {
        maps::count(counter::RESETS_SENT);
    } else {
        maps::count(counter::SEND_FAILED);
    }
    skb.set_mark(mark);
    if !segment::write(skb, work, going, on) {
        maps::count(counter::SEND_FAILED);
        return DROP;
    }
    maps::count(counter::RESETS_SENT);
    NEXT
}
