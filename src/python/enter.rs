//! The way from Python into a long call: frees the interpreter, stops panics, maps errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::team;
use crate::model::StopCheck;

/// Runs `work` with the interpreter released. An error becomes its exception
/// (see `errors.rs`), a panic a `RuntimeError`.
pub(super) fn enter<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    // Unwind safety: what `work` has changed half-way is either dropped with it or behind a lock
    // whose owner says that it may be used after a panic.
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(result) => result.map_err(PyErr::from),
        Err(panic) => Err(PyRuntimeError::new_err(format!(
            "internal error in bart_fast: {}\nhint: this is a bug; please report it with the call that led here",
            panic_text(panic.as_ref())
        ))),
    }
}

/// [`enter`] for a pass through the model: the worker threads stay awake meanwhile.
pub(super) fn compute<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    enter(py, || {
        let _awake = team::session();
        work()
    })
}

/// How often a running call looks for Ctrl-C: taking the interpreter may cost a switch interval
/// (5 ms) when other Python threads are busy.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// [`compute`] for long work: `work` calls its argument between steps and layers, which fails when
/// Python has a pending signal (Ctrl-C); the exception of its handler is then raised.
pub(super) fn compute_interruptible<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&StopCheck) -> Result<T> + Send,
) -> PyResult<T> {
    let pending = Mutex::new(None);
    let result = compute(py, || {
        let looked = Cell::new(Instant::now());
        work(&|| {
            if looked.get().elapsed() < SIGNAL_INTERVAL {
                return Ok(());
            }
            looked.set(Instant::now());
            Python::attach(|py| py.check_signals()).map_err(|exception| {
                *pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(exception);
                Error::Interrupted
            })
        })
    });
    match pending.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(exception) => Err(exception),
        None => result,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn results_errors_and_panics_cross_as_values_and_exceptions() {
        Python::initialize();
        Python::attach(|py| {
            assert_eq!(enter(py, || Ok(7)).unwrap(), 7);
            let error = enter::<()>(py, || Err(Error::argument("k", "bad"))).unwrap_err();
            assert_eq!(error.to_string(), "ValueError: `k`: bad");
            let one = std::hint::black_box(1);
            let fixed = enter::<()>(py, || panic!("broken")).unwrap_err().to_string();
            let formatted = enter::<()>(py, || panic!("broken {one}")).unwrap_err().to_string();
            assert!(fixed.starts_with("RuntimeError: internal error in bart_fast: broken\nhint: "));
            assert!(formatted.contains("broken 1"), "{formatted}");
        });
    }
}
