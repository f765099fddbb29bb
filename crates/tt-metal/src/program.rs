//! Programs: kernels for the Tensix cores, with their circular buffers and semaphores.

use std::ffi::CString;

use tt_metal_sys as abi;

use crate::{Compute, Error, Format, Mesh, Result, Tensor};

/// A rectangle of cores, both corners included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CoreRange {
    /// First column and row.
    pub first: (u32, u32),
    /// Last column and row.
    pub last: (u32, u32),
}

impl CoreRange {
    /// Number of cores.
    pub fn count(self) -> usize {
        let side = |first: u32, last: u32| (last.saturating_sub(first) as usize).saturating_add(1);
        side(self.first.0, self.last.0).saturating_mul(side(self.first.1, self.last.1))
    }

    fn to_abi(self) -> abi::CoreRange {
        abi::CoreRange { x0: self.first.0, y0: self.first.1, x1: self.last.0, y1: self.last.1 }
    }
}

/// Processor of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Fills circular buffers.
    Reader,
    /// Drains them.
    Writer,
    /// Computes in between.
    Compute,
}

/// One kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// File name under `kernels/`.
    pub name: String,
    /// Its C++ source.
    pub source: String,
    /// Processor it runs on.
    pub role: Role,
    /// Cores it runs on.
    pub cores: CoreRange,
    /// Compile-time arguments.
    pub compile_args: Vec<u32>,
    /// Tensors (by index in the call) whose accessors follow the compile-time arguments.
    pub accessors: Vec<u32>,
    /// Runtime arguments core by core, x fastest; each core has equally many.
    pub runtime_args: Vec<Vec<u32>>,
    /// For compute kernels.
    pub compute: Compute,
}

/// A ring of pages in L1 of each core.
#[derive(Debug, Clone, Copy)]
pub struct CircularBuffer {
    /// Number on the core, 0..32.
    pub index: u32,
    /// Format of its tiles.
    pub format: Format,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Pages in the ring.
    pub pages: u32,
    /// Cores that have one.
    pub cores: CoreRange,
}

/// A counter in L1 of each core.
#[derive(Debug, Clone, Copy)]
pub struct Semaphore {
    /// Number on the core.
    pub id: u32,
    /// Value at the start.
    pub initial: u32,
    /// Cores that have one.
    pub cores: CoreRange,
}

/// Kernels that run together.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// Kernels.
    pub kernels: Vec<Kernel>,
    /// Circular buffers.
    pub buffers: Vec<CircularBuffer>,
    /// Semaphores.
    pub semaphores: Vec<Semaphore>,
}

/// A kernel's texts and arguments in the form that the ABI's pointers refer to.
struct KernelData<'a> {
    kernel: &'a Kernel,
    name: CString,
    source: CString,
    runtime_args: Vec<u32>,
    /// Runtime arguments per core.
    count: u32,
}

impl<'a> KernelData<'a> {
    fn new(kernel: &'a Kernel) -> Result<Self> {
        let count = kernel.runtime_args.first().map_or(0, Vec::len);
        if kernel.runtime_args.len() != kernel.cores.count()
            || kernel.runtime_args.iter().any(|args| args.len() != count)
        {
            return Err(Error::Host(format!(
                "kernel {} runs on {} cores but has runtime arguments for {} (all must have \
                equally many)",
                kernel.name,
                kernel.cores.count(),
                kernel.runtime_args.len()
            )));
        }
        let text = |text: &str| {
            CString::new(text)
                .map_err(|_| Error::Host(format!("kernel {} contains a zero byte", kernel.name)))
        };
        Ok(Self {
            kernel,
            name: text(&kernel.name)?,
            source: text(&kernel.source)?,
            runtime_args: kernel.runtime_args.concat(),
            count: count as u32,
        })
    }

    /// The ABI's structure; its pointers are valid while `self` is borrowed.
    fn to_abi(&self) -> abi::Kernel {
        let Self { kernel, name, source, runtime_args, count } = self;
        abi::Kernel {
            name: name.as_ptr(),
            source: source.as_ptr(),
            compile_args: kernel.compile_args.as_ptr(),
            accessors: kernel.accessors.as_ptr(),
            runtime_args: runtime_args.as_ptr(),
            compile_arg_count: kernel.compile_args.len() as u32,
            accessor_count: kernel.accessors.len() as u32,
            runtime_arg_count: *count,
            role: match kernel.role {
                Role::Reader => abi::TTP_ROLE_READER,
                Role::Writer => abi::TTP_ROLE_WRITER,
                Role::Compute => abi::TTP_ROLE_COMPUTE,
            },
            cores: kernel.cores.to_abi(),
            compute: kernel.compute.to_abi(),
            reserved: 0,
        }
    }
}

impl CircularBuffer {
    fn to_abi(self) -> abi::CircularBuffer {
        abi::CircularBuffer {
            index: self.index,
            format: self.format.to_abi(),
            page_bytes: self.page_bytes,
            pages: self.pages,
            cores: self.cores.to_abi(),
        }
    }
}

impl Semaphore {
    fn to_abi(self) -> abi::Semaphore {
        abi::Semaphore { id: self.id, initial: self.initial, cores: self.cores.to_abi() }
    }
}

impl Mesh {
    /// Runs a program on every chip. The last tensor is its output.
    pub fn run_program(&self, tensors: &[&Tensor], program: &Program) -> Result<()> {
        self.0.take_deferred_error()?;
        let handles: Vec<abi::TensorHandle> = tensors.iter().map(|tensor| tensor.input()).collect();
        // The raw structures point into these, which live until the call returns.
        let data: Vec<KernelData<'_>> =
            program.kernels.iter().map(KernelData::new).collect::<Result<_>>()?;
        let kernels: Vec<abi::Kernel> = data.iter().map(KernelData::to_abi).collect();
        let buffers: Vec<abi::CircularBuffer> =
            program.buffers.iter().map(|buffer| buffer.to_abi()).collect();
        let semaphores: Vec<abi::Semaphore> =
            program.semaphores.iter().map(|semaphore| semaphore.to_abi()).collect();
        let raw = abi::Program {
            kernels: kernels.as_ptr(),
            buffers: buffers.as_ptr(),
            semaphores: semaphores.as_ptr(),
            kernel_count: kernels.len() as u32,
            buffer_count: buffers.len() as u32,
            semaphore_count: semaphores.len() as u32,
            reserved: 0,
        };
        self.0.count_launch();
        // SAFETY: every pointer in `raw` leads into vectors and strings above, which outlive the
        // call, with their lengths.
        let status = unsafe {
            (self.0.api().ttp_run_program)(handles.as_ptr(), handles.len() as u32, &raw const raw)
        };
        self.0.checked("ttp_run_program", status)
    }
}
