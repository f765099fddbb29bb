//! Safe interface to a Tenstorrent provider: meshes, tensors, operations, traces, custom kernels.
//!
//! ```no_run
//! use tt_metal::{
//!     Distribution, Format, HostArray, Layout, LinearOptions, Mesh, MeshOptions, Target,
//!     find_provider,
//! };
//! # fn main() -> Result<(), tt_metal::Error> {
//! let target: Target = "sim:n300".parse()?;
//! let mesh = Mesh::open(&find_provider(target.provider)?, target.board, MeshOptions::default())?;
//! let x = HostArray::f32(&[1.0; 32 * 64], [1, 1, 32, 64]);
//! let x = mesh.upload(x, Distribution::Replicate, Format::Bf16, Layout::Tile)?;
//! // Column-parallel: each of the two chips gets half of the columns.
//! let w = HostArray::f32(&[0.5; 64 * 128], [1, 1, 64, 128]);
//! let w = mesh.upload(w, Distribution::Shard(3), Format::Bfp8B, Layout::Tile)?;
//! let options = LinearOptions { format: Format::Bf16, ..LinearOptions::default() };
//! let y = x.linear(&w, None, options)?;
//! assert_eq!(y.dims(), [1, 1, 32, 64]);
//! # Ok(())
//! # }
//! ```

mod error;
pub mod kernels;
mod mesh;
mod ops;
mod program;
mod target;
mod tensor;
mod trace;
mod types;

pub use error::{Error, Kind, Result};
pub use mesh::{
    DEFAULT_TRACE_REGION_BYTES, Launches, Memory, Mesh, MeshInfo, MeshOptions, RECORDING, Traffic,
};
pub use ops::LinearOptions;
pub use program::{CircularBuffer, CoreRange, Kernel, Program, Role, Semaphore};
pub use target::{PROVIDER_VARIABLE, ProviderKind, Target, find_provider, find_provider_library};
pub use tensor::{Distribution, HostArray, Spec, Tensor, pack};
pub use trace::Trace;
pub use tt_metal_sys::boards::{BoardFacts, Chip};
pub use tt_metal_sys::{Api, LoadError, Provider, TTP_ABI_VERSION as ABI_VERSION};
pub use types::{Activation, Board, Combine, Compute, Fidelity, Format, Layout, RopeOrder};
