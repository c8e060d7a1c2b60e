//! The socket buffer: the only place that calls its helpers.

use core::ffi::c_void;

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
};
use limiter_common::abi::FlowKey;

/// Let later programs and the stack have the packet (`TCX_NEXT`, and `TC_ACT_UNSPEC` of clsact).
pub const NEXT: i32 = -1;
/// Drop the packet (`TC_ACT_SHOT`).
pub const DROP: i32 = 2;

/// Deliver into the ingress of the interface (`BPF_F_INGRESS`).
pub const INGRESS: u64 = 1;

/// A packet, as the kernel hands it to a TC program.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

/// A length that the verifier sees lie in 1..=4096, whatever it was.
#[inline(always)]
pub fn bounded(len: u32) -> u32 {
    bounded_to::<4096>(len)
}

/// A length that the verifier sees lie in 1..=`MAX` (a power of two), whatever it was.
///
/// All of it in one block: 6.1's verifier learns nothing from a comparison with zero, and a mask
/// at the level of Rust may be applied to another copy of the value.
#[inline(always)]
pub fn bounded_to<const MAX: u64>(len: u32) -> u32 {
    const { assert!(MAX.is_power_of_two()) };
    let mut len = u64::from(len);
    #[cfg(target_arch = "bpf")]
    // SAFETY: arithmetic on a register.
    unsafe {
        core::arch::asm!(
            "{0} += -1", "{0} &= {mask}", "{0} += 1",
            inout(reg) len, mask = const MAX - 1, options(nomem, nostack, preserves_flags)
        );
    }
    len as u32
}

impl Skb {
    #[inline(always)]
    pub fn start(self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.0).data as usize }
    }

    #[inline(always)]
    pub fn end(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.0).data_end as usize }
    }

    /// Bytes of the whole packet, wherever they lie.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as above.
        unsafe { (*self.0).mark = mark };
    }

    /// Bytes of payload in each packet of those that this one stands for (GSO); 0: it is one.
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).gso_size }
    }

    /// Whose the packet is by its link header: `PACKET_*` (include/uapi/linux/if_packet.h).
    #[inline(always)]
    pub fn packet_type(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).pkt_type }
    }

    /// Whether the device has found the checksum right (CHECKSUM_UNNECESSARY).
    #[inline(always)]
    pub fn is_checked(self) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_csum_level(self.0, u64::from(BPF_CSUM_LEVEL_QUERY)) >= 0 }
    }

    /// Says that the checksum was found right, as a device does (CHECKSUM_UNNECESSARY).
    #[cfg(feature = "bench")]
    #[inline(always)]
    pub fn set_checked(self) {
        use aya_ebpf::bindings::BPF_CSUM_LEVEL_INC;
        // SAFETY: the context is valid. Says nothing new of a packet that is partial.
        let _level = unsafe { bpf_csum_level(self.0, u64::from(BPF_CSUM_LEVEL_INC)) };
    }

    /// The sum that the device took of all that is behind the link header (CHECKSUM_COMPLETE).
    #[inline(always)]
    pub fn device_sum(self) -> Option<u32> {
        // SAFETY: the context is valid. Adding nothing says what is there, or that nothing is.
        let sum = unsafe { bpf_csum_update(self.0, 0) };
        u32::try_from(sum).ok()
    }

    /// Whether the packet to a client comes from a socket of this host and network namespace that
    /// knows the client by the same address: where that is translated, the socket could not be found.
    #[inline(always)]
    pub fn is_of_socket(self, key: &FlowKey, v6: bool) -> bool {
        // SAFETY: the context is valid, and the socket stays while the packet does.
        unsafe {
            let socket = (*self.0).__bindgen_anon_2.sk;
            if socket.is_null() || (*socket).dst_port != key.client_port {
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

    /// The EtherType, as the device found it (network byte order in the lower half).
    #[inline(always)]
    pub fn protocol(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).protocol }
    }

    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ifindex }
    }

    /// Copies `len` bytes (1 to 4096; see [`bounded`]) from `offset` of the packet.
    ///
    /// # Safety
    /// `to` has room for `len` bytes.
    #[inline(always)]
    pub unsafe fn load(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.cast(), len) == 0 }
    }

    /// Writes `len` bytes to `offset` of the packet. Packet pointers are stale afterwards.
    ///
    /// # Safety
    /// `from` has `len` bytes.
    #[inline(always)]
    pub unsafe fn store(self, offset: u32, from: *const u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_skb_store_bytes(self.0, offset, from.cast::<c_void>(), len, 0) == 0 }
    }

    /// As [`Skb::store`]; a sum that the device took of the whole packet (CHECKSUM_COMPLETE) goes
    /// along.
    ///
    /// # Safety
    /// `from` has `len` bytes.
    #[inline(always)]
    pub unsafe fn write(self, offset: u32, from: *const u8, len: u32) -> bool {
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        // SAFETY: the caller's promise.
        unsafe { bpf_skb_store_bytes(self.0, offset, from.cast::<c_void>(), len, flags) == 0 }
    }

    /// Takes `len` bytes out from behind the 20 bytes of an IPv4, or the 40 of an IPv6 header.
    /// Packet pointers are stale afterwards.
    #[inline(always)]
    pub fn cut_network_header(self, len: u32) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_skb_adjust_room(self.0, -(len as i32), BPF_ADJ_ROOM_NET, 0) == 0 }
    }

    /// Makes the first `len` bytes linear. Packet pointers are stale afterwards.
    #[inline(always)]
    pub fn pull(self, len: u32) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_skb_pull_data(self.0, len) == 0 }
    }

    /// Sets the length; the packet is linear and no longer GSO. Packet pointers are stale.
    #[inline(always)]
    pub fn change_tail(self, len: u32) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_skb_change_tail(self.0, len, 0) == 0 }
    }

    /// Replaces `from` by `to` (network byte order, `size` 2 or 4) in the checksum at `offset`.
    #[inline(always)]
    pub fn replace_checksum(self, offset: u32, from: u64, to: u64, flags: u64) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_l4_csum_replace(self.0, offset, from, to, flags) == 0 }
    }

    /// Replaces `from` by `to` (as they stand in the header) in the IPv4 checksum at `offset`.
    #[inline(always)]
    pub fn replace_ip_checksum(self, offset: u32, from: u16, to: u16) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_l3_csum_replace(self.0, offset, u64::from(from), u64::from(to), 2) == 0 }
    }

    /// Sends a copy out of the interface (flags 0) or into it ([`INGRESS`]).
    #[inline(always)]
    pub fn clone_redirect(self, ifindex: u32, flags: u64) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_clone_redirect(self.0, ifindex, flags) == 0 }
    }
}

/// The verdict that sends the packet out of the interface (flags 0) or into it ([`INGRESS`]).
#[inline(always)]
pub fn redirect(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: takes numbers only.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

/// The one's complement sum of `len` bytes (a multiple of 4, at most 512), added to `seed`.
///
/// # Safety
/// `from` has `len` bytes.
#[inline(always)]
pub unsafe fn sum(from: *const u8, len: u32, seed: u32) -> u32 {
    // SAFETY: the caller's promise; nothing is read at a null pointer of length 0.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from.cast_mut().cast(), len, seed) as u32 }
}

/// A random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: takes nothing.
    unsafe { bpf_get_prandom_u32() }
}

/// `CLOCK_BOOTTIME`, ns: goes on in suspend, so that days and waits do.
#[inline(always)]
pub fn boot_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// `CLOCK_MONOTONIC_COARSE`, ns: exact to a tick, and a tenth of the price.
#[inline(always)]
pub fn coarse_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}
