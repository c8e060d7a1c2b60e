// SPDX-License-Identifier: MIT OR Apache-2.0

//! Calls the commands of bpf(2) that aya does not offer, and reads the clocks that the programs
//! use.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, MapData},
};
use nix::time::{ClockId, clock_gettime};

/// The commands (`include/uapi/linux/bpf.h`, `enum bpf_cmd`).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` reads and writes for a TCX hook.
#[repr(C)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    /// `prog_attach_flags`, `link_ids` and `link_attach_flags`, which are not requested, and
    /// `revision`.
    others: [u64; 4],
}

/// The maximum number of programs on a TCX hook (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const MPROG_MAX: usize = 64;

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info` for a TCX link.
#[repr(C)]
#[derive(Default)]
struct TcxInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// The beginning of `struct bpf_prog_info`, up to and including the program's name.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    before: [u32; 16],
    name: [u8; 16],
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The part of `union bpf_attr` that the `BPF_MAP_*_BATCH` commands read.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl Batch {
    fn call(&mut self, command: libc::c_long) -> io::Result<()> {
        // SAFETY: `self` is borrowed for the call, and its size is passed. `update_batch` and
        // `lookup_batch` build `self`, with pointers to slices that they borrow and to their own
        // variables, all of which live until the call returns. `count` is at most the length of
        // both slices, and aya's `HashMap` has checked that the sizes of `K` and `V` are those of
        // the map.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                std::ptr::from_mut(self),
                size_of::<Self>(),
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// Inserts or replaces entries in order. Returns the number of entries that were written, and the
/// error that stopped the call, if any.
pub(super) fn update_batch<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    keys: &[K],
    values: &[V],
) -> (usize, io::Result<()>) {
    let entries = keys.len().min(values.len());
    let mut attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count: u32::try_from(entries).unwrap_or(u32::MAX),
        map_fd: map.map().fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    let done = attr.call(BPF_MAP_UPDATE_BATCH);
    let count = attr.count as usize;
    match done {
        Ok(()) => (count, Ok(())),
        // If the kernel rejects the first entry, it leaves the number of all entries in `count`
        // (kernel/bpf/syscall.c, generic_map_update_batch).
        Err(error) if count >= entries => (0, Err(error)),
        Err(error) => (count, Err(error)),
    }
}

/// The index of a bucket in a hash map, from which [`lookup_batch`] continues.
pub(super) type Bucket = u32;

/// The result of [`lookup_batch`].
pub(super) struct BatchRead {
    /// The number of entries that were read.
    pub(super) count: usize,
    /// The bucket at which to continue, or `None` after the last bucket.
    pub(super) next: Option<Bucket>,
}

/// Reads the entries of whole buckets, beginning with the bucket `from`, or with the first bucket
/// if `from` is `None`. The error ENOSPC means that a bucket has more entries than fit into `keys`
/// and `values`.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    from: Option<Bucket>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<BatchRead> {
    let mut next: Bucket = 0;
    let mut attr = Batch {
        in_batch: from.as_ref().map_or(0, |from| {
            std::ptr::from_ref(from).expose_provenance() as u64
        }),
        out_batch: (&raw mut next).expose_provenance() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX),
        map_fd: map.map().fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    let done = attr.call(BPF_MAP_LOOKUP_BATCH);
    let count = attr.count as usize;
    match done {
        Ok(()) => Ok(BatchRead {
            count,
            next: Some(next),
        }),
        // The kernel returns ENOENT together with the last entries (kernel/bpf/hashtab.c,
        // __htab_map_lookup_and_delete_batch).
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(BatchRead { count, next: None })
        }
        Err(error) => Err(error),
    }
}

/// Returns CLOCK_BOOTTIME in ns, which the programs read with `bpf_ktime_get_boot_ns`.
pub fn boot_ns() -> u64 {
    clock_ns(ClockId::CLOCK_BOOTTIME)
}

/// Returns CLOCK_MONOTONIC_COARSE in ns, which the programs read with `bpf_ktime_get_coarse_ns`.
pub(super) fn coarse_ns() -> u64 {
    clock_ns(ClockId::CLOCK_MONOTONIC_COARSE)
}

fn clock_ns(clock: ClockId) -> u64 {
    // Both clocks always exist (clock_gettime(2)).
    let time = clock_gettime(clock).map(Duration::from);
    let ns = time.unwrap_or_default().as_nanos();
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Waits until all programs that are running now have ended. Programs run in read-side critical
/// sections of RCU, and membarrier(2) waits until those have ended (`MEMBARRIER_CMD_GLOBAL`,
/// kernel/sched/membarrier.c). On a host with a single CPU, membarrier(2) returns at once, because
/// no program can run at the same time as this process.
pub(super) fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: this system call takes only numbers, and no pointers.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if waited < 0 {
        // A kernel with `nohz_full` CPUs rejects this command. The sleep that replaces it is long
        // enough, because a program runs only for microseconds.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Takes ownership of a descriptor that a command of bpf(2) has created, or returns the error of
/// the command.
pub(super) fn created(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the callers pass the result of a command that creates a descriptor, and nothing else
    // in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet {
        pathname: name.as_ptr().addr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: `attr` and `name`, which it points to, are local variables that live until the call
    // returns. The size of `attr` is passed, and `CString` ends with a NUL.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const attr,
            size_of::<ObjGet>(),
        )
    };
    created(fd)
}

/// Returns the ids of the programs on a TCX hook of an interface. In contrast to `query_tcx` of
/// aya, this function does not open the programs, because opening them requires more than
/// CAP_NET_ADMIN.
pub(super) fn query_tcx(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; MPROG_MAX];
    let mut attr = ProgQuery {
        target_ifindex: ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        count: u32::try_from(ids.len()).unwrap_or(0),
        reserved: 0,
        others: [0; 4],
    };
    // SAFETY: `attr` and `ids`, which it points to, are local variables that live until the call
    // returns. The size of `attr` is passed, and `count` is the length of `ids`.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut attr,
            size_of::<ProgQuery>(),
        )
    };
    if done < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // No program has ever been attached to this hook.
            Some(libc::ENOENT) => Ok(Vec::new()),
            _ => Err(error),
        };
    }
    ids.truncate(attr.count as usize);
    Ok(ids)
}

/// Returns the kernel's description of an object, truncated to the size of `T`.
fn object_info<T: Default>(object: impl AsFd) -> io::Result<T> {
    let mut info = T::default();
    let attr = GetInfo {
        bpf_fd: object.as_fd().as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: `attr` and `info`, which it points to, are local variables that live until the call
    // returns, and their sizes are passed. The two callers pass structs of integers, for which any
    // bytes are valid.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attr,
            size_of::<GetInfo>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(info)
    }
}

/// The interface of a TCX link, and the program on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcxLink {
    /// The index of the interface, or 0 if the interface is gone or the link has been detached.
    pub(super) interface: u32,
    /// The id of the program.
    pub(super) program: u32,
}

/// Returns the interface of a TCX link, and the program on the link.
pub(super) fn tcx_link(link: impl AsFd) -> io::Result<TcxLink> {
    let info: TcxInfo = object_info(link)?;
    Ok(TcxLink {
        interface: info.ifindex,
        program: info.prog_id,
    })
}

/// Returns the name of the program with the id `id`. The kernel keeps the first 15 bytes of a name.
/// The caller needs CAP_SYS_ADMIN.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    // The fields are the id of the program, and two fields that this command does not use
    // (`next_id` and the flags).
    let attr = [id, 0, 0];
    // SAFETY: `attr` is a local variable that lives until the call returns, and its size is passed.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_GET_FD_BY_ID,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    let program = created(fd)?;
    let info: ProgramInfo = object_info(program)?;
    let name = info.name.iter().take_while(|byte| **byte != 0);
    let name: Vec<u8> = name.copied().collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Detaches a link from its hook at once. If the link were only unpinned, it would stay attached
/// until the kernel frees the inode of the pin (`bpf_free_inode`, after an RCU grace period).
pub(super) fn detach_link(link: impl AsFd) -> io::Result<()> {
    let attr = LinkDetach {
        link_fd: link.as_fd().as_raw_fd().cast_unsigned(),
    };
    // SAFETY: `attr` is a local variable that lives until the call returns, and its size is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw const attr,
            size_of::<LinkDetach>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
