//! Global functions: the verifier looks at each of them once and for all, while it follows every way
//! through other functions to the end of the program. They look their map values up themselves,
//! since of its caller's knowledge none comes along.

use aya_ebpf::bindings::__sk_buff;

use crate::{
    checksum, maps,
    packet::single_path,
    refuse, replay, scan,
    skb::{DROP, Skb},
};

/// Runs the scanner over the window in `Work::scan`, by the rules of requests.
/// Nobody needs what it returns: a global function returns a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_lines() -> i32 {
    let (Some(work), Some(config)) = (maps::work(), maps::config()) else {
        return 0;
    };
    // SAFETY: live map values; `work` is this CPU's.
    unsafe {
        let rules = &raw const (*config).request_rules;
        scan::lines(&raw mut (*work).scan, rules);
    }
    0
}

/// Whether the server will take the checksum of the packet for right; 0: no.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_checksum_is_right(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else { return 0 };
    i32::from(checksum::is_right(Skb(skb), work))
}

/// Takes Multipath TCP out of a client's SYN; 0: could not.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_single_path(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else { return 0 };
    // SAFETY: a live map value, of this CPU alone.
    let packet = unsafe { &(*work).packet };
    i32::from(single_path(Skb(skb), packet))
}

/// Whether the first `len` payload bytes of a client's packet, all seen before, may pass again; the
/// caller holds the lock of the flow. 0: no.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_may_pass(skb: *mut __sk_buff, len: u32) -> i32 {
    let Some(work) = maps::work() else { return 0 };
    // SAFETY: a live map value, of this CPU alone.
    let key = unsafe { &raw const (*work).packet.key };
    let Some(flow) = maps::flow(key) else {
        return 0;
    };
    // SAFETY: live map values; the caller holds the lock.
    i32::from(unsafe { replay::may_pass(Skb(skb), work, flow, len) })
}

/// Keeps fingerprints of the payload bytes [`from`, `to`) of a client's packet; the caller holds the
/// lock of the flow. Nobody needs what it returns.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_keep(skb: *mut __sk_buff, from: u32, to: u32) -> i32 {
    let Some(work) = maps::work() else { return 0 };
    // SAFETY: a live map value, of this CPU alone.
    let key = unsafe { &raw const (*work).packet.key };
    let Some(flow) = maps::flow(key) else {
        return 0;
    };
    // SAFETY: live map values; the caller holds the lock.
    unsafe { replay::keep_pieces(Skb(skb), work, flow, from, to) };
    0
}

/// Carries out the fresh refusal in `Work::tomb`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_refuse(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else {
        return DROP;
    };
    refuse::send(Skb(skb), work)
}

/// Makes a client's packet the answer that the tomb in `Work::tomb` calls for: what [`refuse`] says of it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_answer(skb: *mut __sk_buff) -> u32 {
    let Some(work) = maps::work() else { return 0 };
    refuse::answer_client(Skb(skb), work)
}

/// Tells the server the end of the connection in `Work::tomb`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_tell_server(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else {
        return DROP;
    };
    refuse::tell_server(Skb(skb), work)
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
    let Some(work) = maps::work() else {
        return DROP;
    };
    // SAFETY: a live map value, of this CPU alone.
    let key = unsafe { &raw const (*work).packet.key };
    // It may have given way to another one meanwhile: the client sends again.
    let Some(tomb) = maps::tomb(key) else {
        return DROP;
    };
    refuse::from_client(Skb(skb), work, tomb)
}

/// A server's packet of a connection that was refused.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_server_of_tomb(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else {
        return DROP;
    };
    // SAFETY: a live map value, of this CPU alone.
    let key = unsafe { &raw const (*work).packet.key };
    // As above.
    let Some(tomb) = maps::tomb(key) else {
        return DROP;
    };
    refuse::from_server(Skb(skb), work, tomb)
}

/// Resets both sides of a connection that has no state.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_reset_both(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else {
        return DROP;
    };
    refuse::reset_both(Skb(skb), work)
}

/// Turns a server's SYN-ACK into a reset for the client.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn limiter_reset_syn_ack(skb: *mut __sk_buff) -> i32 {
    let Some(work) = maps::work() else {
        return DROP;
    };
    refuse::reset_syn_ack(Skb(skb), work)
}
