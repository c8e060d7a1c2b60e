//! Filters of the clsact qdisc: which is ours, and taking it off.

use std::path::Path;

use aya::programs::{
    ProgramError,
    links::Link as _,
    tc::{SchedClassifierLink, TcHandle},
};

use super::{Hook, KernelError, error::chain, pins::PinDirectory};

/// Priority of our clsact filters: before those that take the default (49152).
pub(super) const CLSACT_PRIORITY: u16 = 100;

/// A clsact filter's handle: our own by the pin directory's name, so that daemons side by side
/// on one interface do not replace each other's filters.
pub(super) fn clsact_handle(root: &Path) -> TcHandle {
    // FNV-1a; the kernel takes 1 to 2^31 - 1 (`cls_bpf_change`).
    let hash = root
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    TcHandle::from((hash & 0x7fff_ffff).max(1))
}

/// Removes our clsact filter; whether there was one.
pub(super) fn remove_filter(
    pins: &PinDirectory,
    interface: &str,
    hook: Hook,
) -> Result<bool, KernelError> {
    let handle = clsact_handle(pins.root());
    let Ok(link) =
        SchedClassifierLink::attached(interface, hook.attach_type(), CLSACT_PRIORITY, handle, None)
    else {
        // The interface has gone, and its filters with it.
        return Ok(false);
    };
    match link.detach() {
        Ok(()) => Ok(true),
        // No such filter, or no qdisc to hold one: ENOENT or EINVAL, which aya does not tell
        // apart from other failures of netlink. Nothing of ours is left either way.
        Err(ProgramError::NetlinkError(_) | ProgramError::TcError(_)) => Ok(false),
        Err(source) => Err(KernelError::Attach {
            interface: interface.to_owned(),
            hook: hook.as_str(),
            reason: chain(&source),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_side_by_side_have_filters_of_their_own() {
        assert_ne!(
            clsact_handle(Path::new("/a")),
            clsact_handle(Path::new("/b"))
        );
    }
}
