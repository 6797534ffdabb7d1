//! The coarse copy of a weight by which the best of many outputs are found: made when it has become of
//! use, and forgotten when the weight changes.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex};

use crate::kernels::gemm::Panels;
use crate::kernels::screen::Screen;

/// Weights below which there is none: a small matrix stays in the cache, where reading it costs little.
const LEAST_WEIGHTS: usize = if cfg!(test) { 1 << 12 } else { 1 << 20 };
/// Passes over an unchanged weight after which the copy is made. To make it costs some ten passes, so that
/// a short answer, or one between two steps of training, goes without.
const PASSES_BEFORE: u32 = 16;
/// Passes that go without after one in which it left too much, doubled with each such pass in a row.
const REST: u32 = 16;

/// The place for a weight's coarse copy.
#[derive(Debug, Default)]
pub struct LazyScreen {
    changes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How often the weight had changed when the rest of this was true.
    changes: u64,
    screen: Option<Arc<Screen>>,
    passes: u32,
    rest: u32,
    failures: u32,
}

impl LazyScreen {
    /// Notes that the weight has changed. To be called while nobody can read the weight.
    pub fn forget(&self) {
        self.changes.fetch_add(1, Release);
        // Whoever holds the lock finds the copy out of date; a forked child has nobody to wait for.
        if let Ok(mut state) = self.state.try_lock() {
            state.screen = None;
        }
    }

    /// Calls `work` with the copy of the weight `[n, k]`, if there is one or it is time to make it; `false`
    /// if not, or if `work` says so. To be called while nobody can change the weight.
    pub(super) fn with(
        &self,
        weight: Panels<'_>,
        (n, k): (usize, usize),
        work: impl FnOnce(&Screen) -> bool,
    ) -> bool {
        if n.saturating_mul(k) < LEAST_WEIGHTS {
            return false;
        }
        let Some(screen) = self.get(weight, n, k) else { return false };
        let found = work(&screen);
        if let Ok(mut state) = self.state.try_lock() {
            state.failures = if found { 0 } else { (state.failures + 1).min(10) };
            state.rest = if found { 0 } else { REST << state.failures };
        }
        found
    }

    fn get(&self, weight: Panels<'_>, n: usize, k: usize) -> Option<Arc<Screen>> {
        // While another thread makes the copy, this one goes without.
        let mut state = self.state.try_lock().ok()?;
        let changes = self.changes.load(Acquire);
        if state.changes != changes {
            *state = State { changes, ..State::default() };
        }
        if state.rest > 0 {
            state.rest -= 1;
            return None;
        }
        if state.screen.is_none() {
            state.passes += 1;
            if state.passes < PASSES_BEFORE {
                return None;
            }
            state.screen = Screen::new(weight, n, k).map(Arc::new);
            if state.screen.is_none() {
                // What it holds forbids a bound, until it changes.
                state.rest = u32::MAX;
            }
        }
        state.screen.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_when_it_is_of_use_and_rests_where_it_is_of_none() {
        let weight = vec![0.5; LEAST_WEIGHTS];
        let panels = Panels::Float(&weight);
        let size = (64, LEAST_WEIGHTS / 64);
        let screen = LazyScreen::default();
        let uses = |found: bool| {
            let mut uses = 0;
            for _ in 0..2 * PASSES_BEFORE {
                screen.with(panels, size, |_| {
                    uses += 1;
                    found
                });
            }
            uses
        };
        assert_eq!(uses(true), PASSES_BEFORE + 1);
        screen.forget();
        assert_eq!(uses(true), PASSES_BEFORE + 1);
        assert_eq!(uses(false), 1, "after a failure it rests");
        assert!(!LazyScreen::default().with(panels, (0, 0), |_| true), "too small");
    }
}
