//! Loads a provider and checks that it is complete and has this crate's ABI version.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Api, TTP_ABI_VERSION};

/// Remedy in every loading error.
const REMEDY: &str = "build tt-mesh-sim (`cargo build -p tt-mesh-sim`) for a simulated mesh, or \
    crates/tt-metal-sys/shim against the named tt-metal for silicon";

/// Error of loading a provider; one line each.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such file.
    #[error("no Tenstorrent provider at {path}: the file does not exist; {REMEDY}")]
    Missing {
        /// Path.
        path: PathBuf,
    },
    /// The dynamic linker refused the file: truncated, of another machine, or its own libraries are
    /// missing.
    #[error("cannot load the Tenstorrent provider {path} ({bytes} bytes): {reason}; {REMEDY}")]
    Unloadable {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The linker's message.
        reason: String,
    },
    /// A library that lacks functions of the ABI.
    #[error(
        "{path} is not a complete Tenstorrent provider: {count} of {total} functions are missing, \
        the first is {first}; rebuild it from this source tree's tt_provider.h"
    )]
    Incomplete {
        /// Which file.
        path: PathBuf,
        /// Number of missing functions.
        count: usize,
        /// Number of functions of the ABI.
        total: usize,
        /// One of them.
        first: &'static str,
    },
    /// A provider of another ABI version.
    #[error(
        "{path} speaks version {found} of the provider ABI, this program version {expected}; \
        rebuild the older of the two from one source tree"
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// This crate's version.
        expected: u32,
    },
}

/// A loaded provider: its function table, and the library that it belongs to.
#[derive(Clone)]
pub struct Provider {
    api: Api,
    name: Arc<str>,
    // Dropped last, after the table; `None` for a provider that is part of the program.
    _library: Option<Arc<libloading::Library>>,
}

/// Libraries that were loaded: none is unloaded before the process ends.
static LOADED: Mutex<Vec<Arc<libloading::Library>>> = Mutex::new(Vec::new());

impl Provider {
    /// Loads the shared library at `path` and checks it. Nothing is opened on any device.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let metadata =
            std::fs::metadata(path).map_err(|_| LoadError::Missing { path: path.into() })?;
        refuse_truncated(path, metadata.len())?;
        let library = load(path).map_err(|error| LoadError::Unloadable {
            path: path.into(),
            bytes: metadata.len(),
            // The linker's message can have several lines; the error has one.
            reason: one_line(&error.to_string()),
        })?;
        // The version first: another version may lack functions for good reasons.
        type Version = unsafe extern "C" fn() -> u32;
        // SAFETY: this signature is the same in every version of the header.
        let version = unsafe { library.get::<Version>(b"ttp_abi_version\0") };
        if let Ok(version) = version {
            // SAFETY: it takes no arguments and never fails.
            let found = unsafe { version() };
            if found != TTP_ABI_VERSION {
                return Err(LoadError::Version {
                    path: path.into(),
                    found,
                    expected: TTP_ABI_VERSION,
                });
            }
        }
        // SAFETY: a library of this version (or without a version, which fails here) was built
        // from the header, which fixes the signatures.
        let api =
            unsafe { Api::from_library(&library) }.map_err(|missing| LoadError::Incomplete {
                path: path.into(),
                count: missing.len(),
                total: Api::NAMES.len(),
                first: missing.first().copied().unwrap_or("unknown"),
            })?;
        // Kept loaded until the process ends: a provider may have threads and thread-local error
        // texts.
        let library = Arc::new(library);
        LOADED.lock().unwrap_or_else(PoisonError::into_inner).push(library.clone());
        Ok(Self { api, name: provider_name(&api), _library: Some(library) })
    }

    /// A provider that is linked into this program, built from the same sources.
    pub fn linked(api: Api) -> Self {
        Self { name: provider_name(&api), api, _library: None }
    }

    /// The functions.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Name of the provider.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Provider").field(&self.name).finish()
    }
}

/// Loads the library with all that it needs, bound to its own libraries first: TT-NN brings a
/// version of spdlog and fmt, and the node has already loaded another one with ROS. Without
/// RTLD_DEEPBIND about a thousand symbols of TT-NN's resolve to ROS's.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn load(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix;
    /// Of glibc's <dlfcn.h>; libloading does not name it.
    const RTLD_DEEPBIND: std::ffi::c_int = 8;
    // A sanitizer's runtime refuses the flag: it must be in front of the C library.
    let program = unix::Library::this();
    let sanitized =
        [&b"__asan_init\0"[..], b"__tsan_init\0", b"__msan_init\0"].iter().any(|name| {
            // SAFETY: the symbol is only looked for, never called.
            unsafe { program.get::<unsafe extern "C" fn()>(*name) }.is_ok()
        });
    let deep = if sanitized { 0 } else { RTLD_DEEPBIND };
    let flags = unix::RTLD_NOW | unix::RTLD_LOCAL | deep;
    // SAFETY: loading runs the library's initialisers. The path was named by the user as a
    // provider, which is code they choose to run; nothing else is assumed about it here.
    unsafe { unix::Library::open(Some(path), flags) }.map(libloading::Library::from)
}

/// Elsewhere there is no such flag.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn load(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: as above.
    unsafe { libloading::Library::new(path) }
}

/// The dynamic linker maps segments without looking at the file's length; touching a page that is
/// not there kills the process. So the ELF header's own account of the length is checked first.
fn refuse_truncated(path: &Path, bytes: u64) -> Result<(), LoadError> {
    let unloadable = |reason: String| LoadError::Unloadable { path: path.into(), bytes, reason };
    let mut header = [0u8; 64];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut header))
        .map_err(|error| unloadable(format!("not a shared library ({error})")))?;
    if header[..4] != *b"\x7fELF" {
        // Other systems' formats are left to their own loader.
        return if cfg!(target_os = "linux") {
            Err(unloadable("not an ELF shared library".into()))
        } else {
            Ok(())
        };
    }
    if header[4] != 2 || header[5] != 1 {
        return Err(unloadable("not a 64-bit little-endian library".into()));
    }
    let word = |at: usize, length: usize| {
        header[at..at + length]
            .iter()
            .rev()
            .fold(0u64, |value, byte| (value << 8) | u64::from(*byte))
    };
    // Section headers come last in what linkers write: their end is the file's end.
    let (table, size, count) = (word(0x28, 8), word(0x3a, 2), word(0x3c, 2));
    let end = table.saturating_add(size * count);
    if table == 0 || end > bytes {
        return Err(unloadable(format!("the file is truncated: its header promises {end} bytes")));
    }
    Ok(())
}

fn provider_name(api: &Api) -> Arc<str> {
    // SAFETY: the header promises static, zero-terminated text; NULL is still looked for.
    let text = unsafe {
        let pointer = (api.ttp_provider_name)();
        if pointer.is_null() { None } else { Some(CStr::from_ptr(pointer)) }
    };
    text.map_or_else(|| "unnamed".into(), |text| text.to_string_lossy().into())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
