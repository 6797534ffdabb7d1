//! Splitting work over the team: how many parts, and which elements each part gets.
//!
//! A split changes who computes an element, never how, so no result depends on it.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::disjoint::Disjoint;
use super::isa::{self, Isa};
use super::team;

/// Boundaries between parts are multiples of this, so that two workers share no cache line.
const ALIGN: usize = 64;

/// Share `index` of `count` that divide `0..total` as evenly as can be.
#[inline(always)]
pub(crate) fn share(total: usize, count: usize, index: usize) -> Range<usize> {
    let start = |i: usize| i * (total / count) + i.min(total % count);
    start(index)..start(index + 1)
}

/// Runs `work` over 0..`len`, in one piece for each thread that gets at least `grain` items.
/// Boundaries are multiples of `align`. Every piece gets the caller's instruction set.
pub(crate) fn ranges(
    len: usize,
    grain: usize,
    align: usize,
    work: impl Fn(Isa, Range<usize>) + Sync,
) {
    let isa = isa::current();
    let parts = (len / grain.max(1)).clamp(1, team::num_threads());
    let step = len.div_ceil(parts).next_multiple_of(align).max(1);
    match len.div_ceil(step) {
        0 => {}
        1 => work(isa, 0..len),
        parts => team::run(parts, &|part| work(isa, part * step..len.min((part + 1) * step))),
    }
}

/// [`ranges`] over the elements of `out`, each piece with its part of it.
pub(crate) fn map<T: Send>(
    out: &mut [T],
    grain: usize,
    work: impl Fn(Isa, Range<usize>, &mut [T]) + Sync,
) {
    let len = out.len();
    let out = Disjoint::new(out);
    ranges(len, grain, ALIGN, |isa, range| {
        // SAFETY: `ranges` gives no index twice.
        let piece = unsafe { out.slice(range.start, range.len()) };
        work(isa, range, piece);
    });
}

/// Runs `work` for every index below `count`, each index a part of its own that the next free
/// worker takes; all on this thread if there is not `enough_work` to share.
pub(crate) fn items(count: usize, enough_work: bool, work: impl Fn(Isa, usize) + Sync) {
    let isa = isa::current();
    if enough_work && count > 1 {
        team::run(count, &|index| work(isa, index));
    } else {
        (0..count).for_each(|index| work(isa, index));
    }
}

/// [`team::run`] over parts that may fail.
///
/// # Errors
/// That of the first part that failed; parts that begin later are left out.
pub(crate) fn try_run<E: Send>(
    parts: usize,
    work: &(dyn Fn(usize) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let failed = Mutex::new(None);
    let lock = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    team::run(parts, &|part| {
        if lock().is_none()
            && let Err(error) = work(part)
        {
            lock().get_or_insert(error);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// [`try_run`] over consecutive chunks of `data`, `len` elements each except at the end.
pub(crate) fn try_run_chunks<T: Send, E: Send>(
    data: &mut [T],
    len: usize,
    work: impl Fn(usize, &mut [T]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let total = data.len();
    let data = Disjoint::new(data);
    try_run(total.div_ceil(len), &|i| {
        let first = i * len;
        // SAFETY: each `i` is given once, and the chunks do not overlap.
        work(i, unsafe { data.slice(first, len.min(total - first)) })
    })
}

/// Runs `work(i, x, y)` for every chunk `x` of `a`, `a_len` elements long, and `y` of `b`, `b_len` long;
/// all on this thread if there is not `enough_work` to share.
///
/// # Panics
/// If a length is 0, or `a` and `b` do not have equally many whole chunks.
pub(crate) fn paired_chunks<A: Send, B: Send>(
    (a, a_len): (&mut [A], usize),
    (b, b_len): (&mut [B], usize),
    enough_work: bool,
    work: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let count = a.len() / a_len;
    assert!(a.len() == count * a_len && b.len() == count * b_len, "chunks that make no pairs");
    let (a, b) = (Disjoint::new(a), Disjoint::new(b));
    items(count, enough_work, |_, i| {
        // SAFETY: `items` gives no index twice, and chunks do not overlap.
        let (a, b) = unsafe { (a.slice(i * a_len, a_len), b.slice(i * b_len, b_len)) };
        work(i, a, b);
    });
}

/// Test only: runs `work` with this many threads in the team. One at a time, since the number is
/// the process's.
#[cfg(test)]
pub(crate) fn with_threads<R>(threads: usize, work: impl FnOnce() -> R) -> R {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = team::num_threads();
    team::set_num_threads(threads);
    let result = work();
    team::set_num_threads(before);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_fails_ends_the_run() {
        for threads in [1, 3] {
            with_threads(threads, || {
                assert_eq!(try_run(50, &|_| Ok::<(), usize>(())), Ok(()));
                let result = try_run(50, &|part| if part >= 10 { Err(part) } else { Ok(()) });
                assert!(result.is_err_and(|part| part >= 10));
            });
        }
    }

    #[test]
    fn every_index_is_given_once_whatever_the_split() {
        for threads in [1, 2, 3, 4] {
            for len in (0..70).chain([1000, 4096]) {
                for (grain, align) in [(1, 1), (1, 64), (10, 4), (5000, 64), (0, 1)] {
                    let mut seen = vec![0u8; len];
                    let pieces = Disjoint::new(&mut seen);
                    with_threads(threads, || {
                        ranges(len, grain, align, |_, range| {
                            assert!(range.start.is_multiple_of(align) && !range.is_empty());
                            // SAFETY: the test fails below if a range comes twice.
                            let piece = unsafe { pieces.slice(range.start, range.len()) };
                            piece.iter_mut().for_each(|count| *count += 1);
                        });
                    });
                    assert!(
                        seen.iter().all(|&count| count == 1),
                        "{threads} {len} {grain} {align}"
                    );
                }
            }
        }
    }
}
