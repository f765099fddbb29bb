//! Which device a policy runs on and in which number formats, by the names users give.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{OpenVlaPolicy, Policy, PolicyError, PolicyOptions};
use crate::backend::Backend;
use crate::backend::cpu::CpuBackend;
use crate::backend::precision::{PrecisionError, PrecisionPolicy};
pub use crate::backend::tt::MeshKind as Mesh;
use crate::backend::tt::{Kernels, OpenError, Provider, WeightCache, open};

/// The policy of a mesh when none is named.
const MESH_DEFAULT: &str = "mixed";

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The host's cores.
    Cpu,
    /// A mesh in software.
    Simulated(Mesh),
    /// A mesh of real chips.
    Tenstorrent(Mesh),
}

/// Which number formats are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precision {
    /// float32 arithmetic over the checkpoint's own weights; CPU only.
    F32,
    /// One of the shipped policies, or a file.
    Mesh(String),
}

/// A device or precision that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No such device.
    #[error(
        "device '{0}' is not known; use cpu, sim:n150, sim:n300, sim:t3k, tt:n150, tt:n300 or \
        tt:t3k"
    )]
    Unknown(String),
    /// A precision that a mesh does not compute in.
    #[error(
        "precision f32 is the CPU's; device {0} computes in bf16, mixed, bfp8 or what a YAML file \
        says"
    )]
    HostPrecision(Device),
    /// A precision that the CPU does not compute in.
    #[error(
        "precision {0} is for a mesh; the CPU computes in f32 over the stored bf16 weights, use \
        --precision f32"
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
        let mesh = match mesh {
            "n150" => Mesh::N150,
            "n300" => Mesh::N300,
            "t3k" => Mesh::T3k,
            _ => return Err(unknown()),
        };
        match provider {
            "sim" => Ok(Self::Simulated(mesh)),
            "tt" => Ok(Self::Tenstorrent(mesh)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (provider, mesh) = match self {
            Self::Cpu => return f.write_str("cpu"),
            Self::Simulated(mesh) => ("sim", mesh),
            Self::Tenstorrent(mesh) => ("tt", mesh),
        };
        let mesh = match mesh {
            Mesh::N150 => "n150",
            Mesh::N300 => "n300",
            Mesh::T3k => "t3k",
        };
        write!(f, "{provider}:{mesh}")
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Mesh(name) => name,
        })
    }
}

impl FromStr for Precision {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "f32" { Self::F32 } else { Self::Mesh(text.to_owned()) })
    }
}

/// Choices of a mesh; the CPU has none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshChoices {
    /// Whose kernels cut patches and choose tokens.
    pub kernels: Kernels,
    /// Folder in which packed weights are kept for the next start; `None` keeps none.
    pub weight_cache: Option<PathBuf>,
}

/// Where and how to load a policy.
#[derive(Clone, Debug)]
pub struct PolicySource<'a> {
    /// Checkpoint folder.
    pub checkpoint: &'a Path,
    /// Where to run it.
    pub device: Device,
    /// Number formats; `None` means the device's default.
    pub precision: Option<&'a Precision>,
    /// Workers of the CPU backend; 0 means one per core.
    pub threads: usize,
    /// Choices of a mesh.
    pub mesh: MeshChoices,
    /// Choices of the policy.
    pub options: PolicyOptions,
}

/// What is done with the backend of a device, whichever it is: the one place where devices part
/// ways.
pub trait WithBackend {
    /// What comes out.
    type Output;
    /// Does it. `precision` is the name of the number formats in force, for reports.
    ///
    /// # Errors
    /// Its own.
    fn run<B: Backend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError>;
}

/// Opens a device in a precision and hands its backend to `work`.
///
/// # Errors
/// When the device or the precision cannot be had, and those of `work`.
pub fn with_backend<W: WithBackend>(
    device: Device,
    precision: Option<&Precision>,
    threads: usize,
    choices: &MeshChoices,
    work: W,
) -> Result<W::Output, PolicyLoadError> {
    let (provider, mesh) = match device {
        Device::Cpu => {
            return match precision {
                None | Some(Precision::F32) => {
                    work.run(CpuBackend::new(threads).map_err(PolicyError::from)?, "f32")
                }
                Some(Precision::Mesh(name)) => Err(DeviceError::MeshPrecision(name.clone()).into()),
            };
        }
        Device::Simulated(mesh) => (Provider::Simulated, mesh),
        Device::Tenstorrent(mesh) => (Provider::Silicon, mesh),
    };
    let name = match precision {
        None => MESH_DEFAULT,
        Some(Precision::Mesh(name)) => name,
        Some(Precision::F32) => return Err(DeviceError::HostPrecision(device).into()),
    };
    // A policy is cheap to read and a mesh is not opened for a wrong one.
    let policy = PrecisionPolicy::load(name)?;
    let name = policy.name.clone();
    let cache = choices.weight_cache.as_ref().map(|folder| {
        WeightCache::open(folder)
            .map_err(|error| PolicyLoadError::WeightCache { path: folder.clone(), reason: error })
    });
    let backend = match cache.transpose()? {
        Some(cache) => open(provider, mesh, policy)?.with_weight_cache(cache),
        None => open(provider, mesh, policy)?,
    };
    work.run(backend.with_kernels(choices.kernels), &name)
}

/// Why a policy could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PolicyLoadError {
    /// The device or precision cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The number formats are unfit.
    #[error(transparent)]
    Precision(#[from] PrecisionError),
    /// The mesh cannot be opened.
    #[error(transparent)]
    Mesh(#[from] OpenError),
    /// A folder for packed weights that cannot be made.
    #[error("weight cache {}: {reason}; name a folder that can be written", path.display())]
    WeightCache {
        /// The folder.
        path: PathBuf,
        /// What the operating system says.
        reason: std::io::Error,
    },
    /// The checkpoint is unfit.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Loads a policy on whichever device is asked for.
///
/// # Errors
/// When the device cannot be had or the checkpoint is unfit.
pub fn load_policy(source: PolicySource<'_>) -> Result<Box<dyn Policy>, PolicyLoadError> {
    struct Load<'a>(&'a Path, PolicyOptions);
    impl WithBackend for Load<'_> {
        type Output = Box<dyn Policy>;
        fn run<B: Backend + 'static>(
            self,
            backend: B,
            precision: &str,
        ) -> Result<Self::Output, PolicyLoadError> {
            let options = PolicyOptions { precision: precision.to_owned(), ..self.1 };
            Ok(Box::new(OpenVlaPolicy::open(backend, self.0, &options)?))
        }
    }
    let work = Load(source.checkpoint, source.options);
    with_backend(source.device, source.precision, source.threads, &source.mesh, work)
}
