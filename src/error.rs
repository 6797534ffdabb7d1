//! The one error of the crate. Everything that can go wrong for a user is a variant here;
//! `src/python/errors.rs` gives each its Python exception.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, worded for the person who called us.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An argument has a value that cannot be used. Python: `ValueError`.
    Argument {
        /// The argument's name as the caller wrote it.
        name: String,
        /// What was received, what is allowed, and the way out.
        message: String,
    },
    /// A model configuration cannot be honoured. Python: `ValueError`.
    Config {
        /// The field of the configuration.
        field: String,
        /// What was received and what is allowed.
        message: String,
    },
    /// Weights do not fit the model: every missing, extra and misshapen tensor. Python: `ValueError`.
    Weights(String),
    /// A file could not be read or written. Python: `FileNotFoundError`, `PermissionError`, `OSError`.
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file was read but is not what its name promises. Python: `ValueError`.
    Format {
        /// The file.
        path: PathBuf,
        /// Which part is wrong.
        message: String,
    },
    /// A vocabulary or merge list cannot be used, or text cannot be encoded. Python: `ValueError`.
    Tokenizer(String),
    /// The machine has not the memory that something needs. Python: `MemoryError`.
    Memory {
        /// What needs it.
        what: String,
        /// How much, in bytes.
        bytes: u64,
    },
    /// The caller asked to stop (Ctrl-C). Python: the pending exception, `KeyboardInterrupt`.
    Interrupted,
    /// A function that the caller passed in failed. Python: its exception.
    Callback(Box<dyn std::error::Error + Send + Sync>),
    /// The tensor library failed. Python: `RuntimeError`.
    Candle(candle_core::Error),
}

impl Error {
    /// An unusable argument.
    pub fn argument(name: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Argument { name: name.into(), message: message.into() }
    }

    /// A configuration field that cannot be honoured.
    pub fn config(field: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { field: field.into(), message: message.into() }
    }

    /// Checks that `floats` more float32 values can be allocated, before something that would end the
    /// process if they cannot.
    ///
    /// # Errors
    /// [`Error::Memory`] naming `what`.
    pub fn check_room(what: &str, floats: u64) -> Result<()> {
        // Smaller ones are not worth a question to the operating system.
        const WORTH_ASKING: usize = 64 << 20;
        let bytes = floats.saturating_mul(4);
        let fits = usize::try_from(bytes).is_ok_and(|bytes| {
            bytes < WORTH_ASKING || Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
        });
        if fits { Ok(()) } else { Err(Error::Memory { what: what.to_string(), bytes }) }
    }

    /// A file the operating system would not read or write.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// A file whose content is not what its name promises.
    pub fn format(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Format { path: path.as_ref().to_path_buf(), message: message.into() }
    }
}

/// What an error of the tensor library says, without the backtrace that it may bring along.
pub fn without_backtrace(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.split("\n   0: ").next().unwrap_or_default().to_string()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Argument { name, message } => write!(f, "`{name}`: {message}"),
            Error::Config { field, message } => write!(f, "config field `{field}`: {message}"),
            Error::Weights(message) | Error::Tokenizer(message) => f.write_str(message),
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Format { path, message } => write!(f, "{}: {message}", path.display()),
            Error::Memory { what, bytes } => {
                let gigabytes = *bytes as f64 / 1e9;
                write!(f, "{what} needs {gigabytes:.1} GB of memory, more than this machine gives")
            }
            Error::Interrupted => f.write_str("interrupted"),
            Error::Callback(error) => write!(f, "{error}"),
            Error::Candle(error) => write!(f, "{}", without_backtrace(error)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Callback(error) => Some(error.as_ref()),
            Error::Candle(error) => Some(error),
            _ => None,
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Candle(error)
    }
}
