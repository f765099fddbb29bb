//! Device and precision of a policy, by their names on the command line, and work on their backend.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{PolicyError, PolicyOptions};
use crate::backend::cpu::{CpuBackend, CpuPrecision};
use crate::backend::precision::{PrecisionError, PrecisionPolicy};
pub use crate::backend::tt::MeshKind as Mesh;
use crate::backend::tt::{Kernels, OpenError, Provider, WeightCache, open_with};
use crate::backend::{Backend, TraceBackend};

/// Default precision policy of a mesh.
const MESH_DEFAULT: &str = "mixed";

/// Device of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The host's CPU cores.
    Cpu,
    /// A simulated mesh.
    Simulated(Mesh),
    /// A mesh of real chips.
    Tenstorrent(Mesh),
}

/// Number formats of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precision {
    /// float32 arithmetic on the stored weights; CPU only.
    F32,
    /// Name of a built-in precision policy of the device, or a YAML file.
    Named(String),
}

/// An unknown device, or a precision that the device does not support.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Unknown device.
    #[error(
        "device '{0}' is not known; use one of cpu, {names}",
        names = tt_metal::Target::names()
    )]
    Unknown(String),
    /// float32 on a mesh.
    #[error(
        "precision f32 is the CPU's; device {0} computes in bf16, mixed, bfp8 or what a YAML file \
        says"
    )]
    HostPrecision(Device),
    /// A mesh precision on the CPU.
    #[error(
        "precision {0} is for a mesh; the CPU computes in f32, bf16, int8 or what a YAML file like \
        config/precision/cpu_int8.yaml says"
    )]
    MeshPrecision(String),
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        if text == "cpu" {
            return Ok(Self::Cpu);
        }
        let (provider, mesh) = text.split_once(':').ok_or_else(unknown)?;
        let mesh = Mesh::named(mesh).ok_or_else(unknown)?;
        match provider {
            "sim" => Ok(Self::Simulated(mesh)),
            "tt" => Ok(Self::Tenstorrent(mesh)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Simulated(mesh) => write!(f, "sim:{mesh}"),
            Self::Tenstorrent(mesh) => write!(f, "tt:{mesh}"),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Named(name) => name,
        })
    }
}

impl FromStr for Precision {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "f32" { Self::F32 } else { Self::Named(text.to_owned()) })
    }
}

/// Options of a mesh; ignored on the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshChoices {
    /// Implementation of patch extraction and argmax.
    pub kernels: Kernels,
    /// Folder of the packed-weight cache; `None` for no cache.
    pub weight_cache: Option<PathBuf>,
}

/// Parameters of [`load_policy`](super::load_policy).
#[derive(Clone, Debug)]
pub struct PolicySource<'a> {
    /// Checkpoint folder.
    pub checkpoint: &'a Path,
    /// Device.
    pub device: Device,
    /// Number formats; `None` for the device's default.
    pub precision: Option<&'a Precision>,
    /// Threads of the CPU backend; 0 for one per core.
    pub threads: usize,
    /// Options of a mesh.
    pub mesh: MeshChoices,
    /// Options of the policy.
    pub options: PolicyOptions,
}

/// Work on the backend of a device chosen at run time.
pub trait WithBackend: Sized {
    /// Result of the work.
    type Output;
    /// Bytes of every DRAM bank to reserve for traces on a mesh.
    fn trace_region_bytes(&self, mesh: Mesh) -> u64 {
        mesh.facts().trace_region_bytes
    }
    /// Runs the work. `precision` is the name of the number formats in force, for reports.
    ///
    /// # Errors
    /// Those of the work.
    fn run<B: Backend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError>;
    /// [`WithBackend::run`] on a device that executes traces.
    ///
    /// # Errors
    /// Those of the work.
    fn run_traced<B: TraceBackend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError> {
        self.run(backend, precision)
    }
}

/// Opens a device with a precision and runs `work` on its backend.
///
/// # Errors
/// When the device or the precision is not available, and those of `work`.
pub fn with_backend<W: WithBackend>(
    device: Device,
    precision: Option<&Precision>,
    threads: usize,
    choices: &MeshChoices,
    work: W,
) -> Result<W::Output, PolicyLoadError> {
    let (provider, mesh) = match device {
        Device::Cpu => {
            let policy = match precision {
                None | Some(Precision::F32) => CpuPrecision::load("f32")?,
                Some(Precision::Named(name)) if matches!(name.as_str(), "mixed" | "bfp8") => {
                    return Err(DeviceError::MeshPrecision(name.clone()).into());
                }
                Some(Precision::Named(name)) => CpuPrecision::load(name)?,
            };
            let name = policy.name.clone();
            let backend = CpuBackend::new(threads).map_err(PolicyError::from)?;
            return work.run(backend.with_precision(policy), &name);
        }
        Device::Simulated(mesh) => (Provider::Simulated, mesh),
        Device::Tenstorrent(mesh) => (Provider::Silicon, mesh),
    };
    let name = match precision {
        None => MESH_DEFAULT,
        Some(Precision::Named(name)) => name,
        Some(Precision::F32) => return Err(DeviceError::HostPrecision(device).into()),
    };
    // Read first: no mesh is opened for an invalid precision policy.
    let policy = PrecisionPolicy::load(name)?;
    let name = policy.name.clone();
    let cache = choices.weight_cache.as_ref().map(|folder| {
        WeightCache::open(folder)
            .map_err(|error| PolicyLoadError::WeightCache { path: folder.clone(), reason: error })
    });
    let opened = || open_with(provider, mesh, policy, work.trace_region_bytes(mesh));
    let backend = match cache.transpose()? {
        Some(cache) => opened()?.with_weight_cache(cache),
        None => opened()?,
    };
    work.run_traced(backend.with_kernels(choices.kernels), &name)
}

/// Error of loading a policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyLoadError {
    /// Unknown device or unsupported precision.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Invalid precision policy.
    #[error(transparent)]
    Precision(#[from] PrecisionError),
    /// The mesh could not be opened.
    #[error(transparent)]
    Mesh(#[from] OpenError),
    /// The weight cache's folder could not be created.
    #[error("weight cache {}: {reason}; name a folder that can be written", path.display())]
    WeightCache {
        /// The folder.
        path: PathBuf,
        /// Error of the operating system.
        reason: std::io::Error,
    },
    /// Invalid checkpoint, or the model could not be loaded.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}
