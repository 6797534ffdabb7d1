use super::*;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

/// Runs `parts` parts and asserts that each ran once.
fn check(parts: usize) {
    let seen: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
    run(parts, &|i| {
        seen[i].fetch_add(1, Relaxed);
    });
    assert!(seen.iter().all(|n| n.load(Relaxed) == 1), "{parts} parts");
}

#[test]
fn every_part_runs_once_at_any_number_of_threads() {
    for threads in [1, 2, 4, 9] {
        with_threads(threads, || {
            for parts in [0, 1, 2, 3, 7, 64, 1000] {
                check(parts);
            }
            let _session = session();
            (0..2000).for_each(|_| check(3));
        });
    }
}

#[test]
fn the_number_of_threads_may_change_between_and_during_regions() {
    with_threads(2, || {
        for round in 0..300 {
            set_num_threads(1 + round % 5);
            check(8);
            run(4, &|i| set_num_threads(1 + (i + round) % 3));
        }
    });
}

/// Two parts that wait for each other, up to `limit`: whether they met, on two threads.
fn two_parts_meet(limit: Duration) -> bool {
    let here = AtomicU32::new(0);
    let started = Instant::now();
    run(2, &|_| {
        here.fetch_add(1, SeqCst);
        while here.load(SeqCst) < 2 && started.elapsed() < limit {
            thread::yield_now();
        }
    });
    started.elapsed() < limit
}

#[test]
fn sleeping_and_dismissed_workers_come_when_called() {
    with_threads(2, || {
        for threads in [2, 4, 1, 2, 3, 1, 2] {
            set_num_threads(threads);
            check(4);
            thread::sleep(Duration::from_millis(10));
            // Another test may own the team at the moment; then both parts run here, in turn.
            let mut attempts = 0;
            while threads > 1 && !two_parts_meet(Duration::from_millis(100)) {
                attempts += 1;
                assert!(attempts < 100, "no worker comes");
            }
        }
    });
}

#[test]
fn nested_regions_run_where_they_are() {
    with_threads(3, || {
        let count = AtomicU32::new(0);
        run(5, &|_| {
            let here = thread::current().id();
            run(7, &|_| {
                assert_eq!(thread::current().id(), here);
                count.fetch_add(1, Relaxed);
            });
        });
        assert_eq!(count.load(Relaxed), 35);
    });
}

#[test]
fn two_callers_at_once_both_finish() {
    with_threads(2, || {
        let started = Instant::now();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let _session = session();
                    (0..3000).for_each(|_| check(5));
                });
            }
        });
        assert!(started.elapsed() < Duration::from_secs(60));
    });
}

#[test]
fn callers_are_threads_of_the_team() {
    with_threads(2, || {
        let _session = session();
        let inner = session();
        let meet_soon = || (0..100).any(|_| two_parts_meet(Duration::from_millis(100)));
        assert!(meet_soon(), "a second session of one thread counts for nothing");
        drop(inner);
        let (open, close) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                let _session = session();
                open.wait();
                close.wait();
            });
            open.wait();
            let met = two_parts_meet(Duration::from_millis(50));
            check(7);
            close.wait();
            assert!(!met, "two callers have a thread each, and no worker");
        });
        assert!(meet_soon(), "the worker does not come back");
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_lives_on() {
    with_threads(2, || {
        let done = AtomicU32::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            run(8, &|i| {
                done.fetch_add(1, Relaxed);
                assert_ne!(i, 3, "part three fails");
            });
        }));
        let payload = result.unwrap_err();
        assert!(payload.downcast_ref::<String>().unwrap().contains("part three fails"));
        // Every part, or those up to the third where another test has the team just now.
        assert!([4, 8].contains(&done.load(Relaxed)));
        check(8);
    });
}

#[test]
fn chunks_cover_the_slice() {
    with_threads(3, || {
        for (total, len) in [(0, 4), (1, 4), (8, 4), (9, 4), (1000, 7)] {
            let mut data = vec![0_usize; total];
            run_chunks(&mut data, len, &|i, chunk| {
                assert!(chunk.len() == len || i == total / len);
                chunk.iter_mut().enumerate().for_each(|(j, x)| *x += i * len + j + 1);
            });
            assert!(data.iter().enumerate().all(|(i, x)| *x == i + 1));
        }
    });
}

#[test]
fn more_threads_than_cores_do_not_crawl() {
    let time = |threads| {
        with_threads(threads, || {
            let _session = session();
            let started = Instant::now();
            for _ in 0..200 {
                run(8, &|_| {
                    std::hint::black_box((0..20_000_u64).fold(0, |a, b| a ^ (b * a)));
                });
            }
            started.elapsed()
        })
    };
    let (fitting, crowded) = (time(cores()), time(cores() * 3));
    // Generous: the machine may be busy. A spinning pool that never yields takes a hundred times.
    assert!(crowded < fitting * 5 + Duration::from_millis(200), "{fitting:?} {crowded:?}");
}

#[cfg(unix)]
#[test]
fn a_forked_child_gets_a_team_of_its_own() {
    with_threads(2, || {
        let _session = session();
        check(4);
        // SAFETY: the child calls `run`, which starts threads and allocates (glibc permits both
        // after a fork), and leaves with `_exit`.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let fine = catch_unwind(|| (0..50).for_each(|_| check(4))).is_ok();
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(if fine { 0 } else { 1 }) };
        }
        let started = Instant::now();
        let mut status = -1;
        // SAFETY: `status` is a live integer; the child is ours.
        while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
            if started.elapsed() > Duration::from_secs(20) {
                // SAFETY: the child is ours and has not been waited for.
                unsafe { libc::kill(child, libc::SIGKILL) };
                panic!("the child hangs");
            }
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(status, 0);
        check(4);
    });
}

#[test]
fn a_wrong_number_of_threads_is_refused_with_the_way_out() {
    assert_eq!(parse_threads(" 3 ").unwrap(), 3);
    for text in ["0", "-1", "two", "1.5", "1025"] {
        let message = parse_threads(text).unwrap_err().to_string();
        assert!(message.starts_with("`BART_FAST_NUM_THREADS`: received `"), "{message}");
        assert!(message.contains(text) && message.contains("hint: unset"), "{message}");
    }
}
