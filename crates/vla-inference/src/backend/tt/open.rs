//! Opens a mesh: board names, provider library, errors.

use std::path::PathBuf;

use tt_metal::{
    Mesh, MeshOptions, PROVIDER_VARIABLE, ProviderKind, Target, find_provider,
    find_provider_library,
};

use super::TtBackend;
use crate::backend::precision::PrecisionPolicy;

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

impl Provider {
    fn kind(self) -> ProviderKind {
        match self {
            Self::Simulated => ProviderKind::Simulated,
            Self::Silicon => ProviderKind::Silicon,
        }
    }
}

/// A provider library that was loaded, without opening a device.
#[derive(Clone, Debug)]
pub struct ProviderLibrary {
    /// The file.
    pub path: PathBuf,
    /// Its own words: what it is, of which version.
    pub name: String,
    /// Version of the C ABI, its and this program's.
    pub abi: u32,
}

/// Finds and loads the provider's library and checks that it is complete and has this program's ABI
/// version.
///
/// # Errors
/// In one line, with the remedy.
pub fn load_library(provider: Provider) -> Result<ProviderLibrary, tt_metal::Error> {
    let path = find_provider_library(provider.kind())?;
    let name = find_provider(provider.kind())?.name().to_owned();
    Ok(ProviderLibrary { path, name, abi: tt_metal::ABI_VERSION })
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
    let board = mesh;
    let kind = provider.kind();
    let target = Target { provider: kind, board }.to_string();
    let opened = find_provider(kind).and_then(|library| {
        let options = MeshOptions { trace_region_bytes, ..MeshOptions::default() };
        let mesh = Mesh::open(&library, board, options)?;
        // A mock cluster reads zeros, and a simulator is not what was asked for.
        if kind == ProviderKind::Silicon && mesh.info().simulated {
            return Err(tt_metal::Error::Host(format!(
                "{} has no chips but computes or imitates them; use sim:{board}, or unset \
                {PROVIDER_VARIABLE} and TT_METAL_MOCK_CLUSTER_DESC_PATH",
                library.name()
            )));
        }
        Ok(mesh)
    });
    match opened {
        Ok(mesh) => Ok(TtBackend::new(mesh, target, policy)),
        Err(source) => Err(OpenError { target, source }),
    }
}
