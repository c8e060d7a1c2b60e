// SPDX-License-Identifier: MIT OR Apache-2.0

//! A private BPF file system. The kernel removes it when its last descriptor is closed.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
};

/// A detached mount that can be reached only through its descriptor.
#[derive(Debug)]
pub struct BpfFs(OwnedFd);

impl BpfFs {
    /// # Errors
    /// Returns the kernel's error if the file system cannot be created, for example because the
    /// process is not root. `fsopen(2)` exists since Linux 5.2.
    pub fn new() -> io::Result<Self> {
        const KIND: &CStr = c"bpf";
        /// The constants `FSCONFIG_CMD_CREATE`, `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC` from
        /// include/uapi/linux/mount.h.
        const CREATE: libc::c_uint = 6;
        const CLOSE_ON_EXEC: libc::c_uint = 1;
        const NOTHING: *const libc::c_char = std::ptr::null();
        // SAFETY: `KIND` is a static C string, and nothing else owns the descriptor that the call
        // returns.
        let context = unsafe {
            descriptor(libc::syscall(
                libc::SYS_fsopen,
                KIND.as_ptr(),
                CLOSE_ON_EXEC,
            ))?
        };
        let raw = context.as_raw_fd();
        // SAFETY: `raw` is open, and this command takes neither a key nor a value.
        let made = unsafe { libc::syscall(libc::SYS_fsconfig, raw, CREATE, NOTHING, NOTHING, 0) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` is open, no pointers are passed, and nothing else owns the descriptor that
        // the call returns.
        let mount = unsafe { descriptor(libc::syscall(libc::SYS_fsmount, raw, CLOSE_ON_EXEC, 0))? };
        Ok(Self(mount))
    }

    /// Returns the path of the file system's root, which this process can use as long as `self`
    /// lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// Converts the result of a system call that returns a descriptor.
///
/// # Safety
/// If `result` is not negative, it must be an open descriptor that nothing else owns.
unsafe fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw = libc::c_int::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the caller guarantees that the descriptor is open and that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
