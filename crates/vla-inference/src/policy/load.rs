//! Loading of a policy on a device: eager on the CPU, traced on a mesh.

use std::path::Path;

use super::device::{Mesh, PolicyLoadError, PolicySource, WithBackend, with_backend};
use super::{
    OftContract, OftError, OftPolicy, OpenVlaPolicy, Pi0Policy, Policy, PolicyError, PolicyOptions,
    ScriptedPolicy,
};
use crate::backend::tt::flow_trace_region_bytes;
use crate::backend::{Backend, TraceBackend};
use crate::checkpoint::{CheckpointKind, OftCheckpoint, locate};

/// A kind of policy: how it is opened, and how it is traced.
trait Kind: Sized {
    /// The policy on a backend.
    type On<B: Backend + 'static>: Policy + 'static;

    fn open<B: Backend + 'static>(
        self,
        backend: B,
        folder: &Path,
        options: &PolicyOptions,
    ) -> Result<Self::On<B>, PolicyError>;

    fn with_traces<B: TraceBackend + 'static>(policy: Self::On<B>) -> Self::On<B>;

    /// See [`WithBackend::trace_region_bytes`].
    fn trace_region_bytes(mesh: Mesh) -> u64 {
        mesh.facts().trace_region_bytes
    }
}

struct OpenVla;

impl Kind for OpenVla {
    type On<B: Backend + 'static> = OpenVlaPolicy<B>;

    fn open<B: Backend + 'static>(
        self,
        backend: B,
        folder: &Path,
        options: &PolicyOptions,
    ) -> Result<Self::On<B>, PolicyError> {
        OpenVlaPolicy::open(backend, folder, options)
    }

    fn with_traces<B: TraceBackend + 'static>(policy: Self::On<B>) -> Self::On<B> {
        policy.with_traces()
    }
}

struct Pi0;

impl Kind for Pi0 {
    type On<B: Backend + 'static> = Pi0Policy<B>;

    fn open<B: Backend + 'static>(
        self,
        backend: B,
        folder: &Path,
        options: &PolicyOptions,
    ) -> Result<Self::On<B>, PolicyError> {
        Pi0Policy::open(backend, folder, options)
    }

    fn with_traces<B: TraceBackend + 'static>(policy: Self::On<B>) -> Self::On<B> {
        policy.with_traces()
    }

    fn trace_region_bytes(mesh: Mesh) -> u64 {
        flow_trace_region_bytes(mesh)
    }
}

/// `strict`: with the checks of the statistics and of unused parts of the checkpoint.
struct Oft {
    contract: OftContract,
    strict: bool,
}

impl Kind for Oft {
    type On<B: Backend + 'static> = OftPolicy<B>;

    fn open<B: Backend + 'static>(
        self,
        backend: B,
        folder: &Path,
        options: &PolicyOptions,
    ) -> Result<Self::On<B>, PolicyError> {
        if self.strict {
            return OftPolicy::open(backend, folder, options, self.contract);
        }
        let checkpoint = OftCheckpoint::open(folder)?;
        OftPolicy::from_checkpoint(backend, checkpoint, options, self.contract)
    }

    fn with_traces<B: TraceBackend + 'static>(policy: Self::On<B>) -> Self::On<B> {
        policy.with_traces()
    }
}

struct Load<'a, K> {
    folder: &'a Path,
    options: PolicyOptions,
    kind: K,
}

impl<K: Kind> Load<'_, K> {
    fn open<B: Backend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<K::On<B>, PolicyLoadError> {
        let options = PolicyOptions { precision: precision.to_owned(), ..self.options };
        Ok(self.kind.open(backend, self.folder, &options)?)
    }
}

impl<K: Kind> WithBackend for Load<'_, K> {
    type Output = Box<dyn Policy>;

    fn trace_region_bytes(&self, mesh: Mesh) -> u64 {
        K::trace_region_bytes(mesh)
    }

    fn run<B: Backend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError> {
        Ok(Box::new(self.open(backend, precision)?))
    }

    fn run_traced<B: TraceBackend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError> {
        if self.options.eager {
            return self.run(backend, precision);
        }
        Ok(Box::new(K::with_traces(self.open(backend, precision)?)))
    }
}

fn load(source: PolicySource<'_>, kind: impl Kind) -> Result<Box<dyn Policy>, PolicyLoadError> {
    let work = Load { folder: source.checkpoint, options: source.options, kind };
    with_backend(source.device, source.precision, source.threads, &source.mesh, work)
}

fn load_oft(
    mut source: PolicySource<'_>,
    strict: bool,
) -> Result<Box<dyn Policy>, PolicyLoadError> {
    let Some(contract) = source.options.oft.take() else {
        let folder = source.checkpoint.display().to_string();
        return Err(PolicyError::Oft(OftError::NoContract(folder)).into());
    };
    load(source, Oft { contract, strict })
}

/// Loads a policy: eager on the CPU, traced on a mesh unless [`PolicyOptions::eager`] is set.
///
/// # Errors
/// When the device is not available or the checkpoint is invalid.
pub fn load_policy(source: PolicySource<'_>) -> Result<Box<dyn Policy>, PolicyLoadError> {
    let folder = locate(source.checkpoint).map_err(PolicyError::from)?;
    let source = PolicySource { checkpoint: &folder, ..source };
    match CheckpointKind::of(source.checkpoint).map_err(PolicyError::from)? {
        CheckpointKind::OpenVla => load(source, OpenVla),
        CheckpointKind::Pi0 | CheckpointKind::Pi05 => load(source, Pi0),
        CheckpointKind::OpenVlaOft => load_oft(source, true),
        CheckpointKind::Scripted => Ok(Box::new(ScriptedPolicy::open(source.checkpoint)?)),
    }
}

/// [`load_policy`] for the checkpoint of an OpenVLA-OFT kit. Kits have statistics that no data set
/// has, such as upper bounds below the lower ones, and parts of a checkpoint that are not used.
///
/// # Errors
/// When the device is not available or the checkpoint is not the kit's.
pub fn load_oft_kit_policy(source: PolicySource<'_>) -> Result<Box<dyn Policy>, PolicyLoadError> {
    load_oft(source, false)
}
