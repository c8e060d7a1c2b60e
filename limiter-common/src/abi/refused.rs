// SPDX-License-Identifier: MIT OR Apache-2.0

//! The types for refused requests after which the connection goes on, and for connections that were
//! refused.

use super::{Link, TextKey};
use crate::seq::Seq;

/// The difference between the two sides' views of a connection on which requests were refused and
/// which went on. The bytes of these requests never reached the server, and their responses came
/// from the programs, so the sequence numbers of both directions differ on the two sides.
///
/// All sequence numbers of a flow, including these, are those that the client sees. The programs
/// translate the headers of packets that come from the server or go to the server.
///
/// A request is refused in this way only when no byte of either direction is in transit between the
/// programs and the other side. Therefore a packet that is still on its way belongs to the part of
/// the stream before the last refused request, or begins after it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Splice {
    /// The number of bytes of the client that were withheld from the server (wraps).
    pub withheld: u32,
    /// The number of bytes that were sent to the client in the server's name (wraps).
    pub injected: u32,
    /// The sequence number of the first byte of the last refused request.
    pub request_start: Seq,
    /// The sequence number after the last byte that was withheld.
    pub request_end: Seq,
    /// The sequence number of the first byte of the last response that was sent in the server's
    /// name.
    pub response_start: Seq,
    /// The sequence number after the last byte of that response.
    pub response_end: Seq,
    /// The text of that response.
    pub text: TextKey,
    /// The number of seconds in the `Retry-After` field of that response.
    pub retry_after: u32,
    /// The number of seconds until the window ends, as that response states it.
    pub reset_after: u32,
    /// 1 if the method of that request is HEAD.
    pub head: u32,
    /// The highest acknowledgement number of the client that was let through to the server. It is
    /// kept for every flow.
    pub heard: Seq,
    /// The number of times that that response was sent again because the client had room for only a
    /// part of it.
    pub repeats: u32,
    /// The sequence number of the first byte of the request that was admitted when no other request
    /// awaited its response. The server cannot have answered a request before it has acknowledged a
    /// byte after this one. The number is kept for every flow.
    pub first_asked: Seq,
}

impl Splice {
    /// Returns the server's number for the number `seq` with which a packet of the server has left
    /// for the client. Returns `None` for a byte of the last response that was sent in the server's
    /// name.
    #[inline(always)]
    #[must_use]
    pub const fn server_number(&self, seq: Seq) -> Option<Seq> {
        if seq.before(self.response_start) {
            let last = self.response_end.since(self.response_start) as u32;
            return Some(seq.minus(self.injected.wrapping_sub(last)));
        }
        if seq.before(self.response_end) {
            return None;
        }
        Some(seq.minus(self.injected))
    }

    /// Returns the client's number for the number `seq` with which a packet of the client has left
    /// for the server.
    #[inline(always)]
    #[must_use]
    pub const fn client_number(&self, seq: Seq) -> Seq {
        let now = seq.plus(self.withheld);
        if now.before(self.request_end) {
            return now.minus(self.request_end.since(self.request_start) as u32);
        }
        now
    }
}

/// The maximum `Content-Length` with which a refused request is withheld from the server while the
/// connection goes on. If the body is longer, the connection is closed after the response.
pub const MAX_WITHHELD_BODY: u32 = 1 << 17;
/// The maximum number of bytes of a refused request that are withheld, including the head and the
/// framing of chunks. If a request whose length is not known in advance has more, the connection is
/// closed.
pub const MAX_WITHHELD: u32 = MAX_WITHHELD_BODY + (1 << 16);

/// The value of the map `TOMBS` (LRU hash by [`FlowKey`](super::FlowKey)): the tombstone of a
/// connection that was refused and is being closed. The connection no longer holds a slot, and is
/// no longer included in a connection count. Therefore, if its tombstone is evicted, the worst
/// effect is that the client receives a reset.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tomb {
    /// The sequence number at which our response starts, as the client sees it.
    pub response_start: Seq,
    /// The sequence number at which our response ends, including its FIN.
    pub response_end: Seq,
    /// The sequence number after the highest byte that the client has sent.
    pub client_next: Seq,
    /// The sequence number that the client expected from the server before our response.
    pub server_next: Seq,
    /// The sequence number that the server expects from the client next. If we sent the server a
    /// FIN on behalf of the client, it is the number after this FIN.
    pub server_expects: Seq,
    /// The window that we announce to the client: the number in the TCP header, not shifted, in
    /// host byte order.
    pub window: u32,
    /// The last timestamp value that we sent to the client.
    pub tsval: u32,
    /// The text of the response: see [`TextKey`].
    pub text: TextKey,
    /// The number of seconds in the `Retry-After` field of the response.
    pub retry_after: u32,
    /// The number of seconds in the parameter `t` of `RateLimit` in the response.
    pub reset_after: u32,
    /// `TOMB_*` flags.
    pub flags: u32,
    /// The connection's link.
    pub link: Link,
    /// The value of [`Flow::client_start`](super::Flow::client_start) when the connection was
    /// refused.
    pub client_start: Seq,
    /// The client's newest timestamp value; 0 if the client has sent none.
    pub client_tsval: u32,
    /// The time at which the connection ended, on `CLOCK_MONOTONIC_COARSE` in ns.
    pub ended_ns: u64,
}

/// The response has no body, because the method of the request was HEAD.
pub const TOMB_HEAD: u32 = 1;
/// The server is sent resets instead of a FIN, for example because it already has a part of the
/// request, is still in the handshake, or because both sides are reset.
pub const TOMB_RESET_SERVER: u32 = 2;
/// There is no response, because both sides have been reset.
pub const TOMB_RESET_CLIENT: u32 = 4;
/// The response has been sent before, when the connection was to go on, and must not change.
pub const TOMB_KEPT: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        /// A connection on which earlier requests were refused, and then one more.
        fn splices()(
            withheld_before in 0..u32::MAX,
            injected_before in 0..u32::MAX,
            request in 1..MAX_WITHHELD,
            response in 1..2048u32,
            client: u32,
            server: u32,
        ) -> (Splice, u32, u32) {
            let splice = Splice {
                withheld: withheld_before.wrapping_add(request),
                injected: injected_before.wrapping_add(response),
                request_start: Seq(client),
                request_end: Seq(client).plus(request),
                response_start: Seq(server),
                response_end: Seq(server).plus(response),
                ..Splice::default()
            };
            (splice, withheld_before, injected_before)
        }
    }

    proptest! {
        #[test]
        fn numbers_of_both_sides_lead_to_each_other(
            (splice, withheld_before, injected_before) in splices(),
            distance in 0..1u32 << 30,
        ) {
            // The bytes after the last refused request and its response.
            let seen = splice.response_end.plus(distance);
            let sent = seen.minus(splice.injected);
            prop_assert_eq!(splice.server_number(seen), Some(sent));
            let sent = splice.request_end.plus(distance);
            let seen = sent.minus(splice.withheld);
            prop_assert_eq!(splice.client_number(seen), sent);
            // The bytes before them.
            let seen = splice.response_start.minus(1 + distance);
            let sent = seen.minus(injected_before);
            prop_assert_eq!(splice.server_number(seen), Some(sent));
            let sent = splice.request_start.minus(1 + distance);
            let seen = sent.minus(withheld_before);
            prop_assert_eq!(splice.client_number(seen), sent);
        }

        #[test]
        fn a_byte_of_the_response_has_no_number_of_the_server(
            (splice, ..) in splices(),
            at: prop::sample::Index,
        ) {
            let len = splice.response_end.since(splice.response_start) as usize;
            let seq = splice.response_start.plus(at.index(len) as u32);
            prop_assert_eq!(splice.server_number(seq), None);
        }
    }
}
