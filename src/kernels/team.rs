//! The one set of worker threads. [`run`] splits a kernel into parts; the caller works too, and
//! whoever is free claims the next part, so that a worker the system has put aside holds up one part
//! at most.
//!
//! How a region runs: the caller writes the job, then the word `next_part | parts`. A worker claims
//! a part by raising `next_part` with a compare-exchange and only then reads the job, which cannot
//! change before every claimed part is done. Nobody waits for a worker that has claimed nothing, so
//! more threads than cores cost little.
//!
//! Waiting: a region costs 0.1 us while the workers spin and some 30 us when they must be woken.
//! While a [`session`] is open they spin, giving way to other threads after a while; outside one
//! they spin for a moment and then sleep.
//!
//! Several callers at once: each has a session open, and each open session is a thread that works, so that
//! many fewer workers are wanted; the others sleep. One caller at a time has the team, the others run
//! their parts themselves; no one waits for anyone, and no core has two threads that spin. So two callers
//! on two cores have one each.
//!
//! After `fork()` the child has no workers: a handler run in the child takes the old team away
//! untouched (whatever locks it held), and the child's first region makes another.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};

/// The variable that sets the number of threads.
const VARIABLE: &str = "BART_FAST_NUM_THREADS";
/// More threads than any machine we know has cores; a larger wish is a mistake.
pub const MOST_THREADS: usize = 1024;
/// Pauses (some 10 ns each) before a waiting thread gives way to others.
const SPINS_BEFORE_YIELD: u32 = 2_000;
/// The same where there are more threads than cores: whoever is waited for may need this core.
const SPINS_BEFORE_YIELD_CROWDED: u32 = 32;
/// Turns of giving way, outside a session, before a worker sleeps.
const YIELDS_BEFORE_SLEEP: u32 = 4;

/// The number of threads wanted; 0 until someone asks.
static THREADS: AtomicUsize = AtomicUsize::new(0);
/// The team of this process; null until the first region.
static TEAM: AtomicPtr<Team> = AtomicPtr::new(null_mut());

thread_local! {
    /// Whether this thread is inside a part: a nested region runs where it is.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Sessions that this thread has open: the first counts.
    static OWN_SESSIONS: Cell<usize> = const { Cell::new(0) };
}

/// What all parts call, as a plain pointer: the caller's borrow outlives the region.
type Job = *const (dyn Fn(usize) + Sync);

/// What callers and workers share. Teams are never freed: a worker may look at any time.
struct Team {
    /// `next_part << 32 | parts`: work is left while the first is below the second.
    word: AtomicU64,
    /// Parts of the region that are not done.
    pending: AtomicUsize,
    /// The region's job; written only by the owner while nothing is pending.
    job: UnsafeCell<Option<Job>>,
    /// Whether a caller owns the team.
    busy: AtomicBool,
    /// Threads that have a session open: workers spin while there are any.
    sessions: AtomicUsize,
    /// Workers started so far; see `wanted`.
    workers: AtomicUsize,
    /// Workers about to sleep or asleep.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    /// Calls those who may be of use; `dismissed` those whom a smaller number of threads sent away.
    wake: Condvar,
    dismissed: Condvar,
    /// The first panic of a region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Cores this process may use.
    cores: usize,
}

// SAFETY: `job` is the only field that is not `Sync` by itself. It is written by the one owner
// (`busy`) while `pending` is 0, and read only by threads holding a claimed part, which is pending;
// the release store of `word` and the acquiring claim order the write before the read.
unsafe impl Sync for Team {}

/// Number of threads a region may use, the caller included.
pub fn num_threads() -> usize {
    match THREADS.load(Relaxed) {
        0 => {
            // `configure` reports an unusable variable; without that call it counts as unset.
            let threads = from_environment().ok().flatten().unwrap_or_else(cores);
            // Another thread may have set a number meanwhile: that one stays.
            match THREADS.compare_exchange(0, threads, Relaxed, Relaxed) {
                Ok(_) => threads,
                Err(set) => set,
            }
        }
        threads => threads,
    }
}

/// Sets the number of threads from the next region on; allowed at any time, from any thread. Values
/// outside 1..=[`MOST_THREADS`] are moved to the nearest end. Results do not depend on it.
pub fn set_num_threads(threads: usize) {
    THREADS.store(threads.clamp(1, MOST_THREADS), Relaxed);
    let team = TEAM.load(Acquire);
    if !team.is_null() {
        // SAFETY: a pointer stored in `TEAM` comes from a box that is never freed.
        unsafe { &*team }.call_the_roll();
    }
}

/// Reads `BART_FAST_NUM_THREADS` now.
///
/// # Errors
/// `Argument` if the variable is not a whole number in 1..=1024.
pub fn configure() -> Result<()> {
    if let Some(threads) = from_environment()? {
        set_num_threads(threads);
    }
    Ok(())
}

/// The number the environment asks for, if it does.
fn from_environment() -> Result<Option<usize>> {
    match std::env::var_os(VARIABLE) {
        Some(text) if !text.is_empty() => parse_threads(&text.to_string_lossy()).map(Some),
        _ => Ok(None),
    }
}

/// A number of threads as a user writes it.
fn parse_threads(text: &str) -> Result<usize> {
    match text.trim().parse() {
        Ok(threads) if (1..=MOST_THREADS).contains(&threads) => Ok(threads),
        _ => Err(Error::argument(
            VARIABLE,
            format!(
                "received `{text}`; allowed is a whole number from 1 to {MOST_THREADS}\n\
                 hint: unset {VARIABLE} to use every core this process may use"
            ),
        )),
    }
}

/// Cores this process may use (affinity and cgroup limits count).
fn cores() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS))
}

/// While it lives, workers wait awake: open one around work of many regions. It stays on its thread.
#[must_use = "the session ends when this value is dropped"]
pub struct Session {
    team: &'static Team,
    /// Not to be sent: the thread counts what it has open.
    stays: PhantomData<*const ()>,
}

/// Opens a session: workers are awake from now until the returned value is dropped.
pub fn session() -> Session {
    let team = team();
    if OWN_SESSIONS.replace(OWN_SESSIONS.get() + 1) == 0 {
        team.sessions.fetch_add(1, SeqCst);
        team.start_workers(num_threads());
        team.wake_sleepers();
    }
    Session { team, stays: PhantomData }
}

impl Drop for Session {
    fn drop(&mut self) {
        OWN_SESSIONS.set(OWN_SESSIONS.get() - 1);
        if OWN_SESSIONS.get() == 0 && self.team.sessions.fetch_sub(1, SeqCst) > 1 {
            // Other callers may have a worker more now. In a forked child the team is of the parent.
            if std::ptr::eq(TEAM.load(Acquire), self.team) {
                self.team.call_the_roll();
            }
        }
    }
}

/// Calls `job(i)` once for every `i` in `0..parts` and returns when all calls have. Parts run on
/// this thread and on the team, in any order; inside a part, or while another thread has the team,
/// all run on this thread. A panic in a part is raised here once all parts are done.
pub fn run(parts: usize, job: &(dyn Fn(usize) + Sync)) {
    let threads = num_threads();
    if parts <= 1 || threads == 1 || INSIDE.get() {
        (0..parts).for_each(job);
        return;
    }
    let team = team();
    if !team.wanted(0) || team.busy.swap(true, Acquire) {
        (0..parts).for_each(job);
        return;
    }
    // The word holds 32 bits of parts; nobody makes more, but nothing breaks if somebody does.
    const MOST_PARTS: usize = u32::MAX as usize;
    let mut panic = None;
    for first in (0..parts).step_by(MOST_PARTS) {
        let count = (parts - first).min(MOST_PARTS);
        panic = panic.or(team.region(threads, count, &|i| job(first + i)));
    }
    team.busy.store(false, Release);
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// [`run`] over consecutive chunks of `data`: `job(i, chunk)` gets elements `i * len ..` on, `len`
/// of them except at the end.
///
/// # Panics
/// If `len` is 0.
pub fn run_chunks<T: Send>(data: &mut [T], len: usize, job: &(dyn Fn(usize, &mut [T]) + Sync)) {
    assert!(len > 0, "chunks of no elements");
    let total = data.len();
    let start = SharedMut(data.as_mut_ptr());
    run(total.div_ceil(len), &|i| {
        let first = i * len;
        let count = len.min(total - first);
        // SAFETY: `first + count <= total`, and each `i` runs once: the chunks do not overlap.
        job(i, unsafe { std::slice::from_raw_parts_mut(start.get().add(first), count) });
    });
}

/// A pointer that parts of one region share. They must write to disjoint places.
pub(super) struct SharedMut<T>(pub(super) *mut T);

// SAFETY: it is a number; each use of what it points to vouches for itself.
unsafe impl<T: Send> Sync for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<T> {}

impl<T> SharedMut<T> {
    /// The pointer (a method, so that a closure captures the whole and not the bare pointer).
    #[inline(always)]
    pub(super) fn get(&self) -> *mut T {
        self.0
    }
}

/// The team of this process.
fn team() -> &'static Team {
    let mut pointer = TEAM.load(Acquire);
    if pointer.is_null() {
        forget_in_children();
        let new = Box::into_raw(Box::new(Team::new()));
        match TEAM.compare_exchange(null_mut(), new, AcqRel, Acquire) {
            Ok(_) => pointer = new,
            Err(other) => {
                // SAFETY: `new` came from `Box::into_raw` above and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                pointer = other;
            }
        }
    }
    // SAFETY: a pointer stored in `TEAM` comes from a box that is never freed.
    unsafe { &*pointer }
}

/// Has every forked child start without a team.
fn forget_in_children() {
    #[cfg(unix)]
    {
        /// Runs in the child right after `fork`: one atomic store, which is allowed there.
        extern "C" fn forget() {
            TEAM.store(null_mut(), SeqCst);
        }
        static ONCE: AtomicBool = AtomicBool::new(false);
        // An atomic and not a `Once`: a child must never wait for what its parent had begun.
        if !ONCE.swap(true, SeqCst) {
            // SAFETY: the handler is a function of this program and touches one atomic only.
            unsafe { libc::pthread_atfork(None, None, Some(forget)) };
        }
    }
}

impl Team {
    fn new() -> Self {
        Team {
            word: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            busy: AtomicBool::new(false),
            sessions: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
            dismissed: Condvar::new(),
            panic: Mutex::new(None),
            cores: cores(),
        }
    }

    /// One region, by the owner of the team. Returns the first panic.
    fn region(
        &'static self,
        threads: usize,
        parts: usize,
        job: &(dyn Fn(usize) + Sync),
    ) -> Option<Box<dyn Any + Send>> {
        self.start_workers(threads);
        // SAFETY: only the lifetime changes. No one uses the job after its last part is done, and
        // this function does not return before.
        let job: Job = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job)
        };
        debug_assert_eq!(self.pending.load(Relaxed), 0);
        // SAFETY: this thread owns the team and nothing is pending: nobody reads the job now.
        unsafe { *self.job.get() = Some(job) };
        self.pending.store(parts, Relaxed);
        // Sequentially consistent with the sleepers' count: see `sleep`.
        self.word.store(parts as u64, SeqCst);
        self.wake_sleepers();
        while let Some(part) = self.claim() {
            self.perform(part);
        }
        let mut wait = Wait::new(self.spins());
        while self.pending.load(Acquire) > 0 {
            wait.turn();
        }
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes the next part, if one is left.
    #[inline]
    fn claim(&self) -> Option<usize> {
        let mut word = self.word.load(Acquire);
        loop {
            let (next, parts) = (word >> 32, word & u64::from(u32::MAX));
            if next >= parts {
                return None;
            }
            match self.word.compare_exchange_weak(word, word + (1 << 32), AcqRel, Acquire) {
                Ok(_) => return Some(next as usize),
                Err(now) => word = now,
            }
        }
    }

    /// Runs a claimed part.
    fn perform(&self, part: usize) {
        // SAFETY: the part is claimed, hence pending: the job is set and does not change.
        let job = unsafe { (*self.job.get()).map(|job| &*job) };
        let outer = INSIDE.replace(true);
        let result = catch_unwind(AssertUnwindSafe(|| job.into_iter().for_each(|job| job(part))));
        INSIDE.set(outer);
        if let Err(payload) = result {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(payload);
        }
        self.pending.fetch_sub(1, Release);
    }

    /// Starts the workers that `threads` threads need and do not have yet. Where the system refuses
    /// one, the team stays smaller: parts are claimed, so nothing depends on its size.
    fn start_workers(&'static self, threads: usize) {
        let mut started = self.workers.load(Relaxed);
        while started + 1 < threads {
            match self.workers.compare_exchange(started, started + 1, Relaxed, Relaxed) {
                Ok(_) => {
                    let name = format!("bart-fast-{}", started + 1);
                    let body = move || self.work(started);
                    if thread::Builder::new().name(name).spawn(body).is_err() {
                        self.workers.fetch_sub(1, Relaxed);
                        return;
                    }
                    started += 1;
                }
                Err(now) => started = now,
            }
        }
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        loop {
            let mut wait = Wait::new(self.spins());
            while !(self.has_work() && self.wanted(index)) {
                wait.turn();
                let tired = wait.yields > YIELDS_BEFORE_SLEEP;
                if tired && !(self.sessions.load(SeqCst) > 0 && self.wanted(index)) {
                    self.sleep(index);
                }
            }
            while let Some(part) = self.claim() {
                self.perform(part);
            }
        }
    }

    /// Whether a part is left.
    #[inline]
    fn has_work(&self) -> bool {
        let word = self.word.load(SeqCst);
        word >> 32 < word & u64::from(u32::MAX)
    }

    /// Sleeps until there is a reason not to. A caller publishes work and then looks for sleepers; a
    /// worker counts itself a sleeper and then looks for work: one of them sees the other.
    fn sleep(&self, index: usize) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        // Not counted as sleepers: nobody needs to pay for waking them.
        while !self.wanted(index) {
            bed = self.dismissed.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_add(1, SeqCst);
        while !self.has_work() && self.sessions.load(SeqCst) == 0 && self.wanted(index) {
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// Wakes the sleepers, if there are any.
    fn wake_sleepers(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            // Holding the lock once means no sleeper is between its last look and its wait.
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Has every worker that is not awake look again whether it is wanted.
    fn call_the_roll(&self) {
        drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
        self.dismissed.notify_all();
    }

    /// Whether worker `index` is wanted: callers are threads that work, too.
    #[inline]
    fn wanted(&self, index: usize) -> bool {
        index + self.sessions.load(SeqCst).max(1) < num_threads()
    }

    /// Pauses before giving way.
    fn spins(&self) -> u32 {
        if num_threads() > self.cores { SPINS_BEFORE_YIELD_CROWDED } else { SPINS_BEFORE_YIELD }
    }
}

/// A thread's waiting: pauses, then giving way.
struct Wait {
    limit: u32,
    spins: u32,
    yields: u32,
}

impl Wait {
    fn new(limit: u32) -> Self {
        Wait { limit, spins: 0, yields: 0 }
    }

    #[inline]
    fn turn(&mut self) {
        if self.spins < self.limit {
            self.spins += 1;
            std::hint::spin_loop();
        } else {
            // Back to a few pauses: whoever comes up next is likely to be quick.
            self.spins = self.limit - self.limit.min(16);
            self.yields = self.yields.saturating_add(1);
            thread::yield_now();
        }
    }
}

/// Test only: runs `work` with `threads` threads. Tests that set the number take turns, and the
/// former number is restored.
#[cfg(test)]
pub fn with_threads<R>(threads: usize, work: impl FnOnce() -> R) -> R {
    /// Restores the former number, also when `work` panics.
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            set_num_threads(self.0);
        }
    }
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let _restore = Restore(num_threads());
    set_num_threads(threads);
    work()
}

#[cfg(test)]
#[path = "team_tests.rs"]
mod tests;
