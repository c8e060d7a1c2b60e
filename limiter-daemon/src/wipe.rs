//! Memory that is given back holds nothing any more.
//!
//! A raw key passes through buffers of libraries (the control socket's HTTP, JSON, CSV), which
//! give them back as they are. So the allocator wipes whatever it is given back: what is not in
//! use holds no key, and neither do a core dump, the swap or a debugger find one there.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
};

/// The system's allocator, with all that is given back wiped.
pub struct Wiping;

// SAFETY: memory comes from `System` and goes back to it with the layout that it came with, which
// is all that the trait asks for; in between it is the caller's.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back `layout.size()` bytes that it has used so far.
        unsafe { wipe(memory, layout.size()) };
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    /// Always to another place: the system's own would leave a copy behind when it moves.
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, fits; and the
        // alignment is one already.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `size` is not 0, as the caller promises.
        let moved = unsafe { System.alloc(larger) };
        if !moved.is_null() {
            // SAFETY: both are at least that long, and the new one overlaps nothing in use.
            unsafe { ptr::copy_nonoverlapping(memory, moved, layout.size().min(size)) };
            // SAFETY: the caller gives `memory` up when this succeeds.
            unsafe { self.dealloc(memory, layout) };
        }
        moved
    }
}

/// Bytes from which on memory is a mapping of its own, and how much may be left over at the end of the
/// heap before it is cut.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 64 << 10;

/// Has glibc return what is not in use to the kernel: an import takes a lot for a while, and always to
/// another place when something grows. By itself glibc raises these bounds with what it sees, and has
/// a heap for each thread (mallopt(3)).
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
    ] {
        // SAFETY: takes no memory of ours, and sets one number of the allocator's.
        let set = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(set, 1, "mallopt knows {parameter}");
    }
}

/// Writes zeros over `size` bytes, in a way that the compiler must not leave out although nobody
/// reads them again.
///
/// # Safety
/// `memory` is valid for writes of `size` bytes.
unsafe fn wipe(memory: *mut u8, size: usize) {
    let head = memory.align_offset(align_of::<u64>()).min(size);
    let words = (size - head) / size_of::<u64>();
    let tail = head + words * size_of::<u64>();
    for at in (0..head).chain(tail..size) {
        // SAFETY: `at` is below `size`.
        unsafe { memory.add(at).write_volatile(0) };
    }
    for word in 0..words {
        // SAFETY: the word lies between `head`, where words are aligned, and `tail`.
        unsafe {
            memory
                .add(head + word * size_of::<u64>())
                .cast::<u64>()
                .write_volatile(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_what_is_given_back_is_wiped() {
        for offset in 0..9 {
            for size in 0..40 {
                let mut memory = [0xAAu8; 64];
                // SAFETY: at most 48 of 64 bytes.
                unsafe { wipe(memory.as_mut_ptr().add(offset), size) };
                for (at, byte) in memory.iter().enumerate() {
                    let wiped = (offset..offset + size).contains(&at);
                    assert_eq!(*byte == 0, wiped, "{offset} {size} {at}");
                }
            }
        }
    }

    #[test]
    fn what_grows_or_shrinks_keeps_its_content() {
        for (from, to) in [(10usize, 1000usize), (1000, 10), (8, 8)] {
            let layout = Layout::from_size_align(from, 16).unwrap();
            // SAFETY: every pointer is used and given back with the layout that it came with,
            // within its size, and none of the sizes is 0.
            unsafe {
                let memory = Wiping.alloc(layout);
                memory.write_bytes(7, from);
                let moved = Wiping.realloc(memory, layout, to);
                let kept = std::slice::from_raw_parts(moved, from.min(to));
                assert!(kept.iter().all(|byte| *byte == 7));
                assert_eq!(moved.align_offset(16), 0);
                Wiping.dealloc(moved, Layout::from_size_align(to, 16).unwrap());
            }
        }
    }
}
