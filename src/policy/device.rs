//! Which device a policy runs on and in which number formats, by the names users give.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::{OpenVlaPolicy, Policy, PolicyError, PolicyOptions};
use crate::backend::cpu::CpuBackend;

/// Tenstorrent boards by their usual names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mesh {
    /// One Wormhole chip.
    N150,
    /// Two chips on one board.
    N300,
    /// Eight chips: four N300.
    T3k,
}

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
    #[error("device '{0}' is not known; use cpu, sim:n150, sim:n300, sim:t3k, tt:n150, tt:n300 or tt:t3k")]
    Unknown(String),
    /// A mesh is asked for but this build has no mesh backend.
    #[error("device {0} needs the mesh backend, which this version does not have yet; use --device cpu")]
    NoMesh(Device),
    /// A precision that the CPU does not compute in.
    #[error("precision {0} is for a mesh; the CPU computes in f32 over the stored bf16 weights, use --precision f32")]
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
    /// Choices of the policy.
    pub options: PolicyOptions,
}

/// The CPU backend, if device and precision ask for it.
///
/// # Errors
/// When they ask for something else.
pub fn cpu_backend(
    device: Device,
    precision: Option<&Precision>,
    threads: usize,
) -> Result<CpuBackend, PolicyLoadError> {
    match (device, precision) {
        (Device::Cpu, None | Some(Precision::F32)) => Ok(CpuBackend::new(threads).map_err(PolicyError::from)?),
        (Device::Cpu, Some(Precision::Mesh(name))) => Err(DeviceError::MeshPrecision(name.clone()).into()),
        (other, _) => Err(DeviceError::NoMesh(other).into()),
    }
}

/// Why a policy could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PolicyLoadError {
    /// The device or precision cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The checkpoint is unfit.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Loads a policy on whichever device is asked for.
///
/// # Errors
/// When the device cannot be had or the checkpoint is unfit.
pub fn load_policy(source: PolicySource<'_>) -> Result<Box<dyn Policy>, PolicyLoadError> {
    let backend = cpu_backend(source.device, source.precision, source.threads)?;
    let options = PolicyOptions { precision: "f32".into(), ..source.options };
    Ok(Box::new(OpenVlaPolicy::open(backend, source.checkpoint, &options)?))
}
