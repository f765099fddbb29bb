//! An open mesh.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tt_metal_sys as abi;
use tt_metal_sys::{Api, Provider, Status};

use crate::tensor::{Distribution, HostArray, Spec, Tensor};
use crate::{Board, Error, Format, Layout, Result};

/// End of the name of a provider that records calls and keeps shapes only: it reads no array that
/// it is given, and gives zeros.
pub const RECORDING: &str = "(recording)";
/// Bytes of every bank that [`MeshOptions::default`] reserves for traces: those of a 7B model.
pub const DEFAULT_TRACE_REGION_BYTES: u64 = 48 << 20;

/// Options of opening a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshOptions {
    /// Bytes of every DRAM bank reserved for traces; 0 forbids traces.
    pub trace_region_bytes: u64,
    /// DRAM per chip, bytes, if less than the board has. Simulated meshes only.
    pub dram_limit_bytes: Option<u64>,
    /// 1, or 2 to write inputs while operations run.
    pub command_queues: u32,
}

impl Default for MeshOptions {
    /// Room for the traces of a 7B model, all of the DRAM, one queue.
    fn default() -> Self {
        Self {
            trace_region_bytes: DEFAULT_TRACE_REGION_BYTES,
            dram_limit_bytes: None,
            command_queues: 1,
        }
    }
}

/// Properties of an open mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshInfo {
    /// The board.
    pub board: Board,
    /// Number of chips, in one row.
    pub chips: usize,
    /// Whether the last chip is connected to the first.
    pub ring: bool,
    /// Compute cores per chip: columns, rows.
    pub grid: (u32, u32),
    /// DRAM banks per chip.
    pub dram_banks: u32,
    /// DRAM per chip that tensors can use, bytes.
    pub dram_bytes: u64,
    /// L1 per core, bytes.
    pub l1_bytes: u64,
    /// Whether the mesh is simulated.
    pub simulated: bool,
    /// Pages in DRAM start at multiples of this, in bytes; what a kernel reads needs the same
    /// remainder in L1.
    pub dram_alignment: u32,
    /// Ethernet links that a collective uses between neighbours; 0 for one chip.
    pub links: u32,
}

/// DRAM of one chip, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Available to tensors.
    pub total: u64,
    /// Allocated.
    pub allocated: u64,
    /// Not allocated.
    pub free: u64,
    /// Largest contiguous allocation that would fit.
    pub largest_free: u64,
    /// Highest allocation since the mesh was opened.
    pub peak: u64,
}

/// An open mesh; clones are the same mesh. It is closed with [`Mesh::close`] or with its last clone
/// and tensor.
#[derive(Clone)]
pub struct Mesh(pub(crate) Arc<Inner>);

/// Tensors around a capture: what a trace reads must outlive it.
#[derive(Default)]
pub(crate) struct Capturing {
    pub made: HashSet<u64>,
    pub read: HashMap<u64, Tensor>,
}

pub(crate) struct Inner {
    provider: Provider,
    pub handle: abi::MeshHandle,
    info: MeshInfo,
    closed: AtomicBool,
    deferred: Mutex<Option<Error>>,
    capturing: Mutex<Option<Capturing>>,
    /// Reads, bytes read, writes, bytes written: see [`Traffic`].
    traffic: [AtomicU64; 4],
    /// Launched by the host, captured: see [`Launches`].
    launches: [AtomicU64; 2],
}

/// Transfers between host and mesh; each of them synchronises the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Shards read.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Host arrays written.
    pub writes: u64,
    /// Bytes of these arrays, each counted once for all chips.
    pub written_bytes: u64,
}

/// Operations of the C ABI; an execution of a trace adds none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Launches {
    /// Launched by the host.
    pub eager: u64,
    /// Captured in traces.
    pub captured: u64,
}

/// An error while a mesh was closed by its last owner: returned by the next `Mesh::open`.
static CLOSING: Mutex<Option<Error>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No holder of these locks panics between two dependent changes, so a poisoned lock is usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub fn api(&self) -> &Api {
        self.provider.api()
    }

    /// Returns an error that a destructor left behind; called before new work.
    pub fn take_deferred_error(&self) -> Result<()> {
        match lock(&self.deferred).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Keeps an error that cannot be returned; later ones are dropped.
    pub fn defer(&self, error: Error) {
        lock(&self.deferred).get_or_insert(error);
    }

    /// A status as a result.
    pub fn checked(&self, call: &'static str, status: Status) -> Result<()> {
        if status == abi::TTP_OK { Ok(()) } else { Err(Error::provider(self.api(), call, status)) }
    }

    /// Adds a transfer to the counters from index `first` on.
    fn count(&self, first: usize, bytes: usize) {
        self.traffic[first].fetch_add(1, Ordering::Relaxed);
        self.traffic[first + 1].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn count_read(&self, bytes: usize) {
        self.count(0, bytes);
    }

    pub fn count_write(&self, bytes: usize) {
        self.count(2, bytes);
    }

    /// Adds an operation to [`Mesh::launches`].
    pub fn count_launch(&self) {
        let captured = self.capturing().is_some();
        self.launches[usize::from(captured)].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the mesh was closed; its handles are invalid.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn capturing(&self) -> MutexGuard<'_, Option<Capturing>> {
        lock(&self.capturing)
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // SAFETY: a plain call with a number; the provider refuses handles it does not know.
        let status = unsafe { (self.api().ttp_mesh_close)(self.handle) };
        self.checked("ttp_mesh_close", status)
    }
}

/// Whether what the provider opened is the board that was asked for: packing and kernels depend on
/// the number of chips, the kind of chip and the alignment of its memory.
fn check_answer(board: Board, info: MeshInfo, architecture: u32) -> Result<()> {
    let facts = board.facts();
    let pairs = [
        ("chips", info.chips as u64, u64::from(facts.chips)),
        ("as the architecture", u64::from(architecture), u64::from(facts.chip.architecture)),
        ("bytes of DRAM alignment", u64::from(info.dram_alignment), facts.chip.dram_alignment),
    ];
    match pairs.iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some((what, found, expected)) => Err(Error::Host(format!(
            "the provider opened {found} {what} for {board}, expected {expected}: name the board \
            that this machine has, one of {}",
            Board::names("")
        ))),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let deferred = lock(&self.deferred).take();
        if let Some(error) = self.close().err().or(deferred) {
            lock(&CLOSING).get_or_insert(error);
        }
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({} of {})", self.0.info.board, self.0.provider.name())
    }
}

impl Mesh {
    /// Opens the mesh that a board forms.
    pub fn open(provider: &Provider, board: Board, options: MeshOptions) -> Result<Self> {
        if let Some(error) = lock(&CLOSING).take() {
            return Err(error);
        }
        let config = abi::MeshConfig {
            struct_size: size_of::<abi::MeshConfig>() as u32,
            board: board.to_abi(),
            trace_region_bytes: options.trace_region_bytes,
            dram_limit_bytes: options.dram_limit_bytes.unwrap_or(0),
            command_queues: options.command_queues,
            reserved: 0,
        };
        let api = provider.api();
        let mut handle = 0;
        // SAFETY: both pointers are valid for the call.
        let status = unsafe { (api.ttp_mesh_open)(&raw const config, &raw mut handle) };
        if status != abi::TTP_OK {
            return Err(Error::provider(api, "ttp_mesh_open", status));
        }
        let mut raw = abi::MeshInfo {
            struct_size: size_of::<abi::MeshInfo>() as u32,
            board: 0,
            rows: 0,
            columns: 0,
            ring: 0,
            grid_x: 0,
            grid_y: 0,
            dram_banks: 0,
            dram_bytes: 0,
            l1_bytes: 0,
            simulated: 0,
            architecture: 0,
            dram_alignment: 0,
            links: 0,
        };
        // SAFETY: the pointer is valid for the call and struct_size is set.
        let status = unsafe { (api.ttp_mesh_describe)(handle, &raw mut raw) };
        let info = MeshInfo {
            board,
            chips: raw.rows.saturating_mul(raw.columns) as usize,
            ring: raw.ring != 0,
            grid: (raw.grid_x, raw.grid_y),
            dram_banks: raw.dram_banks,
            dram_bytes: raw.dram_bytes,
            l1_bytes: raw.l1_bytes,
            simulated: raw.simulated != 0,
            dram_alignment: raw.dram_alignment,
            links: raw.links,
        };
        let inner = Inner {
            provider: provider.clone(),
            handle,
            info,
            closed: AtomicBool::new(false),
            deferred: Mutex::default(),
            capturing: Mutex::default(),
            traffic: Default::default(),
            launches: Default::default(),
        };
        inner.checked("ttp_mesh_describe", status)?;
        check_answer(board, info, raw.architecture)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Closes the mesh. Using a remaining tensor or trace is an error; dropping it is not.
    pub fn close(self) -> Result<()> {
        self.0.take_deferred_error()?;
        self.0.close()
    }

    /// Properties of the mesh.
    pub fn info(&self) -> MeshInfo {
        self.0.info
    }

    /// Number of chips.
    pub fn chips(&self) -> usize {
        self.0.info.chips
    }

    /// Name of the provider.
    pub fn provider_name(&self) -> &str {
        self.0.provider.name()
    }

    /// The provider.
    pub fn provider(&self) -> &Provider {
        &self.0.provider
    }

    /// Transfers since the mesh was opened.
    pub fn traffic(&self) -> Traffic {
        let [reads, read_bytes, writes, written_bytes] =
            [0, 1, 2, 3].map(|i| self.0.traffic[i].load(Ordering::Relaxed));
        Traffic { reads, read_bytes, writes, written_bytes }
    }

    /// Operations since the mesh was opened.
    pub fn launches(&self) -> Launches {
        let [eager, captured] = [0, 1].map(|i| self.0.launches[i].load(Ordering::Relaxed));
        Launches { eager, captured }
    }

    /// DRAM of one chip.
    pub fn memory(&self, chip: usize) -> Result<Memory> {
        self.0.take_deferred_error()?;
        let mut raw =
            abi::MemoryStats { total: 0, allocated: 0, free: 0, largest_free: 0, peak: 0 };
        let chip =
            u32::try_from(chip).map_err(|_| Error::Host(format!("chip {chip} does not exist")))?;
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { (self.0.api().ttp_mesh_memory)(self.0.handle, chip, &raw mut raw) };
        self.0.checked("ttp_mesh_memory", status)?;
        Ok(Memory {
            total: raw.total,
            allocated: raw.allocated,
            free: raw.free,
            largest_free: raw.largest_free,
            peak: raw.peak,
        })
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<()> {
        self.0.take_deferred_error()?;
        // SAFETY: a plain call with a number.
        let status = unsafe { (self.0.api().ttp_mesh_synchronize)(self.0.handle) };
        self.0.checked("ttp_mesh_synchronize", status)
    }

    /// A tensor of zeros on every chip.
    pub fn zeros(&self, dims: [usize; 4], format: Format, layout: Layout) -> Result<Tensor> {
        self.create(Spec { dims, format, layout }, true)
    }

    /// A tensor that must be written before it is read: caches and outputs of custom kernels.
    pub fn empty(&self, dims: [usize; 4], format: Format, layout: Layout) -> Result<Tensor> {
        self.create(Spec { dims, format, layout }, false)
    }

    fn create(&self, spec: Spec, zeroed: bool) -> Result<Tensor> {
        self.0.take_deferred_error()?;
        let raw = spec.to_abi()?;
        let mut handle = 0;
        // SAFETY: both pointers are valid for the call.
        let status = unsafe {
            (self.0.api().ttp_tensor_create)(
                self.0.handle,
                &raw const raw,
                u32::from(zeroed),
                &raw mut handle,
            )
        };
        self.0.checked("ttp_tensor_create", status)?;
        Tensor::adopt(self.0.clone(), handle)
    }

    /// Copies a host array to the chips, rounded to `format` on the host. A packed array is copied
    /// as it is.
    pub fn upload(
        &self,
        array: HostArray<'_>,
        distribution: Distribution,
        format: Format,
        layout: Layout,
    ) -> Result<Tensor> {
        self.0.take_deferred_error()?;
        let (host, distribution) = (array.to_abi()?, distribution.to_abi());
        let mut handle = 0;
        // SAFETY: all pointers are valid for the call; `host` borrows `array`, which outlives it.
        let status = unsafe {
            (self.0.api().ttp_tensor_upload)(
                self.0.handle,
                &raw const host,
                &raw const distribution,
                format.to_abi(),
                layout.to_abi(),
                &raw mut handle,
            )
        };
        self.0.checked("ttp_tensor_upload", status)?;
        self.0.count_write(array.length());
        Tensor::adopt(self.0.clone(), handle)
    }
}
