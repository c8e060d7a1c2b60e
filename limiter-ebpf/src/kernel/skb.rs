// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The socket buffer. The kernel's helper functions for it are called only in this file.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_CSUM_LEVEL_QUERY, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_NET,
    },
    helpers::generated::{
        bpf_clone_redirect, bpf_csum_diff, bpf_csum_level, bpf_csum_update, bpf_get_prandom_u32,
        bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_l3_csum_replace, bpf_l4_csum_replace,
        bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use limiter_common::abi::FlowKey;

use crate::kernel::{
    plain::Plain,
    verifier::{bounded, bounded_to},
};

/// The verdict that lets the packet through to later programs and the stack (`TCX_NEXT`, and
/// `TC_ACT_UNSPEC` of clsact).
pub const NEXT: i32 = -1;
/// The verdict that drops the packet (`TC_ACT_SHOT`).
pub const DROP: i32 = 2;

/// The flag that delivers a packet to the ingress of an interface (`BPF_F_INGRESS`).
pub const INGRESS: u64 = 1;

/// A packet, as the kernel passes it to a TC program. The context is valid until the program ends,
/// and the verifier checks each access to it.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    /// # Safety
    /// `skb` is the context that the kernel has passed to this run of the program.
    #[inline(always)]
    pub unsafe fn at(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    /// Returns the context, as an argument for a global function.
    #[inline(always)]
    pub fn context(self) -> *mut __sk_buff {
        self.0
    }

    #[inline(always)]
    pub fn start(self) -> usize {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).data as usize }
    }

    #[inline(always)]
    pub fn end(self) -> usize {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).data_end as usize }
    }

    /// Returns the length of the whole packet in bytes, including everything outside the linear
    /// part.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).mark = mark };
    }

    /// Returns the number of payload bytes in each packet into which the kernel or the device will
    /// split this one (GSO), or 0 if it is a single packet.
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).gso_size }
    }

    /// Returns the packet type, which is one of `PACKET_*` (include/uapi/linux/if_packet.h). The
    /// packet type states, for example, whether the link-layer header is addressed to this host or
    /// to another host.
    #[inline(always)]
    pub fn packet_type(self) -> u32 {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).pkt_type }
    }

    /// Returns whether the device has verified the checksum (CHECKSUM_UNNECESSARY).
    #[inline(always)]
    pub fn is_checked(self) -> bool {
        // SAFETY: the kernel keeps the context valid.
        unsafe { bpf_csum_level(self.0, u64::from(BPF_CSUM_LEVEL_QUERY)) >= 0 }
    }

    /// Marks the checksum as verified, as a device does (CHECKSUM_UNNECESSARY).
    #[cfg(feature = "bench")]
    #[inline(always)]
    pub fn set_checked(self) {
        use aya_ebpf::bindings::BPF_CSUM_LEVEL_INC;
        // SAFETY: the kernel keeps the context valid. A packet with a partial checksum counts as
        // verified anyway.
        let _level = unsafe { bpf_csum_level(self.0, u64::from(BPF_CSUM_LEVEL_INC)) };
    }

    /// Returns the sum that the device has computed over everything after the link header
    /// (CHECKSUM_COMPLETE), or `None` if it has computed none.
    #[inline(always)]
    pub fn device_sum(self) -> Option<u32> {
        // SAFETY: the kernel keeps the context valid. Adding zero returns the sum, or an error if
        // there is none.
        let sum = unsafe { bpf_csum_update(self.0, 0) };
        u32::try_from(sum).ok()
    }

    /// Returns whether a packet to a client comes from a socket of this host and network namespace,
    /// and the remote address and port of the socket are the client's in `key`. (If the address
    /// were translated, the socket could not be found later.) `none` is the result for a packet of
    /// this host without a socket, such as a SYN-ACK with a SYN cookie.
    #[inline(always)]
    pub fn is_of_socket(self, key: &FlowKey, v6: bool, none: bool) -> bool {
        // SAFETY: the kernel keeps the context valid, and the socket exists as long as the packet.
        unsafe {
            let socket = (*self.0).__bindgen_anon_2.sk;
            if socket.is_null() {
                return none && self.ingress_ifindex() == 0;
            }
            if (*socket).dst_port != key.client_port {
                return false;
            }
            if !v6 {
                return (*socket).dst_ip4 == key.client[3];
            }
            let [a, b, c, d] = key.client;
            let differs = ((*socket).dst_ip6[0] ^ a)
                | ((*socket).dst_ip6[1] ^ b)
                | ((*socket).dst_ip6[2] ^ c)
                | ((*socket).dst_ip6[3] ^ d);
            differs == 0
        }
    }

    /// Returns the EtherType that the device driver has read from the frame, in network byte order
    /// in the lower 16 bits.
    #[inline(always)]
    pub fn protocol(self) -> u32 {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).protocol }
    }

    /// Returns the VLAN id, as in `Link::vlan`, of the tag that the device has moved from the frame
    /// to the socket buffer. Returns 0 if there is no such tag or if the VLAN is 0.
    #[inline(always)]
    pub fn vlan(self) -> u32 {
        const ID: u32 = 0x0fff;
        // SAFETY: the kernel keeps the context valid. (The result is a product because the verifier
        // would check both sides of a branch.)
        unsafe { ((*self.0).vlan_tci & ID) * (*self.0).vlan_present }
    }

    /// Returns the interface by which a forwarded packet arrived, or 0 if the packet comes from
    /// this host.
    #[inline(always)]
    pub fn ingress_ifindex(self) -> u32 {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: the kernel keeps the context valid.
        unsafe { (*self.0).ifindex }
    }

    /// Loads a value from `offset` of the packet. Returns `None` if the packet is too short.
    #[inline(always)]
    pub fn load<T: Plain>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let (to, len) = (value.as_mut_ptr().cast(), size_of::<T>() as u32);
        // SAFETY: the kernel keeps the context valid, `value` has `len` bytes, and the helper fills
        // all of them if it succeeds.
        unsafe {
            (bpf_skb_load_bytes(self.0.cast(), offset, to, len) == 0).then(|| value.assume_init())
        }
    }

    /// Loads `len` bytes (1 to `MAX`, see [`bounded_to`]) from `offset` of the packet to the start
    /// of `buffer`. Returns false if the packet is too short.
    #[inline(always)]
    pub fn load_part<const MAX: u64, T: Plain>(
        self,
        offset: u32,
        buffer: &mut T,
        len: u32,
    ) -> bool {
        const { assert!(MAX as usize <= size_of::<T>()) };
        let to = (&raw mut *buffer).cast();
        // SAFETY: the kernel keeps the context valid, `buffer` has MAX bytes, and `len` is bounded
        // to MAX.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to, bounded_to::<MAX>(len)) == 0 }
    }

    /// Loads `len` bytes (1 to 4096; see [`bounded`]) from `offset` of the packet to `to`. Returns
    /// false if the packet is too short.
    ///
    /// # Safety
    /// `to` has room for 4096 bytes.
    #[inline(always)]
    pub(super) unsafe fn load_to(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the kernel keeps the context valid, and the caller guarantees the room.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.cast(), bounded(len)) == 0 }
    }

    /// Writes a value to `offset` of the packet. Returns false if that is not possible. Pointers to
    /// headers of the packet are stale afterwards.
    #[inline(always)]
    pub fn store<T: Plain>(self, offset: u32, value: &T) -> bool {
        let (from, len) = ((&raw const *value).cast(), size_of::<T>() as u32);
        // SAFETY: the kernel keeps the context valid, and `value` has `len` bytes.
        unsafe { bpf_skb_store_bytes(self.0, offset, from, len, 0) == 0 }
    }

    /// Writes the first `len` bytes of `buffer` (1 to `MAX`, see [`bounded_to`]), as [`Skb::store`]
    /// does.
    #[inline(always)]
    pub fn store_part<const MAX: u64, T: Plain>(self, offset: u32, buffer: &T, len: u32) -> bool {
        const { assert!(MAX as usize <= size_of::<T>()) };
        let from = (&raw const *buffer).cast();
        // SAFETY: the kernel keeps the context valid, `buffer` has MAX bytes, and `len` is bounded
        // to MAX.
        unsafe { bpf_skb_store_bytes(self.0, offset, from, bounded_to::<MAX>(len), 0) == 0 }
    }

    /// Writes a value as [`Skb::store`] does. If the device has computed a sum over the whole
    /// packet (CHECKSUM_COMPLETE), that sum is updated too.
    #[inline(always)]
    pub fn write<T: Plain>(self, offset: u32, value: &T) -> bool {
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        let (from, len) = ((&raw const *value).cast(), size_of::<T>() as u32);
        // SAFETY: the kernel keeps the context valid, and `value` has `len` bytes.
        unsafe { bpf_skb_store_bytes(self.0, offset, from, len, flags) == 0 }
    }

    /// Writes the first `LEN` bytes of `buffer`, as [`Skb::write`] does.
    #[inline(always)]
    pub fn write_first<const LEN: u32, T: Plain>(self, offset: u32, buffer: &T) -> bool {
        const { assert!(LEN as usize <= size_of::<T>()) };
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        let from = (&raw const *buffer).cast();
        // SAFETY: the kernel keeps the context valid, and `buffer` has LEN bytes.
        unsafe { bpf_skb_store_bytes(self.0, offset, from, LEN, flags) == 0 }
    }

    /// Writes the first `len` bytes of `buffer` (1 to `MAX`, see [`bounded_to`]), as [`Skb::write`]
    /// does.
    #[inline(always)]
    pub fn write_part<const MAX: u64, T: Plain>(self, offset: u32, buffer: &T, len: u32) -> bool {
        const { assert!(MAX as usize <= size_of::<T>()) };
        let (flags, len) = (u64::from(BPF_F_RECOMPUTE_CSUM), bounded_to::<MAX>(len));
        let from = (&raw const *buffer).cast();
        // SAFETY: the kernel keeps the context valid, `buffer` has MAX bytes, and `len` is bounded
        // to MAX.
        unsafe { bpf_skb_store_bytes(self.0, offset, from, len, flags) == 0 }
    }

    /// Removes the `len` bytes that follow the first 20 bytes of an IPv4 header or the first 40
    /// bytes of an IPv6 header. Pointers to headers of the packet are stale afterwards.
    #[inline(always)]
    pub fn cut_network_header(self, len: u32) -> bool {
        // SAFETY: the kernel keeps the context valid.
        unsafe { bpf_skb_adjust_room(self.0, -(len as i32), BPF_ADJ_ROOM_NET, 0) == 0 }
    }

    /// Makes the first `len` bytes linear. Pointers to headers of the packet are stale afterwards.
    #[inline(always)]
    pub fn pull(self, len: u32) -> bool {
        // SAFETY: the kernel keeps the context valid.
        unsafe { bpf_skb_pull_data(self.0, len) == 0 }
    }

    /// Sets the length of the packet, which is then linear and no longer GSO. Pointers to headers
    /// of the packet are stale afterwards.
    #[inline(always)]
    pub fn change_tail(self, len: u32) -> bool {
        // SAFETY: the kernel keeps the context valid.
        unsafe { bpf_skb_change_tail(self.0, len, 0) == 0 }
    }

    /// Adjusts the checksum at `offset` to a change of a value from `from` to `to` (both in network
    /// byte order). The size of the value in bytes (2 or 4) is a part of `flags`.
    #[inline(always)]
    pub fn replace_checksum(self, offset: u32, from: u64, to: u64, flags: u64) -> bool {
        // SAFETY: the kernel keeps the context valid.
        unsafe { bpf_l4_csum_replace(self.0, offset, from, to, flags) == 0 }
    }

    /// Adjusts the IPv4 checksum at `offset` to a change of a value of two bytes from `from` to
    /// `to` (both in network byte order).
    #[inline(always)]
    pub fn replace_ip_checksum(self, offset: u32, from: u16, to: u16) -> bool {
        // SAFETY: the kernel keeps the context valid.
        unsafe { bpf_l3_csum_replace(self.0, offset, u64::from(from), u64::from(to), 2) == 0 }
    }

    /// Sends a copy of the packet out of the interface if `flags` is 0, or into the ingress of the
    /// interface if `flags` is [`INGRESS`].
    #[inline(always)]
    pub fn clone_redirect(self, ifindex: u32, flags: u64) -> bool {
        // SAFETY: the kernel keeps the context valid.
        unsafe { bpf_clone_redirect(self.0, ifindex, flags) == 0 }
    }
}

/// Returns the verdict that sends the packet out of the interface if `flags` is 0, or into the
/// ingress of the interface if `flags` is [`INGRESS`].
#[inline(always)]
pub fn redirect(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: all arguments of the helper are numbers.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

/// Returns the one's complement sum of the first `LEN` bytes of `buffer`, added to `seed`.
#[inline(always)]
pub fn sum<const LEN: u32, T: Plain>(buffer: &T, seed: u32) -> u32 {
    // bpf_csum_diff() returns an error for a length that exceeds its scratch space or is not a
    // multiple of four bytes.
    const { assert!(LEN as usize <= size_of::<T>() && LEN <= 512 && LEN.is_multiple_of(4)) };
    let from = (&raw const *buffer).cast_mut().cast();
    // SAFETY: `buffer` has LEN bytes, which are only read. Nothing is read through the null
    // pointer, because its length is 0.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from, LEN, seed) as u32 }
}

#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// Returns the time on `CLOCK_BOOTTIME` in ns. This clock continues while the host is suspended, as
/// days and waiting times require.
#[inline(always)]
pub fn boot_ns() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Returns the time on `CLOCK_MONOTONIC_COARSE` in ns. This clock has the resolution of a tick.
/// Reading it takes a tenth of the time that a precise clock takes.
#[inline(always)]
pub fn coarse_ns() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
