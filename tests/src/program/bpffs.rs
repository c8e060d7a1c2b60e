//! A BPF file system that nobody else sees and that goes with its last descriptor.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
};

/// A mount that is attached nowhere: reached through its descriptor only.
#[derive(Debug)]
pub struct BpfFs(OwnedFd);

impl BpfFs {
    /// # Errors
    /// The kernel's (`fsopen(2)`, since Linux 5.2): it wants root.
    pub fn new() -> io::Result<Self> {
        const KIND: &CStr = c"bpf";
        /// `FSCONFIG_CMD_CREATE`, `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC` of
        /// include/uapi/linux/mount.h.
        const CREATE: libc::c_uint = 6;
        const CLOSE_ON_EXEC: libc::c_uint = 1;
        const NOTHING: *const libc::c_char = std::ptr::null();
        // SAFETY: `KIND` is a string that lives for ever.
        let context = unsafe {
            descriptor(libc::syscall(
                libc::SYS_fsopen,
                KIND.as_ptr(),
                CLOSE_ON_EXEC,
            ))?
        };
        let raw = context.as_raw_fd();
        // SAFETY: the descriptor is open, and this command takes neither key nor value.
        let made = unsafe { libc::syscall(libc::SYS_fsconfig, raw, CREATE, NOTHING, NOTHING, 0) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open; there are no pointers.
        let mount = unsafe { descriptor(libc::syscall(libc::SYS_fsmount, raw, CLOSE_ON_EXEC, 0))? };
        Ok(Self(mount))
    }

    /// Its root, as long as `self` lives, for this process.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// What a system call returned, if that is a descriptor.
///
/// # Safety
/// Nobody else owns it.
unsafe fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw = libc::c_int::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the caller's promise; the system call has just opened it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
