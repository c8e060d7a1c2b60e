// SPDX-License-Identifier: MIT OR Apache-2.0

//! `BPF_PROG_TEST_RUN` with all of its options. aya's own function for test runs cannot pass flags.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// A run of a program on a packet.
pub struct Run<'a> {
    pub packet: &'a [u8],
    /// The buffer for the packet after the run.
    pub left: &'a mut [u8],
    /// The bytes of `struct __sk_buff` before the run.
    pub context: &'a [u8],
    /// The buffer for the bytes of `struct __sk_buff` after the run.
    pub after: &'a mut [u8],
    /// Whether the kernel treats the packet as one whose checksum the device has computed
    /// (CHECKSUM_COMPLETE).
    pub checksum_complete: bool,
}

/// The fields of `union bpf_attr` that `BPF_PROG_TEST_RUN` uses (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

const BPF_PROG_TEST_RUN: libc::c_int = 10;
/// The flag for a packet whose checksum the device has computed. Linux supports it since 6.16.
const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

impl Run<'_> {
    /// Runs the program. Returns the length of the packet after the run, and the program's return
    /// value.
    ///
    /// # Errors
    /// Returns the kernel's error if the run fails.
    pub fn on(self, program: BorrowedFd<'_>) -> io::Result<(usize, u32)> {
        let size = |len: usize| u32::try_from(len).expect("a short buffer");
        let mut attributes = Attributes {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            data_size_in: size(self.packet.len()),
            data_size_out: size(self.left.len()),
            data_in: self.packet.as_ptr() as u64,
            data_out: self.left.as_mut_ptr() as u64,
            repeat: 1,
            ctx_size_in: size(self.context.len()),
            ctx_size_out: size(self.after.len()),
            ctx_in: self.context.as_ptr() as u64,
            ctx_out: self.after.as_mut_ptr() as u64,
            ..Attributes::default()
        };
        if self.checksum_complete {
            attributes.flags = BPF_F_TEST_SKB_CHECKSUM_COMPLETE;
        }
        // SAFETY: all buffers outlive the call, and their correct sizes are passed.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_TEST_RUN,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((
            usize::try_from(attributes.data_size_out).expect("a length"),
            attributes.retval,
        ))
    }
}
