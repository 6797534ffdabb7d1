//! Buffers for results, kept by the thread that drops them, so that a loop which asks for the same
//! sizes again and again allocates nothing after its first turn. Fresh memory costs more than the
//! call: the system clears each page when it is first touched.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::memory::AlignedBuffer;

/// What a thread keeps after [`trim`], in floats: 32 MiB.
const KEPT_LEN: usize = 8 << 20;

thread_local! {
    static FREE: RefCell<Vec<AlignedBuffer>> = const { RefCell::new(Vec::new()) };
}

/// Floats that start on a cache line and go back to the pool when they are dropped.
#[derive(Debug)]
pub struct Buffer {
    floats: AlignedBuffer,
    len: usize,
}

/// `len` floats of unspecified content.
pub fn buffer(len: usize) -> Buffer {
    let kept = FREE.with_borrow_mut(|free| {
        let fits = |(_, buffer): &(usize, &AlignedBuffer)| {
            // A far larger one stays for those who need it.
            buffer.len() >= len && buffer.len() / 2 <= len
        };
        let best = free.iter().enumerate().filter(fits).min_by_key(|(_, buffer)| buffer.len())?.0;
        Some(free.swap_remove(best))
    });
    let floats = kept.unwrap_or_else(|| AlignedBuffer::zeroed(len));
    #[cfg_attr(not(test), allow(unused_mut))]
    let mut buffer = Buffer { floats, len };
    // Whoever reads what it did not write shall be found out.
    #[cfg(test)]
    buffer.fill(f32::NAN);
    buffer
}

/// Gives back what this thread keeps beyond 32 MiB, the largest buffers first.
pub fn trim() {
    FREE.with_borrow_mut(|free| {
        free.sort_unstable_by_key(|buffer| buffer.len());
        let mut total: usize = free.iter().map(|buffer| buffer.len()).sum();
        while total > KEPT_LEN {
            total -= free.pop().map_or(total, |buffer| buffer.len());
        }
    });
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let floats = std::mem::take(&mut self.floats);
        if floats.is_empty() {
            return;
        }
        // While the thread ends there is nobody to keep it for.
        let _ = FREE.try_with(|free| free.borrow_mut().push(floats));
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.floats[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.floats[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_serves_the_next_of_about_its_size() {
        std::thread::spawn(|| {
            let address = buffer(1000).as_ptr().addr();
            let (again, other) = (buffer(600), buffer(600));
            assert_eq!((again.len(), again.as_ptr().addr()), (600, address));
            assert_ne!(other.as_ptr().addr(), address);
            drop((again, other));
            assert_ne!(buffer(100).as_ptr().addr(), address);
            assert_eq!(buffer(900).as_ptr().addr(), address);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn trimming_gives_the_largest_back() {
        std::thread::spawn(|| {
            let loans = [KEPT_LEN, KEPT_LEN / 2, KEPT_LEN / 4].map(buffer);
            drop(loans);
            trim();
            let mut lens =
                FREE.with_borrow(|free| free.iter().map(|b| b.len()).collect::<Vec<_>>());
            lens.sort_unstable();
            assert_eq!(lens, [KEPT_LEN / 4, KEPT_LEN / 2]);
        })
        .join()
        .unwrap();
    }
}
