//! Test only: the same work by both ways of computing.

use std::cell::Cell;

use super::Way;

thread_local! {
    /// Tests run side by side in one process: the switch they flip is their thread's own.
    static FORCED: Cell<Option<Way>> = const { Cell::new(None) };
}

/// The way this test's thread asked for.
pub(crate) fn forced() -> Option<Way> {
    FORCED.get()
}

/// What some work gave by each way.
pub(crate) struct Both<T> {
    pub kernel: T,
    pub portable: T,
}

impl<T> Both<T> {
    /// Both, one after the other.
    pub fn all(self) -> [T; 2] {
        [self.kernel, self.portable]
    }
}

/// Does the work by our kernels, then by candle's own operations.
pub(crate) fn in_way<T>(work: impl Fn() -> T) -> Both<T> {
    let run = |way| {
        FORCED.set(Some(way));
        let result = work();
        FORCED.set(None);
        result
    };
    Both { kernel: run(Way::Kernel), portable: run(Way::Portable) }
}
