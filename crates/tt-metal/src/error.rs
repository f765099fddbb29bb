//! Errors, one line each.

use tt_metal_sys as abi;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Kind of a provider's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value, shape, format or layout that the operation refuses.
    InvalidArgument,
    /// Valid, but not supported by this provider.
    Unsupported,
    /// Device memory is exhausted.
    OutOfMemory,
    /// A tensor that was freed with its mesh, or belongs to another mesh.
    BadHandle,
    /// Read of data that was never written.
    Unwritten,
    /// Forbidden while a trace is captured, or a stale trace.
    TraceRule,
    /// The device failed.
    Device,
    /// No such device on this machine.
    NotFound,
    /// A fault of the provider.
    Internal,
}

impl Kind {
    fn from_abi(status: abi::Status) -> Self {
        match status {
            abi::TTP_INVALID_ARGUMENT => Self::InvalidArgument,
            abi::TTP_UNSUPPORTED => Self::Unsupported,
            abi::TTP_OUT_OF_MEMORY => Self::OutOfMemory,
            abi::TTP_BAD_HANDLE => Self::BadHandle,
            abi::TTP_UNWRITTEN => Self::Unwritten,
            abi::TTP_TRACE_RULE => Self::TraceRule,
            abi::TTP_DEVICE => Self::Device,
            abi::TTP_NOT_FOUND => Self::NotFound,
            _ => Self::Internal,
        }
    }
}

/// An error of the mesh.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The provider could not be loaded.
    #[error(transparent)]
    Load(#[from] abi::LoadError),
    /// The library that the user named could not be loaded.
    #[error("{variable}: {source}")]
    NamedProvider {
        /// Environment variable that names it.
        variable: &'static str,
        /// Why.
        source: abi::LoadError,
    },
    /// The provider refused a call.
    #[error("{text} ({call})")]
    Provider {
        /// Kind of error.
        kind: Kind,
        /// The ABI's function.
        call: &'static str,
        /// The provider's error text.
        text: String,
    },
    /// An invalid device name.
    #[error("device \"{text}\" is none of {known}")]
    Target {
        /// The given name.
        text: String,
        /// The names that exist.
        known: String,
    },
    /// No provider library was found.
    #[error(
        "no {kind} provider found: looked for {file} in {places}; {remedy}, or name it in \
        {variable}"
    )]
    NoProvider {
        /// Simulated or silicon.
        kind: &'static str,
        /// Its file name.
        file: &'static str,
        /// Folders that were searched.
        places: String,
        /// Remedy.
        remedy: &'static str,
        /// Environment variable with its path.
        variable: &'static str,
    },
    /// Inconsistent arguments, found on the host.
    #[error("{0}")]
    Host(String),
}

impl Error {
    /// The kind, for an error of the provider.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Provider { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// The error of this thread's last call.
    pub(crate) fn provider(api: &abi::Api, call: &'static str, status: abi::Status) -> Self {
        // SAFETY: takes no arguments; the header promises zero-terminated text valid until this
        // thread's next call.
        let text = unsafe {
            let pointer = (api.ttp_last_error)();
            if pointer.is_null() {
                String::new()
            } else {
                std::ffi::CStr::from_ptr(pointer).to_string_lossy().into_owned()
            }
        };
        let text = if text.is_empty() {
            format!("the provider gave status {status} and no reason")
        } else {
            text
        };
        Self::Provider { kind: Kind::from_abi(status), call, text }
    }
}
