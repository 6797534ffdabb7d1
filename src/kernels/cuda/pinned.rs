//! Memory of the host that a card copies to and from by itself, while the host goes on. Of other memory the
//! driver makes a copy first, and may wait for the card before it does.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, result};

use super::{Card, lock};

/// Words in such memory.
#[derive(Debug)]
pub(super) struct Pinned {
    context: Arc<CudaContext>,
    start: *mut u32,
    len: usize,
}

// SAFETY: it is plain memory, which belongs to whoever has this.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self> {
        context.bind_to_thread().w()?;
        // SAFETY: nobody reads it before a card or `Card::send` has written it.
        let start = unsafe { result::malloc_host(len * size_of::<u32>(), 0) }.w()?;
        // SAFETY: so much was allocated; any bits are words.
        unsafe { start.cast::<u32>().write_bytes(0, len) };
        Ok(Pinned { context: context.clone(), start: start.cast(), len })
    }

    fn words(&mut self) -> &mut [u32] {
        // SAFETY: it has `len` words, all of them written.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: it came from `malloc_host`, and no copy of a card is under way: see `Post`.
        let _ = unsafe { result::free_host(self.start.cast()) };
    }
}

/// What a card has of such memory.
#[derive(Debug, Default)]
pub(super) struct Post {
    free: Vec<Pinned>,
    /// What the card may yet have to read.
    sent: Vec<Pinned>,
    /// What it was sent before that, and when it has read it.
    earlier: Option<(CudaEvent, Vec<Pinned>)>,
}

/// Copies that the host sends before it waits for the card to have read those before.
const SENT_TOGETHER: usize = 64;

/// Words that a card will have copied to the host.
#[derive(Debug)]
pub struct Arriving {
    card: Arc<Card>,
    memory: Option<Pinned>,
    count: usize,
    /// What was sent before, which the card has read by then.
    sent: Vec<Pinned>,
    /// When they are there; `None` once somebody has waited for it.
    event: Option<CudaEvent>,
}

impl Card {
    /// Has the card take a copy of `words` when it comes to it: what was launched before finds what was there.
    /// The memory at `to` must hold them.
    pub(super) fn send(&self, words: &[u32], to: CUdeviceptr) -> Result<()> {
        self.check_not_recording()?;
        if words.is_empty() {
            return Ok(());
        }
        let mut memory = self.pinned(words.len())?;
        let from = &mut memory.words()[..words.len()];
        from.copy_from_slice(words);
        // SAFETY: callers have memory there; what is copied from stays as it is until the card has read it.
        let sent = unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) };
        let mut post = lock(&self.post);
        post.sent.push(memory);
        sent.w()?;
        if post.sent.len() >= SENT_TOGETHER {
            let event = self.stream.record_event(None).w()?;
            let sent = std::mem::take(&mut post.sent);
            if let Some((event, read)) = post.earlier.replace((event, sent)) {
                event.synchronize().w()?;
                post.free.extend(read);
            }
        }
        Ok(())
    }

    /// Has the card copy `count` words to the host when it has done what was launched before.
    pub(super) fn fetch(self: &Arc<Self>, from: CUdeviceptr, count: usize) -> Result<Arriving> {
        self.check_not_recording()?;
        let mut memory = self.pinned(count)?;
        let to = &mut memory.words()[..count];
        // SAFETY: callers have so many words there; nobody looks at what they are copied to before the event.
        let copied = unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) };
        let event = copied.w().and_then(|()| self.stream.record_event(None).w());
        let event = match event {
            Ok(event) => Some(event),
            Err(error) => {
                // The copy may be under way.
                lock(&self.post).sent.push(memory);
                return Err(error);
            }
        };
        let sent = std::mem::take(&mut lock(&self.post).sent);
        Ok(Arriving { card: self.clone(), memory: Some(memory), count, sent, event })
    }

    /// Has all memory back of which copies were sent: the host has waited for the card.
    pub(super) fn received(&self) {
        let mut post = lock(&self.post);
        let Post { free, sent, earlier } = &mut *post;
        free.append(sent);
        free.extend(earlier.take().into_iter().flat_map(|(_, read)| read));
    }

    /// Memory for so many words.
    fn pinned(&self, count: usize) -> Result<Pinned> {
        let context = self.stream.context();
        context.bind_to_thread().w()?;
        let free = &mut lock(&self.post).free;
        let enough = free.iter().enumerate().filter(|(_, memory)| memory.len >= count);
        match enough.min_by_key(|(_, memory)| memory.len).map(|(place, _)| place) {
            Some(place) => Ok(free.swap_remove(place)),
            None => Pinned::new(context, count.next_power_of_two().max(256)),
        }
    }
}

impl Arriving {
    /// Waits for the words, and hands them to `read`.
    ///
    /// # Errors
    /// What went wrong with them, or with what the card did before.
    pub fn wait<R>(mut self, read: impl FnOnce(&[u32]) -> R) -> Result<R> {
        if let Some(event) = self.event.take() {
            event.synchronize().w()?;
        }
        let memory = self.memory.as_mut().expect("it is there until it is dropped");
        Ok(read(&memory.words()[..self.count]))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Where this fails the card does nothing any more.
        let _ = self.event.take().map(|event| event.synchronize());
        let mut post = lock(&self.card.post);
        post.free.extend(self.memory.take());
        post.free.append(&mut self.sent);
    }
}
