//! The calls of bpf(2) that aya does not offer, and the clock that the programs read.

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

/// Commands (`include/uapi/linux/bpf.h`, `enum bpf_cmd`).
const BPF_OBJ_GET: libc::c_long = 7;
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

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` reads and writes, for TCX.
#[repr(C)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    /// Of flags and links, which are not asked for, and the revision.
    others: [u64; 4],
}

/// The most programs of a TCX hook (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const MPROG_MAX: usize = 64;

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info`, of a TCX link.
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
        // SAFETY: `self` outlives the call, and its size is passed. What it points to is filled in
        // below: slices of at least `count` keys and values, whose sizes aya has held against the
        // map's.
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

/// Enters or replaces entries. Says how many were, from the first on, and why not all.
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
        // Errors that come before the first entry leave `count` as it was
        // (kernel/bpf/syscall.c, generic_map_update_batch).
        Err(error) if count >= entries => (0, Err(error)),
        Err(error) => (count, Err(error)),
    }
}

/// Where [`lookup_batch`] goes on in a hash map: the number of a bucket.
pub(super) type Bucket = u32;

/// What [`lookup_batch`] found.
pub(super) struct Found {
    /// So many entries.
    pub(super) count: usize,
    /// Where to go on; `None` at the end.
    pub(super) next: Option<Bucket>,
}

/// Reads entries, bucket by bucket from `from` on (`None` is the first). ENOSPC says that a bucket
/// has more of them than fit.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    from: Option<Bucket>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Found> {
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
        Ok(()) => Ok(Found {
            count,
            next: Some(next),
        }),
        // The end; the last entries come with it (kernel/bpf/hashtab.c,
        // __htab_map_lookup_and_delete_batch).
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Found { count, next: None }),
        Err(error) => Err(error),
    }
}

/// CLOCK_BOOTTIME, ns: what `bpf_ktime_get_boot_ns` gives the programs.
pub fn boot_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid; the clock is always there (clock_gettime(2)).
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Returns when every program has ended that runs now: programs run in read-side critical sections of RCU,
/// and membarrier(2) waits for those (`MEMBARRIER_CMD_GLOBAL`, kernel/sched/membarrier.c). With a single
/// CPU it does not need to: none of the programs runs then.
pub(super) fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: takes numbers only.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if waited < 0 {
        // Kernels with CPUs that know no ticks have no such call; a program takes microseconds.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet {
        pathname: name.as_ptr().addr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: `attr` and the path it points to outlive the call, and its size is passed.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const attr,
            size_of::<ObjGet>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The ids of the programs on a TCX hook of an interface. As aya's `query_tcx`, but that also opens each
/// program, which takes more than CAP_NET_ADMIN.
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
    // SAFETY: `attr` and the ids it points to outlive the call, and their sizes are passed.
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
            // Nothing was ever attached.
            Some(libc::ENOENT) => Ok(Vec::new()),
            _ => Err(error),
        };
    }
    ids.truncate(attr.count as usize);
    Ok(ids)
}

/// The index of the interface that a TCX link is on; 0 when that has gone, or the link was taken off.
pub(super) fn link_interface(link: impl AsFd) -> io::Result<u32> {
    let mut info = TcxInfo::default();
    let attr = GetInfo {
        bpf_fd: link.as_fd().as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<TcxInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: `attr` and what it points to outlive the call, and their sizes are passed.
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
        Ok(info.ifindex)
    }
}

/// Takes a link off its hook now. Unpinning alone leaves it there until the kernel gets round to
/// freeing the inode (`bpf_free_inode`, after an RCU grace period).
pub(super) fn detach_link(link: impl AsFd) -> io::Result<()> {
    let attr = LinkDetach {
        link_fd: link.as_fd().as_raw_fd().cast_unsigned(),
    };
    // SAFETY: `attr` outlives the call, and its size is passed.
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
