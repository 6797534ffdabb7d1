//! The allocator, and memory for weights and vocabularies.
//!
//! mimalloc keeps what was given back, for the next training step, and rounds sizes up: both suit buffers that
//! come and go, and neither suits weights, which come once and stay. These are laid end to end in a range of
//! addresses of their own: no byte more than they need, in huge pages, and touched by nobody before they are
//! written. What is given back goes back to the system at once; its addresses serve again when nothing is left
//! in the range.
//!
//! mimalloc's own memory is in small pages, of which a few small blocks hold little more than they need;
//! [`prefer_huge_pages`] asks for huge ones where large buffers lie.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use mimalloc::MiMalloc;

/// Smaller blocks come from mimalloc.
const SMALLEST: usize = 1 << 16;
/// Addresses that are set aside; memory comes only where they are used.
const RANGE: usize = 1 << 38;
/// Blocks begin on pages of the system: memory goes back in whole ones.
const PAGE: usize = 1 << 12;

/// Blocks of training that huge pages suit.
const LARGE: usize = 1 << 20;

/// Whether this process trains.
static TRAINS: AtomicBool = AtomicBool::new(false);
/// Where the range begins; 0 until the first block, 1 where the system has none to give.
static START: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread asks for memory that stays.
    static LASTING: Cell<bool> = const { Cell::new(false) };
}

/// Calls `make`, whose large blocks of memory are taken to stay for long.
pub fn lasting<T>(make: impl FnOnce() -> T) -> T {
    /// Ends it also when `make` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            LASTING.set(self.0);
        }
    }
    let _restore = Restore(LASTING.replace(true));
    make()
}

/// Asks for huge pages where a block lies that is about to be used, unless it is small. What else lies in these
/// pages is of the same kind, or little: the blocks of one size lie together.
pub fn prefer_huge_pages(block: *mut u8, size: usize) {
    if size >= SMALLEST {
        system::prefer_huge_pages(block, size);
    }
}

/// Suits the allocator to training, from now on: large blocks come and go in every step.
///
/// They lie in huge pages, and mimalloc keeps what is given back for a minute, and not for a second, before
/// the system gets it: far longer than a step, whose next one asks for the same again. Fresh small pages would cost a
/// twentieth of a small step and half of a large one. A delay set by `MIMALLOC_PURGE_DELAY` stays.
pub fn suit_training() {
    /// `mi_option_purge_delay` of `mimalloc.h`, in milliseconds, and its default.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const DEFAULT: core::ffi::c_long = 1000;
    if TRAINS.swap(true, Relaxed) {
        return;
    }
    // SAFETY: the option is known to mimalloc, which reads and writes it as an atomic number.
    unsafe {
        if libmimalloc_sys::mi_option_get(PURGE_DELAY) == DEFAULT {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, 60 * DEFAULT);
        }
    }
}

/// A block of mimalloc, in huge pages if it is large and this process trains.
#[inline]
fn for_training(block: *mut u8, size: usize) -> *mut u8 {
    if size >= LARGE && TRAINS.load(Relaxed) && !block.is_null() {
        system::prefer_huge_pages(block, size);
    }
    block
}

/// What the whole crate allocates with.
pub struct Allocator;

// SAFETY: every block comes from mimalloc, or from `take`, which never gives an address twice; where it came
// from, its address says, and it goes back there.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= SMALLEST
            && let Some(block) = take(layout)
        {
            return block;
        }
        // SAFETY: the caller's promises are mimalloc's conditions (in all functions here).
        for_training(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= SMALLEST
            && let Some(block) = take(layout)
        {
            // Fresh from the system, which gives nothing but zeros.
            return block;
        }
        // SAFETY: as above.
        for_training(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() >= SMALLEST && is_ours(block) {
            give_back(block, layout.size());
            return;
        }
        // SAFETY: as above; the block is mimalloc's.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !(layout.size() >= SMALLEST && is_ours(block)) {
            // SAFETY: as above; the block is mimalloc's.
            return unsafe { MiMalloc.realloc(block, layout, new_size) };
        }
        // SAFETY: the caller vouches for the new size, with the alignment of the old.
        let new =
            unsafe { MiMalloc.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both blocks have so many bytes, and they are two.
            unsafe { block.copy_to_nonoverlapping(new, layout.size().min(new_size)) };
            give_back(block, layout.size());
        }
        new
    }
}

/// Whether a block lies in the range.
#[inline]
fn is_ours(block: *mut u8) -> bool {
    let start = START.load(Relaxed);
    start > 1 && block.addr().wrapping_sub(start) < RANGE
}

/// A block of the range, where this thread asks for such memory and there is some.
#[inline]
fn take(layout: Layout) -> Option<*mut u8> {
    // While a thread ends there is nothing to ask.
    if !LASTING.try_with(Cell::get).unwrap_or(false) || layout.align() > PAGE {
        return None;
    }
    system::take(layout.size().checked_next_multiple_of(PAGE)?)
}

fn give_back(block: *mut u8, size: usize) {
    system::give_back(block, size.next_multiple_of(PAGE));
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod system {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::{AcqRel, Acquire};

    use super::*;

    /// How much of the range is used, in pages (below [`BLOCK`]), and how many blocks live in it (multiples of
    /// it). Both change at once.
    static USED: AtomicU64 = AtomicU64::new(0);
    const BLOCK: u64 = 1 << 32;
    const HUGE_PAGE: usize = 1 << 21;

    /// `size` bytes, whole pages.
    pub(super) fn take(size: usize) -> Option<*mut u8> {
        let start = start()?;
        let pages = u64::try_from(size / PAGE).ok()?;
        let add = |used: u64| {
            let enough = used % BLOCK + pages <= (RANGE / PAGE) as u64;
            enough.then_some(used + BLOCK + pages)
        };
        let used = USED.fetch_update(AcqRel, Acquire, add).ok()?;
        Some((start as *mut u8).wrapping_add((used % BLOCK) as usize * PAGE))
    }

    /// Pages of the range that nobody uses any more: they are zeros again, and take no memory.
    pub(super) fn give_back(block: *mut u8, size: usize) {
        // SAFETY: the pages were given to one owner, who gives them back.
        if unsafe { libc::madvise(block.cast(), size, libc::MADV_DONTNEED) } != 0 {
            // Locked into memory: they stay as they are, and count as used.
            return;
        }
        let remove = |used: u64| Some(if used < 2 * BLOCK { 0 } else { used - BLOCK });
        let _ = USED.fetch_update(AcqRel, Acquire, remove);
    }

    /// See [`prefer_huge_pages`](super::prefer_huge_pages).
    pub(super) fn prefer_huge_pages(block: *mut u8, size: usize) {
        let start = block.addr() & !(HUGE_PAGE - 1);
        let size = (block.addr() + size).next_multiple_of(HUGE_PAGE) - start;
        // SAFETY: advice, which changes nothing that can be read. Where it cannot be taken, pages stay small.
        unsafe { libc::madvise(start as *mut libc::c_void, size, libc::MADV_HUGEPAGE) };
    }

    /// Where the range begins, set aside at the first call.
    fn start() -> Option<usize> {
        match START.load(Relaxed) {
            0 => {}
            1 => return None,
            start => return Some(start),
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the system's choice touches no other.
        let range = unsafe { libc::mmap(std::ptr::null_mut(), RANGE, protection, flags, -1, 0) };
        let found = if range == libc::MAP_FAILED { 1 } else { range.addr() };
        if found > 1 {
            // SAFETY: advice on our own mapping, which changes nothing that can be read.
            unsafe { libc::madvise(range, RANGE, libc::MADV_HUGEPAGE) };
        }
        match START.compare_exchange(0, found, Relaxed, Relaxed) {
            Ok(_) => (found > 1).then_some(found),
            Err(other) => {
                if found > 1 {
                    // SAFETY: another thread was faster; nobody has seen this mapping.
                    unsafe { libc::munmap(range, RANGE) };
                }
                (other > 1).then_some(other)
            }
        }
    }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod system {
    pub(super) fn take(_: usize) -> Option<*mut u8> {
        None
    }

    pub(super) fn give_back(_: *mut u8, _: usize) {}

    pub(super) fn prefer_huge_pages(_: *mut u8, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        let unset = std::env::var_os("MIMALLOC_PURGE_DELAY").is_none();
        suit_training();
        // SAFETY: as above.
        let delay = unsafe { libmimalloc_sys::mi_option_get(15) };
        assert_eq!(delay == 60_000, unset, "{delay}");
    }

    #[test]
    fn lasting_blocks_are_zero_apart_and_may_grow() {
        let sizes = [SMALLEST - 1, SMALLEST, SMALLEST + 1, 3 * SMALLEST + 5];
        for round in 0..3_u8 {
            let mut blocks: Vec<Vec<u8>> =
                sizes.iter().map(|size| lasting(|| vec![0; *size])).collect();
            for (i, block) in blocks.iter_mut().enumerate() {
                assert!(block.iter().all(|byte| *byte == 0), "round {round}");
                assert_eq!(
                    is_ours(block.as_mut_ptr()),
                    block.len() >= SMALLEST && START.load(Relaxed) > 1
                );
                block.fill(i as u8 + 1);
            }
            for (i, block) in blocks.iter_mut().enumerate() {
                block.push(77);
                let (last, all) = block.split_last().unwrap();
                assert!(*last == 77 && all.iter().all(|byte| *byte == i as u8 + 1));
                block.truncate(3);
                block.shrink_to_fit();
                assert_eq!(**block, [i as u8 + 1; 3]);
            }
        }
        assert!(!is_ours(vec![0_u8; SMALLEST].as_mut_ptr()), "others are mimalloc's");
    }
}
