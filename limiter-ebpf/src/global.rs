//! Global functions: the verifier looks at each of them once and for all, while it follows every way
//! through other functions to the end of the program. They look their map values up themselves,
//! since of its caller's knowledge none comes along.

use aya_ebpf::bindings::__sk_buff;

use crate::{
    maps, refuse,
    skb::{DROP, Skb},
};

/// Carries out the fresh refusal in `Work::tomb`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_refuse(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else { return DROP };
    refuse::send(Skb(skb), work)
}

/// Cuts the packet to `Work::keep` bytes of payload; 0: could not.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_cut(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else { return 0 };
    // SAFETY: a live map value, of this CPU alone.
    let keep = unsafe { (*work).keep };
    i32::from(refuse::trim(Skb(skb), work, keep))
}

/// A client's packet of a connection that was refused.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_client_of_tomb(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else { return DROP };
    // SAFETY: a live map value, of this CPU alone.
    let key = unsafe { &raw const (*work).packet.key };
    // It may have given way to another one meanwhile: the client sends again.
    let Some(tomb) = maps::tomb(key) else { return DROP };
    refuse::from_client(Skb(skb), work, tomb)
}

/// A server's packet of a connection that was refused.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_server_of_tomb(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else { return DROP };
    // SAFETY: a live map value, of this CPU alone.
    let key = unsafe { &raw const (*work).packet.key };
    // As above.
    let Some(tomb) = maps::tomb(key) else { return DROP };
    refuse::from_server(Skb(skb), work, tomb)
}

/// Resets both sides of a connection that has no state.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_reset_both(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else { return DROP };
    refuse::reset_both(Skb(skb), work)
}

/// Turns a server's SYN-ACK into a reset for the client.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_reset_syn_ack(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else { return DROP };
    refuse::reset_syn_ack(Skb(skb), work)
}
