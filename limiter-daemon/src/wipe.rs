// SPDX-License-Identifier: MIT OR Apache-2.0

//! An allocator that wipes memory when it is freed.
//!
//! A raw key passes through the buffers of libraries (HTTP on the control socket, JSON, CSV), which
//! free their buffers without wiping them. This allocator therefore wipes all memory that is freed.
//! As a result, no core dump, swap space or debugger shows a key that is no longer in use.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
};

/// The system allocator, with the addition that memory is wiped before it is freed.
pub struct WipingAllocator;

// SAFETY: all memory comes from `System` and is returned to it with the layout that it was
// allocated with, so the guarantees of `System` hold for this allocator too. `wipe` only writes to
// a block that its owner is freeing.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises that the layout has a size other than 0.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises that the layout has a size other than 0.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller promises that `memory` was allocated here with `layout` and is not
        // used any more, so its `layout.size()` bytes can be written.
        unsafe { wipe(memory, layout.size()) };
        // SAFETY: the caller promises that `memory` was allocated here with `layout`, and all
        // memory that is allocated here comes from `System`.
        unsafe { System.dealloc(memory, layout) }
    }

    /// Always allocates a new block, and wipes the old one. The `realloc` of the system would not
    /// wipe the old block when it moves the bytes.
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not exceed
        // `isize::MAX`, and the alignment comes from a valid layout.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the caller promises that `size` is not 0.
        let moved = unsafe { System.alloc(larger) };
        if !moved.is_null() {
            // SAFETY: the caller promises that `memory` has `layout.size()` bytes, `System` has
            // just returned `size` bytes at `moved`, and a new block overlaps no other block.
            unsafe { ptr::copy_nonoverlapping(memory, moved, layout.size().min(size)) };
            // SAFETY: the caller promises that `memory` was allocated here with `layout`, and does
            // not use it after a call that succeeds.
            unsafe { self.dealloc(memory, layout) };
        }
        moved
    }
}

/// The value in bytes to which two thresholds of glibc are set. A block of at least this size gets
/// a mapping of its own, and the heap is trimmed when at least this much space is free at its end.
#[cfg(target_env = "gnu")]
const THRESHOLD: libc::c_int = 64 << 10;

/// Makes glibc return free memory to the kernel. This matters because an import needs much memory
/// for a while, and `realloc` above leaves a free block behind each time a block grows. This
/// function fixes two thresholds that glibc would otherwise raise while the program runs, and makes
/// all threads share one heap (mallopt(3)).
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, THRESHOLD),
        (libc::M_TRIM_THRESHOLD, THRESHOLD),
    ] {
        // SAFETY: mallopt(3) has no precondition. It takes two numbers and no pointer.
        let set = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(set, 1, "mallopt knows {parameter}");
    }
}

/// Writes zeros to `size` bytes. The writes are volatile, so the compiler keeps them although the
/// bytes are not read afterwards.
///
/// # Safety
/// `memory` must be valid for writes of `size` bytes.
unsafe fn wipe(memory: *mut u8, size: usize) {
    let head = memory.align_offset(align_of::<u64>()).min(size);
    let words = (size - head) / size_of::<u64>();
    let tail = head + words * size_of::<u64>();
    for at in (0..head).chain(tail..size) {
        // SAFETY: the caller promises that `size` bytes can be written, and `at` is less than
        // `size`.
        unsafe { memory.add(at).write_volatile(0) };
    }
    for word in 0..words {
        // SAFETY: the caller promises that `size` bytes can be written. The 64-bit word starts at
        // or after `head`, from which on words are aligned, and ends at or before `tail`, which is
        // at most `size`.
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
    fn exactly_the_bytes_that_are_freed_are_wiped() {
        for offset in 0..9 {
            for size in 0..40 {
                let mut memory = [0xAAu8; 64];
                // SAFETY: the array has 64 bytes, and at most 48 are used.
                unsafe { wipe(memory.as_mut_ptr().add(offset), size) };
                for (at, byte) in memory.iter().enumerate() {
                    let wiped = (offset..offset + size).contains(&at);
                    assert_eq!(*byte == 0, wiped, "{offset} {size} {at}");
                }
            }
        }
    }

    #[test]
    fn a_block_that_grows_or_shrinks_keeps_its_content() {
        for (from, to) in [(10usize, 1000usize), (1000, 10), (8, 8)] {
            let layout = Layout::from_size_align(from, 16).unwrap();
            // SAFETY: no size is 0, and each block is used within its size and freed with the
            // layout that it was allocated with.
            unsafe {
                let memory = WipingAllocator.alloc(layout);
                memory.write_bytes(7, from);
                let moved = WipingAllocator.realloc(memory, layout, to);
                let kept = std::slice::from_raw_parts(moved, from.min(to));
                assert!(kept.iter().all(|byte| *byte == 7));
                assert_eq!(moved.align_offset(16), 0);
                WipingAllocator.dealloc(moved, Layout::from_size_align(to, 16).unwrap());
            }
        }
    }
}
