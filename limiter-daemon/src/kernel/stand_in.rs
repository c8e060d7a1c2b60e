// SPDX-License-Identifier: MIT OR Apache-2.0

//! A program that does nothing but tail-call another program. It is attached in place of the other
//! program while the link of the other program moves. A stand-in is needed because a TCX hook
//! rejects a program that is already attached to the hook (bpf_mprog_attach(), kernel/bpf/mprog.c).

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use super::sys::created;

/// The commands, types and flags (include/uapi/linux/bpf.h).
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_F_BEFORE: u32 = 1 << 3;

/// The name of the pin of the array that holds the other program. The pin exists while the stand-in
/// is in use. Without this pin, the kernel would empty the array if this process died
/// (prog_array_map_clear(), kernel/bpf/arraymap.c).
const PIN: &str = "stand_in";

#[repr(C)]
struct MapCreate {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct ObjPin {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
    /// The program or link next to which the new link is attached, and the expected revision. Both
    /// are 0, which means that they are not used.
    relative: [u64; 2],
}

/// Removes the pin [`PIN`], which a daemon leaves behind if it dies while it uses a stand-in. Call
/// this function when every link has its own program again.
pub(super) fn clear(directory: &Path) {
    let pin = directory.join(PIN);
    if let Err(error) = remove(&pin) {
        log::debug!("cannot remove {}: {error}", pin.display());
    }
}

/// A stand-in for a loaded program.
pub(super) struct StandIn {
    program: OwnedFd,
    _array: OwnedFd,
    directory: PathBuf,
}

impl StandIn {
    /// Loads a stand-in for `program`. The array stays pinned in `directory` until the stand-in is
    /// dropped.
    ///
    /// # Errors
    /// Returns an error if the kernel or the file system rejects an operation.
    pub(super) fn of(program: impl AsFd, directory: &Path) -> io::Result<Self> {
        let pin = directory.join(PIN);
        remove(&pin)?;
        let create = MapCreate {
            kind: BPF_MAP_TYPE_PROG_ARRAY,
            key: 4,
            value: 4,
            entries: 1,
            flags: 0,
        };
        let array = created(call(BPF_MAP_CREATE, &create)?)?;
        let (key, value) = (0u32, number(&program));
        let update = MapUpdate {
            map: number(&array),
            padding: 0,
            key: (&raw const key).expose_provenance() as u64,
            value: (&raw const value).expose_provenance() as u64,
            flags: 0,
        };
        call(BPF_MAP_UPDATE_ELEM, &update)?;
        pin_at(&array, &pin)?;
        let program = load(number(&array));
        if program.is_err() {
            remove(&pin)?;
        }
        Ok(Self {
            program: program?,
            _array: array,
            directory: directory.to_path_buf(),
        })
    }

    /// Attaches the stand-in before all other programs of a TCX hook, and pins the new link.
    ///
    /// # Errors
    /// Returns an error if the kernel or the file system rejects an operation.
    pub(super) fn put_first(
        &self,
        interface: u32,
        attach_type: u32,
        link_pin: &Path,
    ) -> io::Result<()> {
        let create = LinkCreate {
            program: number(&self.program),
            interface,
            attach_type,
            flags: BPF_F_BEFORE,
            relative: [0; 2],
        };
        let link = created(call(BPF_LINK_CREATE, &create)?)?;
        pin_at(&link, link_pin)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        clear(&self.directory);
    }
}

fn remove(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Loads the program `r2 = array; r3 = 0; tail_call(r1, r2, r3); r0 = TCX_NEXT; exit` (`struct
/// bpf_insn`), in which `array` is the descriptor of the array (`BPF_PSEUDO_MAP_FD`).
fn load(array: u32) -> io::Result<OwnedFd> {
    let code: [u64; 6] = [
        0x1218 | u64::from(array) << 32,
        0,
        0x03b7,
        0x85 | 12 << 32,
        0xb7 | 0xffff_ffff << 32,
        0x95,
    ];
    let load = ProgLoad {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        instructions: 6,
        code: code.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"limiter_standin\0",
    };
    created(call(BPF_PROG_LOAD, &load)?)
}

fn pin_at(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let pin = ObjPin {
        path: name.as_ptr().expose_provenance() as u64,
        fd: number(object),
        flags: 0,
    };
    call(BPF_OBJ_PIN, &pin).map(drop)
}

fn number(object: &impl AsFd) -> u32 {
    object.as_fd().as_raw_fd().cast_unsigned()
}

/// Calls bpf(2) with the part of `union bpf_attr` that the command reads.
fn call<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is borrowed for the call, and its size is passed, so the kernel reads nothing
    // past the end of `attr`. The pointers in `attr` come from `StandIn::of`, `load` and `pin_at`,
    // and point to local variables that live until this call returns. None of the commands writes
    // to these variables.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}
