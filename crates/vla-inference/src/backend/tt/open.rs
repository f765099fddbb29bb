//! Opens a mesh: board names, provider library, errors.

use std::path::PathBuf;

use tt_metal::{Mesh, MeshOptions, ProviderKind, Target, find_provider};

use super::TtBackend;
use crate::backend::precision::PrecisionPolicy;

/// Environment variable with the path of a provider library, for simulated meshes and silicon.
const VARIABLE: &str = "OPENVLA_TT_PROVIDER";

/// Bytes of every DRAM bank reserved for traces of pi0, where a 7B model's are
/// [`tt_metal::BoardFacts::trace_region_bytes`]: `openvla plan` counts about 5 000 operations in
/// eleven traces.
#[must_use]
pub fn flow_trace_region_bytes(mesh: MeshKind) -> u64 {
    2 * mesh.facts().trace_region_bytes
}

/// Supported boards.
pub use tt_metal::Board as MeshKind;

/// Kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Simulated chips.
    Simulated,
    /// TT-NN on silicon.
    Silicon,
}

/// A mesh that could not be opened; one line.
#[derive(Debug, thiserror::Error)]
#[error("device {target}: {source}")]
pub struct OpenError {
    /// Device name as given by the user.
    target: String,
    /// Cause and remedy.
    source: tt_metal::Error,
}

/// Opens a mesh with a precision policy. The provider library is the one named by
/// `OPENVLA_TT_PROVIDER`, or the one beside this program.
///
/// # Errors
/// When there is no provider or no such device, or the provider has another ABI version.
pub fn open(
    provider: Provider,
    mesh: MeshKind,
    policy: PrecisionPolicy,
) -> Result<TtBackend, OpenError> {
    open_with(provider, mesh, policy, mesh.facts().trace_region_bytes)
}

/// [`open`] with a number of bytes of every DRAM bank reserved for traces.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    provider: Provider,
    mesh: MeshKind,
    policy: PrecisionPolicy,
    trace_region_bytes: u64,
) -> Result<TtBackend, OpenError> {
    let kind = match provider {
        Provider::Simulated => ProviderKind::Simulated,
        Provider::Silicon => ProviderKind::Silicon,
    };
    let target = Target { provider: kind, board: mesh }.to_string();
    let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let library = match named {
        Some(path) => tt_metal::Provider::open(&path).map_err(tt_metal::Error::from),
        None => find_provider(kind),
    };
    let opened = library.and_then(|library| {
        let options = MeshOptions { trace_region_bytes, ..MeshOptions::default() };
        Mesh::open(&library, mesh, options)
    });
    match opened {
        Ok(mesh) => Ok(TtBackend::new(mesh, target, policy)),
        Err(source) => Err(OpenError { target, source }),
    }
}
