//! The table of exceptions: one row for each kind of [`Error`].

use std::io::ErrorKind;
use std::path::Path;

use pyo3::PyTypeInfo;
use pyo3::exceptions::{
    PyFileExistsError, PyFileNotFoundError, PyIsADirectoryError, PyKeyboardInterrupt,
    PyMemoryError, PyNotADirectoryError, PyOSError, PyPermissionError, PyRuntimeError,
    PyTimeoutError, PyValueError,
};
use pyo3::prelude::*;

use crate::error::Error;

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        let error = match error {
            // What a function of the user raised comes out as it was.
            Error::Callback(inner) => match inner.downcast::<PyErr>() {
                Ok(exception) => return *exception,
                Err(other) => Error::Callback(other),
            },
            other => other,
        };
        match &error {
            Error::Argument { .. }
            | Error::Config { .. }
            | Error::Weights(_)
            | Error::Format { .. }
            | Error::Tokenizer(_) => PyValueError::new_err(error.to_string()),
            Error::Io { path, source } => io_error(path, source),
            Error::Memory { .. } => PyMemoryError::new_err(error.to_string()),
            Error::Candle(error) if ran_out_of_memory(error) => PyMemoryError::new_err(
                "the card has not the memory that this needs\n\
                     hint: fewer or shorter texts at a time, or a smaller dtype",
            ),
            Error::Interrupted => PyKeyboardInterrupt::new_err(()),
            Error::Callback(_) | Error::Candle(_) => PyRuntimeError::new_err(error.to_string()),
        }
    }
}

/// Whether a card ran out of memory, as CUDA's driver says it.
fn ran_out_of_memory(error: &candle_core::Error) -> bool {
    error.to_string().contains("OUT_OF_MEMORY")
}

/// `FileNotFoundError` and its like, with `errno`, `strerror` and `filename` as Python sets them.
fn io_error(path: &Path, source: &std::io::Error) -> PyErr {
    match source.kind() {
        ErrorKind::NotFound => os_error::<PyFileNotFoundError>(path, source),
        ErrorKind::PermissionDenied => os_error::<PyPermissionError>(path, source),
        ErrorKind::AlreadyExists => os_error::<PyFileExistsError>(path, source),
        ErrorKind::IsADirectory => os_error::<PyIsADirectoryError>(path, source),
        ErrorKind::NotADirectory => os_error::<PyNotADirectoryError>(path, source),
        ErrorKind::TimedOut => os_error::<PyTimeoutError>(path, source),
        _ => os_error::<PyOSError>(path, source),
    }
}

fn os_error<E: PyTypeInfo>(path: &Path, source: &std::io::Error) -> PyErr {
    let path = path.as_os_str().to_owned();
    match source.raw_os_error() {
        Some(number) => {
            // std appends " (os error 2)", which Python prints as `[Errno 2]` in front.
            let text = source.to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_owned();
            PyErr::new::<E, _>((number, text, path))
        }
        None => PyErr::new::<E, _>(format!("{}: {source}", Path::new(&path).display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyo3::exceptions::PyKeyError;
    use std::io;

    /// An error, its Python class and its text.
    type Row = (Error, &'static str, &'static str);

    fn rows() -> Vec<Row> {
        let io = |number| Error::io("/no/file", io::Error::from_raw_os_error(number));
        vec![
            (Error::argument("k", "must be positive"), "ValueError", "`k`: must be positive"),
            (Error::config("d_model", "bad"), "ValueError", "config field `d_model`: bad"),
            (Error::Weights("missing: a".into()), "ValueError", "missing: a"),
            (Error::format("f", "not JSON"), "ValueError", "f: not JSON"),
            (Error::Tokenizer("refused".into()), "ValueError", "refused"),
            (io(2), "FileNotFoundError", "[Errno 2] No such file or directory: '/no/file'"),
            (io(13), "PermissionError", "[Errno 13] Permission denied: '/no/file'"),
            (io(17), "FileExistsError", "[Errno 17] File exists: '/no/file'"),
            (io(20), "NotADirectoryError", "[Errno 20] Not a directory: '/no/file'"),
            (io(21), "IsADirectoryError", "[Errno 21] Is a directory: '/no/file'"),
            (io(28), "OSError", "[Errno 28] No space left on device: '/no/file'"),
            (io(110), "TimeoutError", "[Errno 110] Connection timed out: '/no/file'"),
            (
                Error::io("f", io::Error::new(ErrorKind::UnexpectedEof, "cut off")),
                "OSError",
                "f: cut off",
            ),
            (
                Error::Candle(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".into())),
                "MemoryError",
                "the card has not the memory that this needs\n\
                 hint: fewer or shorter texts at a time, or a smaller dtype",
            ),
            (
                Error::check_room("a model", u64::MAX).unwrap_err(),
                "MemoryError",
                "a model needs 18446744073.7 GB of memory, more than this machine gives",
            ),
            (Error::Callback(Box::new(PyKeyError::new_err("own"))), "KeyError", "'own'"),
            (Error::Callback("own".into()), "RuntimeError", "own"),
            (Error::Interrupted, "KeyboardInterrupt", ""),
            (Error::Candle(candle_core::Error::Msg("shape".into())), "RuntimeError", "shape"),
        ]
    }

    #[test]
    fn every_error_has_its_exception() {
        Python::initialize();
        for (error, class, text) in rows() {
            let name = format!("{error:?}");
            let exception = PyErr::from(error);
            Python::attach(|py| {
                let kind = exception.get_type(py).name().unwrap().to_string();
                assert_eq!(
                    (kind.as_str(), exception.value(py).to_string().as_str()),
                    (class, text),
                    "{name}"
                );
            });
        }
    }
}
