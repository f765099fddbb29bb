//! A mesh: tensors, memory and compiled programs.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};
use tt_metal_sys as abi;
use tt_metal_sys::boards::BoardFacts;

use crate::board;
use crate::clock::CostClock;
use crate::error::{Refusal, Result, ensure, refusal};
use crate::format::{Format, Layout, Spec, Values};
use crate::host::{self, Distribution, HostArray};
use crate::memory::{Allocator, Block};
use crate::op::{Need, Op, Shards, l1, replicated};
use crate::program::OwnedProgram;
use crate::record::Recorder;
use crate::trace::{Capture, Command, Trace};

/// Written part of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// Nothing.
    Nothing,
    /// These rows of dimension 2, in every head.
    Rows(Vec<bool>),
    /// Everything.
    All,
    /// Overwritten by a trace that writes the same addresses.
    Overwritten(u64),
}

/// A tensor and its memory.
#[derive(Debug)]
pub struct Tensor {
    /// Spec of one chip's part.
    pub spec: Spec,
    /// Its block on every chip; `None` once freed.
    pub block: Option<Block>,
    /// Its elements, chip by chip.
    pub chips: Shards,
    /// Written part.
    pub written: Written,
}

/// An open mesh.
pub struct Mesh {
    id: u64,
    board: &'static BoardFacts,
    trace_region: u64,
    pub(crate) memory: Allocator,
    pub(crate) tensors: HashMap<u64, Tensor>,
    pub(crate) traces: HashMap<u64, Trace>,
    pub(crate) capture: Option<Capture>,
    programs: HashSet<(Op, Vec<Spec>)>,
    pub(crate) clock: CostClock,
    /// Programs of custom kernels, by number.
    kernels: Vec<Arc<OwnedProgram>>,
    /// Blocks of tensors at the time of their capture in a trace.
    captured: HashMap<u64, u64>,
    next: u64,
    /// Set on a mesh that records: it keeps no elements.
    recorder: Option<Recorder>,
}

/// The upper bits of a handle are its mesh, which identifies handles of another mesh.
const MESH_SHIFT: u32 = 40;

/// The mesh part of a handle.
pub fn mesh_of(handle: u64) -> u64 {
    handle >> MESH_SHIFT << MESH_SHIFT
}

/// The handle of the `serial`-th mesh of this process.
pub fn mesh_handle(serial: u64) -> u64 {
    serial << MESH_SHIFT
}

impl Mesh {
    /// Opens a mesh under a handle made by [`mesh_handle`].
    pub fn open(id: u64, config: &abi::MeshConfig, recorder: Option<Recorder>) -> Result<Self> {
        ensure!(
            config.struct_size as usize == size_of::<abi::MeshConfig>(),
            "mesh configuration of {} bytes, expected {}: built against another header",
            config.struct_size,
            size_of::<abi::MeshConfig>()
        );
        ensure!(
            matches!(config.command_queues, 1 | 2),
            "{} command queues: a chip has 1 or 2",
            config.command_queues
        );
        let board = board::from_abi(config.board)?;
        let limit = (config.dram_limit_bytes > 0).then_some(config.dram_limit_bytes);
        let memory = Allocator::new(board.chip, limit, config.trace_region_bytes);
        ensure!(
            memory.stats().total > 0,
            "a trace region of {} B in each bank leaves no DRAM for tensors",
            config.trace_region_bytes
        );
        let mesh = Self {
            id,
            board,
            trace_region: config.trace_region_bytes,
            memory,
            tensors: HashMap::new(),
            traces: HashMap::new(),
            capture: None,
            programs: HashSet::new(),
            clock: CostClock::from_environment()?,
            kernels: Vec::new(),
            captured: HashMap::new(),
            next: 0,
            recorder,
        };
        mesh.record("open", || {
            let info = mesh.info();
            json!({ "board": info.board, "chips": info.columns, "ring": info.ring == 1,
                "grid": [info.grid_x, info.grid_y], "dram_banks": info.dram_banks,
                "dram_bytes": info.dram_bytes,
                "trace_region_bytes": config.trace_region_bytes,
                "command_queues": config.command_queues })
        })?;
        Ok(mesh)
    }

    /// Whether the mesh records.
    pub(crate) fn records(&self) -> bool {
        self.recorder.is_some()
    }

    /// Writes a line if the mesh records.
    pub(crate) fn record(&self, call: &str, of: impl FnOnce() -> Value) -> Result<()> {
        self.recorder.as_ref().map_or(Ok(()), |recorder| recorder.line(call, of()))
    }

    /// Number of chips.
    pub fn chips(&self) -> usize {
        self.board.chips as usize
    }

    /// Facts of the board.
    pub(crate) fn board(&self) -> &'static BoardFacts {
        self.board
    }

    /// Properties of the mesh.
    pub fn info(&self) -> abi::MeshInfo {
        abi::MeshInfo {
            struct_size: size_of::<abi::MeshInfo>() as u32,
            board: self.board.id,
            rows: 1,
            columns: self.board.chips,
            ring: u32::from(self.board.ring),
            grid_x: self.board.grid.0,
            grid_y: self.board.grid.1,
            dram_banks: self.board.chip.dram_banks as u32,
            dram_bytes: self.memory.stats().total,
            l1_bytes: self.board.chip.l1_bytes,
            simulated: 1,
            architecture: self.board.chip.architecture,
            dram_alignment: self.board.chip.dram_alignment as u32,
            links: self.board.links,
        }
    }

    /// DRAM of one chip.
    pub fn memory(&self, chip: u32) -> Result<abi::MemoryStats> {
        self.chip(chip)?;
        Ok(self.memory.stats())
    }

    fn chip(&self, chip: u32) -> Result<usize> {
        ensure!(
            chip < self.board.chips,
            "chip {chip} does not exist: the mesh has {}",
            self.board.chips
        );
        Ok(chip as usize)
    }

    /// A new handle.
    pub(crate) fn handle(&mut self) -> u64 {
        self.next += 1;
        self.id + self.next
    }

    /// A live tensor; the error says why the handle is invalid.
    pub(crate) fn tensor(&self, handle: u64) -> Result<&Tensor> {
        match self.tensors.get(&handle) {
            Some(tensor) if tensor.block.is_some() => Ok(tensor),
            _ => Err(self.bad_handle(handle, "tensor")),
        }
    }

    pub(crate) fn bad_handle(&self, handle: u64, kind: &str) -> Refusal {
        let serial = handle - mesh_of(handle);
        let why = if handle == 0 {
            "0 is no handle".into()
        } else if mesh_of(handle) != self.id {
            "it belongs to another mesh".into()
        } else if serial > 0 && serial <= self.next {
            format!("it was freed, or is no {kind}")
        } else {
            "it was never given out".into()
        };
        refusal(abi::TTP_BAD_HANDLE, format!("{kind} handle {handle:#x}: {why}"))
    }

    /// Refuses host access and allocation during a capture.
    pub(crate) fn not_while_capturing(&self, what: &str) -> Result<()> {
        match self.capture {
            Some(_) => Err(refusal(
                abi::TTP_TRACE_RULE,
                format!(
                    "{what} is not possible while a trace is captured: do it before \
                    ttp_trace_begin or after ttp_trace_end"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Room for traces in every bank.
    pub(crate) fn trace_region(&self) -> u64 {
        self.trace_region
    }

    pub(crate) fn add(&mut self, spec: Spec, chips: Shards, written: Written) -> Result<u64> {
        let block = self.memory.allocate(&spec)?;
        let handle = self.handle();
        self.tensors.insert(handle, Tensor { spec, block: Some(block), chips, written });
        Ok(handle)
    }

    fn fresh(&self, spec: &Spec) -> Shards {
        replicated(Values::zeros(spec.format, spec.elements()), self.chips())
    }

    /// A tensor of zeros, or one that must be written before it is read.
    pub fn create(&mut self, spec: Spec, zeroed: bool) -> Result<u64> {
        self.not_while_capturing("creating a tensor")?;
        // Allocated first, so that a tensor that does not fit takes no host memory.
        let handle =
            self.add(spec, Vec::new(), if zeroed { Written::All } else { Written::Nothing })?;
        if self.records() {
            self.record("create", || json!({ "tensor": handle, "spec": spec }))?;
            return Ok(handle);
        }
        let chips = self.fresh(&spec);
        if let Some(tensor) = self.tensors.get_mut(&handle) {
            tensor.chips = chips;
        }
        Ok(handle)
    }

    /// Host array to device.
    pub fn upload(
        &mut self,
        array: &HostArray<'_>,
        distribution: Distribution,
        format: Format,
        layout: Layout,
    ) -> Result<u64> {
        self.not_while_capturing("uploading a tensor")?;
        let spec = Spec::new(distribution.shard_dims(array.dims, self.chips())?, format, layout)?;
        array.check(&spec, distribution, self.chips())?;
        let handle = self.add(spec, Vec::new(), Written::All)?;
        if self.records() {
            self.record("upload", || json!({ "tensor": handle, "spec": spec }))?;
            return Ok(handle);
        }
        match host::shards(array, distribution, &spec, self.chips()) {
            Ok(chips) => {
                if let Some(tensor) = self.tensors.get_mut(&handle) {
                    tensor.chips = chips;
                }
                Ok(handle)
            }
            Err(refusal) => {
                self.free(handle)?;
                Err(refusal)
            }
        }
    }

    /// Host array into an existing tensor.
    pub fn write(
        &mut self,
        handle: u64,
        array: &HostArray<'_>,
        distribution: Distribution,
    ) -> Result<()> {
        self.not_while_capturing("writing a tensor")?;
        let spec = self.tensor(handle)?.spec;
        let dims = distribution.shard_dims(array.dims, self.chips())?;
        ensure!(
            dims == spec.dims,
            "write: the array gives {dims:?} per chip, the tensor is {spec}"
        );
        array.check(&spec, distribution, self.chips())?;
        self.record("write", || json!({ "tensor": handle, "spec": spec }))?;
        let chips = match self.records() {
            true => Vec::new(),
            false => host::shards(array, distribution, &spec, self.chips())?,
        };
        if let Some(tensor) = self.tensors.get_mut(&handle) {
            tensor.chips = chips;
            tensor.written = Written::All;
        }
        Ok(())
    }

    /// One chip's shard, row-major.
    pub fn read(&self, handle: u64, chip: u32, format: Format, out: &mut [u8]) -> Result<()> {
        self.not_while_capturing("reading a tensor")?;
        let chip = self.chip(chip)?;
        let tensor = self.tensor(handle)?;
        require_all(tensor, handle, "read")?;
        if self.records() {
            let spec = &tensor.spec;
            host::check_read(spec, format, out.len())?;
            out.fill(0);
            return self.record("read", || json!({ "tensor": handle, "chip": chip }));
        }
        host::read(&tensor.spec, &tensor.chips[chip], format, out)
    }

    /// The number of a program, the same for the same program.
    pub(crate) fn program_number(&mut self, program: OwnedProgram) -> usize {
        self.kernels.iter().position(|known| **known == program).unwrap_or_else(|| {
            self.kernels.push(Arc::new(program));
            self.kernels.len() - 1
        })
    }

    pub(crate) fn program(&self, id: usize) -> Option<Arc<OwnedProgram>> {
        self.kernels.get(id).cloned()
    }

    /// Key of an operation's compiled program: programs that differ in runtime arguments only share
    /// the first one's.
    fn compiled(&self, op: Op) -> Op {
        let Op::Program { id } = op else { return op };
        let same = |known: &Arc<OwnedProgram>| {
            self.kernels.get(id).is_some_and(|program| known.compiles_as(program))
        };
        Op::Program { id: self.kernels.iter().position(same).unwrap_or(id) }
    }

    /// Block of a tensor, or its block at the time of capture.
    pub(crate) fn captured_address(&self, handle: u64) -> Option<u64> {
        let now =
            self.tensors.get(&handle).and_then(|tensor| tensor.block).map(|block| block.start);
        now.or_else(|| self.captured.get(&handle).copied())
    }

    pub(crate) fn forget_address(&mut self, handle: u64) {
        self.captured.remove(&handle);
    }

    /// Frees memory. A tensor captured in a trace keeps its elements, not its memory.
    pub fn free(&mut self, handle: u64) -> Result<()> {
        self.tensor(handle)?;
        self.record("free", || json!({ "tensor": handle }))?;
        let captured = self.capture.as_ref().is_some_and(|capture| capture.owned.contains(&handle))
            || self.traces.values().any(|trace| trace.owned.contains(&handle));
        let block = if captured {
            self.tensors.get_mut(&handle).and_then(|tensor| tensor.block.take())
        } else {
            self.tensors.remove(&handle).and_then(|tensor| tensor.block)
        };
        if let Some(block) = block {
            if captured {
                self.captured.insert(handle, block.start);
            }
            self.memory.release(block);
        }
        Ok(())
    }

    /// Refuses what [`Mesh::dispatch`] would refuse before it runs.
    pub fn check(&self, op: Op, inputs: &[u64]) -> Result<()> {
        let specs: Vec<Spec> = inputs
            .iter()
            .map(|handle| self.tensor(*handle).map(|tensor| tensor.spec))
            .collect::<Result<_>>()?;
        op.check(&specs, self.chips()).map(drop)
    }

    /// Runs an operation, or captures it. Returns the handles of its outputs.
    pub fn dispatch(&mut self, op: Op, inputs: &[u64]) -> Result<Vec<u64>> {
        let specs: Vec<Spec> = inputs
            .iter()
            .map(|handle| self.tensor(*handle).map(|tensor| tensor.spec))
            .collect::<Result<_>>()?;
        if op.in_place() {
            ensure!(
                !inputs[1..].contains(&inputs[0]),
                "{}: the target is also an input",
                op.name()
            );
        }
        let outputs = op.check(&specs, self.chips())?;
        l1::check(&op, &specs, self.board)?;
        let program = (self.compiled(op), specs);
        if self.capture.is_some() {
            if !self.programs.contains(&program) {
                return Err(refusal(
                    abi::TTP_TRACE_RULE,
                    format!(
                        "{} of {} was not compiled before the capture: run the same sequence once \
                        outside a trace",
                        op.name(),
                        program.1.iter().map(Spec::to_string).collect::<Vec<_>>().join(", ")
                    ),
                ));
            }
            self.clock.launch(op.launches(&program.1), false);
            let handles = self.reserve(&outputs)?;
            self.record_operation(op, (inputs, &handles), (&program.1, &outputs))?;
            if let Some(capture) = &mut self.capture {
                capture.owned.extend(&handles);
                capture.commands.push(Command {
                    op,
                    inputs: inputs.to_vec(),
                    outputs: handles.clone(),
                    specs: program.1,
                    output_specs: outputs,
                });
            }
            self.note_blocks();
            return Ok(handles);
        }
        self.clock.launch(op.launches(&program.1), !self.programs.contains(&program));
        let handles = self.reserve(&outputs)?;
        self.record_operation(op, (inputs, &handles), (&program.1, &outputs))?;
        if let Err(refusal) = self.execute(op, inputs, &program.1, &handles, &outputs) {
            handles.iter().try_for_each(|handle| self.free(*handle))?;
            return Err(refusal);
        }
        self.programs.insert(program);
        Ok(handles)
    }

    fn record_operation(
        &self,
        op: Op,
        (inputs, outputs): (&[u64], &[u64]),
        specs: (&[Spec], &[Spec]),
    ) -> Result<()> {
        self.record("run", || {
            json!({ "op": op, "in": inputs, "out": outputs, "in_specs": specs.0,
                "out_specs": specs.1 })
        })
    }

    fn reserve(&mut self, outputs: &[Spec]) -> Result<Vec<u64>> {
        let mut handles = Vec::with_capacity(outputs.len());
        for spec in outputs {
            match self.add(*spec, Vec::new(), Written::Nothing) {
                Ok(handle) => handles.push(handle),
                Err(refusal) => {
                    handles.iter().try_for_each(|handle| self.free(*handle))?;
                    return Err(refusal);
                }
            }
        }
        Ok(handles)
    }

    /// Runs an operation on existing tensors, freed or not (as a trace does).
    pub(crate) fn execute(
        &mut self,
        op: Op,
        inputs: &[u64],
        specs: &[Spec],
        outputs: &[u64],
        output_specs: &[Spec],
    ) -> Result<()> {
        if self.records() {
            // Which rows an operation writes is in elements that are not kept.
            let program = matches!(op, Op::Program { .. });
            let target = if program { inputs.last() } else { inputs.first() };
            let target = target.filter(|_| program || op.in_place());
            for handle in outputs.iter().chain(target) {
                if let Some(tensor) = self.tensors.get_mut(handle) {
                    tensor.written = Written::All;
                }
            }
            return Ok(());
        }
        self.require_written(op, inputs)?;
        if let Op::Program { id } = op {
            return self.execute_program(id, inputs);
        }
        if op.in_place() {
            return self.execute_in_place(op, inputs, specs);
        }
        let shards: Vec<Shards> = inputs
            .iter()
            .map(|handle| self.stored(*handle).map(|tensor| tensor.chips.clone()))
            .collect::<Result<_>>()?;
        for (handle, chips) in outputs.iter().zip(op.run(specs, &shards, output_specs)?) {
            if let Some(tensor) = self.tensors.get_mut(handle) {
                tensor.chips = chips;
                tensor.written = Written::All;
            }
        }
        Ok(())
    }

    pub(crate) fn stored(&self, handle: u64) -> Result<&Tensor> {
        self.tensors.get(&handle).ok_or_else(|| self.bad_handle(handle, "tensor"))
    }

    fn execute_in_place(&mut self, op: Op, inputs: &[u64], specs: &[Spec]) -> Result<()> {
        let others: Vec<Shards> = inputs[1..]
            .iter()
            .map(|handle| self.stored(*handle).map(|tensor| tensor.chips.clone()))
            .collect::<Result<_>>()?;
        let Some(target) = self.tensors.get_mut(&inputs[0]) else {
            return Err(self.bad_handle(inputs[0], "tensor"));
        };
        if target.chips.is_empty() {
            let values = Values::zeros(target.spec.format, target.spec.elements());
            target.chips = replicated(values, self.board.chips as usize);
        }
        // Chips with identical data are changed once; an unshared buffer is changed without a copy.
        let same = (1..target.chips.len()).all(|chip| {
            Arc::ptr_eq(&target.chips[chip], &target.chips[0])
                && others.iter().all(|other| Arc::ptr_eq(&other[chip], &other[0]))
        });
        let count = target.chips.len();
        if same {
            target.chips.truncate(1);
        }
        let mut rows: Option<Range<usize>> = None;
        for (chip, values) in target.chips.iter_mut().enumerate() {
            let others: Vec<&Values> = others.iter().map(|other| other[chip].as_ref()).collect();
            rows = op.apply(specs, Arc::make_mut(values), &others)?;
        }
        if same {
            let first = target.chips[0].clone();
            target.chips.resize(count, first);
        }
        mark(target, rows);
        Ok(())
    }

    fn require_written(&self, op: Op, inputs: &[u64]) -> Result<()> {
        for (index, handle) in inputs.iter().enumerate() {
            let tensor = self.stored(*handle)?;
            match op.need(index) {
                Need::Nothing => {}
                Need::Written => require_all(tensor, *handle, op.name())?,
                Need::Rows(first, end) => require_rows(tensor, *handle, op.name(), first..end)?,
                Need::RowsUpTo(at) => {
                    let position = self.stored(inputs[at])?;
                    require_all(position, inputs[at], op.name())?;
                    let last = position
                        .chips
                        .first()
                        .and_then(|values| values.words().first().copied())
                        .unwrap_or(0) as usize;
                    require_rows(tensor, *handle, op.name(), 0..last.saturating_add(1))?;
                }
            }
        }
        Ok(())
    }
}

fn mark(target: &mut Tensor, rows: Option<Range<usize>>) {
    let Some(range) = rows else {
        target.written = Written::All;
        return;
    };
    let count = target.spec.dims[2];
    let mut written = match &target.written {
        Written::All => return,
        Written::Rows(rows) => rows.clone(),
        Written::Nothing | Written::Overwritten(_) => vec![false; count],
    };
    written.iter_mut().take(range.end).skip(range.start).for_each(|row| *row = true);
    target.written =
        if written.iter().all(|row| *row) { Written::All } else { Written::Rows(written) };
}

fn unwritten(handle: u64, who: &str, what: &str) -> Refusal {
    refusal(
        abi::TTP_UNWRITTEN,
        format!(
            "{who} reads {what} of tensor {handle:#x}, which nothing has written: on silicon this \
            is whatever lay there before"
        ),
    )
}

/// The rows of dimension 2 that an operation reads; all rows for a tensor that was not written row
/// by row.
fn require_rows(tensor: &Tensor, handle: u64, who: &str, range: Range<usize>) -> Result<()> {
    let Written::Rows(rows) = &tensor.written else { return require_all(tensor, handle, who) };
    match rows.iter().take(range.end).skip(range.start).position(|written| !written) {
        Some(at) => Err(unwritten(handle, who, &format!("row {}", range.start + at))),
        None => Ok(()),
    }
}

fn require_all(tensor: &Tensor, handle: u64, who: &str) -> Result<()> {
    match &tensor.written {
        Written::All => Ok(()),
        Written::Nothing => Err(unwritten(handle, who, "all")),
        Written::Rows(rows) => {
            let row = rows.iter().position(|written| !written).unwrap_or(0);
            Err(unwritten(handle, who, &format!("row {row}")))
        }
        Written::Overwritten(trace) => Err(refusal(
            abi::TTP_UNWRITTEN,
            format!(
                "{who} reads tensor {handle:#x}, but trace {trace:#x} has run since and writes \
                the same addresses: allocate what must stay before the trace is captured"
            ),
        )),
    }
}
