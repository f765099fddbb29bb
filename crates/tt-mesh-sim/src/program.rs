//! Custom kernels: runs a program on the emulated cores of each chip, with the tensors as DRAM
//! pages.

use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;

use serde_json::{Value, json};
use tt_metal_sys as abi;
use tt_metal_sys::boards::BoardFacts;

use crate::error::{Result, ensure, invalid, refusal};
use crate::format::pack::{float_tile, from_pages, push_float_tile, to_pages, written_whole};
use crate::format::round::By;
use crate::format::{FACE, Format, Spec, TILE, Values};
use crate::mesh::{Mesh, Written};
use crate::op::{Compute, Op, multiply_into};

/// A kernel that owns its texts and arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OwnedKernel {
    name: CString,
    source: CString,
    compile_args: Vec<u32>,
    /// Tensors whose accessors follow the compile-time arguments.
    accessors: Vec<u32>,
    runtime_args: Vec<u32>,
    runtime_arg_count: u32,
    role: u32,
    cores: [u32; 4],
    compute: [u32; 3],
}

/// A program that outlives the call that described it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnedProgram {
    kernels: Vec<OwnedKernel>,
    /// Index, format, page bytes, pages, cores.
    buffers: Vec<[u32; 8]>,
}

fn rectangle(range: &abi::CoreRange, grid: (u32, u32), what: &str) -> Result<[u32; 4]> {
    let abi::CoreRange { x0, y0, x1, y1 } = *range;
    ensure!(
        x0 <= x1 && y0 <= y1 && x1 < grid.0 && y1 < grid.1,
        "{what}: cores ({x0}, {y0}) to ({x1}, {y1}) are not on the chip's {} by {}",
        grid.0,
        grid.1
    );
    Ok([x0, y0, x1, y1])
}

fn range([x0, y0, x1, y1]: [u32; 4]) -> abi::CoreRange {
    abi::CoreRange { x0, y0, x1, y1 }
}

impl OwnedKernel {
    /// The ABI's structure; its pointers are valid while `self` is borrowed.
    fn to_abi(&self) -> abi::Kernel {
        let [fidelity, fp32_dest, approx] = self.compute;
        abi::Kernel {
            name: self.name.as_ptr(),
            source: self.source.as_ptr(),
            compile_args: self.compile_args.as_ptr(),
            accessors: std::ptr::null(),
            runtime_args: self.runtime_args.as_ptr(),
            compile_arg_count: self.compile_args.len() as u32,
            accessor_count: self.accessors.len() as u32,
            runtime_arg_count: self.runtime_arg_count,
            role: self.role,
            cores: range(self.cores),
            compute: abi::Compute { fidelity, fp32_dest, approx },
            reserved: 0,
        }
    }

    /// Whether both compile to the same kernel: runtime arguments, such as addresses, may differ.
    fn compiles_as(&self, other: &Self) -> bool {
        let Self {
            name,
            source,
            compile_args,
            accessors,
            runtime_args: _,
            runtime_arg_count,
            role,
            cores,
            compute,
        } = self;
        *name == other.name
            && *source == other.source
            && *compile_args == other.compile_args
            && *accessors == other.accessors
            && *runtime_arg_count == other.runtime_arg_count
            && *role == other.role
            && *cores == other.cores
            && *compute == other.compute
    }
}

impl OwnedProgram {
    /// For a recording: everything but the kernels' texts, which lie under `kernels/`.
    fn described(&self) -> Value {
        let kernel = |kernel: &OwnedKernel| {
            json!({
                "name": kernel.name.to_string_lossy(),
                "compile_args": kernel.compile_args,
                "accessors": kernel.accessors,
                "runtime_args": kernel.runtime_args,
                "runtime_arg_count": kernel.runtime_arg_count,
                "role": kernel.role,
                "cores": kernel.cores,
                "compute": kernel.compute,
            })
        };
        let kernels: Vec<Value> = self.kernels.iter().map(kernel).collect();
        json!({ "kernels": kernels, "buffers": self.buffers })
    }

    /// Whether both compile to the same program.
    pub(crate) fn compiles_as(&self, other: &Self) -> bool {
        self.buffers == other.buffers
            && self.kernels.len() == other.kernels.len()
            && self
                .kernels
                .iter()
                .zip(&other.kernels)
                .all(|(one, another)| one.compiles_as(another))
    }

    /// Copies a program.
    ///
    /// # Safety
    /// Every pointer in it is valid as required by the header.
    pub unsafe fn copy(program: &abi::Program, tensors: usize, board: &BoardFacts) -> Result<Self> {
        let grid = board.grid;
        let bounded = |count: u32, what: &str| -> Result<usize> {
            ensure!(count <= 4096, "a program with {count} {what}");
            Ok(count as usize)
        };
        ensure!(program.semaphore_count == 0, "semaphores are not modelled by tt-mesh-sim");
        let mut kernels = Vec::new();
        let count = bounded(program.kernel_count, "kernels")?;
        // SAFETY: as promised.
        for kernel in unsafe { crate::ffi::array(program.kernels, count, "kernels") }? {
            ensure!(
                !kernel.name.is_null() && !kernel.source.is_null(),
                "a kernel without name or source"
            );
            // SAFETY: not NULL, and zero-terminated as promised.
            let (name, source) = unsafe {
                (CStr::from_ptr(kernel.name).to_owned(), CStr::from_ptr(kernel.source).to_owned())
            };
            let cores @ [x0, y0, x1, y1] = rectangle(&kernel.cores, grid, &name.to_string_lossy())?;
            let words = bounded(kernel.runtime_arg_count, "runtime arguments")?
                * ((x1 - x0 + 1) * (y1 - y0 + 1)) as usize;
            // SAFETY: as promised.
            let (compile_args, accessors, runtime_args) = unsafe {
                (
                    crate::ffi::array(
                        kernel.compile_args,
                        bounded(kernel.compile_arg_count, "compile-time arguments")?,
                        "compile_args",
                    )?,
                    crate::ffi::array(
                        kernel.accessors,
                        bounded(kernel.accessor_count, "accessors")?,
                        "accessors",
                    )?,
                    crate::ffi::array(kernel.runtime_args, words, "runtime_args")?,
                )
            };
            ensure!(
                accessors.iter().all(|tensor| (*tensor as usize) < tensors),
                "{}: an accessor names none of the {tensors} tensors",
                name.to_string_lossy()
            );
            Compute::from_abi(&kernel.compute)?;
            kernels.push(OwnedKernel {
                name,
                source,
                compile_args: compile_args.to_vec(),
                accessors: accessors.to_vec(),
                runtime_args: runtime_args.to_vec(),
                runtime_arg_count: kernel.runtime_arg_count,
                role: kernel.role,
                cores,
                compute: [kernel.compute.fidelity, kernel.compute.fp32_dest, kernel.compute.approx],
            });
        }
        let mut buffers = Vec::new();
        let count = bounded(program.buffer_count, "circular buffers")?;
        // SAFETY: as promised.
        for buffer in unsafe { crate::ffi::array(program.buffers, count, "buffers") }? {
            Format::from_abi(buffer.format)?;
            let [x0, y0, x1, y1] = rectangle(&buffer.cores, grid, "circular buffer")?;
            buffers.push([
                buffer.index,
                buffer.format,
                buffer.page_bytes,
                buffer.pages,
                x0,
                y0,
                x1,
                y1,
            ]);
        }
        Ok(Self { kernels, buffers })
    }

    /// Runs it on the tensors of one chip.
    fn run(&self, memory: &mut [Dram], board: &BoardFacts) -> Result<()> {
        let hardware = Hardware {
            banks: board.chip.dram_banks as u32,
            dram_alignment: board.chip.dram_alignment as u32,
            l1_bytes: board.chip.l1_bytes as u32,
        };
        let kernels: Vec<abi::Kernel> = self.kernels.iter().map(OwnedKernel::to_abi).collect();
        let buffers: Vec<abi::CircularBuffer> = self
            .buffers
            .iter()
            .map(|&[index, format, page_bytes, pages, x0, y0, x1, y1]| abi::CircularBuffer {
                index,
                format,
                page_bytes,
                pages,
                cores: range([x0, y0, x1, y1]),
            })
            .collect();
        let program = abi::Program {
            kernels: kernels.as_ptr(),
            buffers: buffers.as_ptr(),
            semaphores: std::ptr::null(),
            kernel_count: kernels.len() as u32,
            buffer_count: buffers.len() as u32,
            semaphore_count: 0,
            reserved: 0,
        };
        let raw: Vec<RawDram> = memory.iter_mut().map(Dram::raw).collect();
        let mut text = [0u8; 1024];
        // SAFETY: all pointers lead into vectors that outlive the call, with their lengths; `text`
        // has room for its length and comes back zero-terminated.
        let status = unsafe {
            tt_emulator_run(
                &raw const program,
                raw.as_ptr(),
                raw.len() as u32,
                &raw const hardware,
                &raw const ARITHMETIC,
                text.as_mut_ptr().cast(),
                text.len(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&text)
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default();
        Err(refusal(if status == 2 { abi::TTP_UNSUPPORTED } else { abi::TTP_DEVICE }, text))
    }
}

/// A tensor's pages on one chip.
struct Dram {
    base: u32,
    page_bytes: u32,
    pages: u32,
    data: Vec<u8>,
    written: Vec<u8>,
    /// Previous content, if any.
    before: Option<Vec<u8>>,
}

impl Dram {
    fn raw(&mut self) -> RawDram {
        RawDram {
            base: self.base,
            page_bytes: self.page_bytes,
            pages: self.pages,
            data: self.data.as_mut_ptr(),
            written: self.written.as_mut_ptr(),
        }
    }
}

#[repr(C)]
struct RawDram {
    base: u32,
    page_bytes: u32,
    pages: u32,
    data: *mut u8,
    written: *mut u8,
}

/// What differs from chip to chip.
#[repr(C)]
struct Hardware {
    banks: u32,
    dram_alignment: u32,
    l1_bytes: u32,
}

#[repr(C)]
struct Arithmetic {
    unpack: extern "C" fn(u32, *const u8, *mut f32),
    pack: extern "C" fn(u32, *const f32, *mut u8),
    matmul: extern "C" fn(*const f32, *const f32, *mut f32, u32, u32),
    tile_bytes: extern "C" fn(u32) -> u32,
}

static ARITHMETIC: Arithmetic = Arithmetic { unpack, pack, matmul, tile_bytes };

unsafe extern "C" {
    fn tt_emulator_run(
        program: *const abi::Program,
        tensors: *const RawDram,
        count: u32,
        hardware: *const Hardware,
        arithmetic: *const Arithmetic,
        error: *mut c_char,
        room: usize,
    ) -> i32;
}

/// Formats were checked when the program was copied.
fn format(value: u32) -> Format {
    Format::from_abi(value).unwrap_or(Format::F32)
}

/// Position in device order of row `at / 32`, column `at % 32`.
fn face_order(at: usize) -> usize {
    let (row, column) = (at / TILE, at % TILE);
    (row / FACE * 2 + column / FACE) * FACE * FACE + row % FACE * FACE + column % FACE
}

extern "C" fn tile_bytes(value: u32) -> u32 {
    format(value).tile_bytes() as u32
}

extern "C" fn unpack(value: u32, tile: *const u8, rows: *mut f32) {
    let format = format(value);
    // SAFETY: the emulator passes a whole tile of the format, and room for 1024 floats.
    let (tile, rows) = unsafe {
        (
            std::slice::from_raw_parts(tile, format.tile_bytes()),
            std::slice::from_raw_parts_mut(rows, TILE * TILE),
        )
    };
    let elements = float_tile(tile, format);
    rows.iter_mut()
        .enumerate()
        .for_each(|(at, value)| *value = elements.get(face_order(at)).copied().unwrap_or(f32::NAN));
}

extern "C" fn pack(value: u32, rows: *const f32, tile: *mut u8) {
    let format = format(value);
    // SAFETY: the emulator passes 1024 floats, and room for a whole tile of the format.
    let (rows, tile) = unsafe {
        (
            std::slice::from_raw_parts(rows, TILE * TILE),
            std::slice::from_raw_parts_mut(tile, format.tile_bytes()),
        )
    };
    let mut elements = vec![0.0; TILE * TILE];
    rows.iter().enumerate().for_each(|(at, value)| elements[face_order(at)] = *value);
    let mut bytes = Vec::with_capacity(tile.len());
    push_float_tile(&mut bytes, &elements, format, By::Device);
    tile.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
}

extern "C" fn matmul(
    in0: *const f32,
    in1: *const f32,
    dest: *mut f32,
    fidelity: u32,
    fp32_dest: u32,
) {
    // SAFETY: the emulator passes three tiles of 1024 floats.
    let (in0, in1, dest) = unsafe {
        (
            std::slice::from_raw_parts(in0, TILE * TILE),
            std::slice::from_raw_parts(in1, TILE * TILE),
            std::slice::from_raw_parts_mut(dest, TILE * TILE),
        )
    };
    // Checked when the program was copied.
    if let Ok(compute) = Compute::from_abi(&abi::Compute { fidelity, fp32_dest, approx: 0 }) {
        multiply_into(in0, in1, dest, [TILE; 3], compute);
    }
}

impl Mesh {
    /// Runs a program, or captures it.
    pub fn run_program(&mut self, tensors: &[u64], program: OwnedProgram) -> Result<()> {
        ensure!(!tensors.is_empty(), "a program without tensors has no output");
        let described = self.records().then(|| program.described());
        let id = self.program_number(program);
        self.record("program", || json!({ "id": id, "program": described }))?;
        self.dispatch(Op::Program { id }, tensors).map(drop)
    }

    pub(crate) fn execute_program(&mut self, id: usize, handles: &[u64]) -> Result<()> {
        let program = self.program(id).ok_or_else(|| invalid("the program is unknown"))?;
        let mut done: Vec<(usize, Vec<Dram>)> = Vec::new();
        for chip in 0..self.chips() {
            // Chips with identical data compute identical results.
            if chip > 0 && self.same_on_all_chips(handles) {
                break;
            }
            let mut memory = handles
                .iter()
                .map(|handle| self.pages(*handle, chip))
                .collect::<Result<Vec<Dram>>>()?;
            program.run(&mut memory, self.board())?;
            done.push((chip, memory));
        }
        let chips = self.chips();
        for (index, handle) in handles.iter().enumerate() {
            let spec = self.stored(*handle)?.spec;
            // Tensors that are only read stay shared between chips.
            if done
                .iter()
                .all(|(_, memory)| memory[index].before.as_ref() == Some(&memory[index].data))
            {
                continue;
            }
            // Every byte that a logical element needs, on every chip.
            let whole = done.iter().all(|(_, memory)| written_whole(&memory[index].written, &spec));
            let mut shards = Vec::with_capacity(chips);
            for (_, memory) in &done {
                shards.push(Arc::new(decode(&memory[index], &spec)?));
            }
            if let (Some(first), true) = (shards.first().cloned(), shards.len() < chips) {
                shards.resize(chips, first);
            }
            if let Some(tensor) = self.tensors.get_mut(handle) {
                tensor.chips = shards;
                if whole {
                    tensor.written = Written::All;
                }
            }
        }
        Ok(())
    }

    fn same_on_all_chips(&self, handles: &[u64]) -> bool {
        handles
            .iter()
            .filter_map(|handle| self.tensors.get(handle))
            .all(|tensor| tensor.chips.iter().all(|values| Arc::ptr_eq(values, &tensor.chips[0])))
    }

    fn pages(&self, handle: u64, chip: usize) -> Result<Dram> {
        let tensor = self.stored(handle)?;
        let spec = tensor.spec;
        let (pages, page_bytes) = spec.pages();
        let (data, filled) = match (&tensor.written, tensor.chips.get(chip)) {
            (Written::All, Some(values)) => (to_pages(values, &spec, By::Device), 1),
            _ => (vec![0; pages * page_bytes], 0),
        };
        let before = (filled == 1).then(|| data.clone());
        let base = self
            .captured_address(handle)
            .and_then(|address| u32::try_from(address).ok())
            .ok_or_else(|| invalid("a tensor without address"))?;
        Ok(Dram {
            base,
            page_bytes: page_bytes as u32,
            pages: pages as u32,
            written: vec![filled; data.len()],
            data,
            before,
        })
    }
}

fn decode(dram: &Dram, spec: &Spec) -> Result<Values> {
    from_pages(&dram.data, spec).ok_or_else(|| invalid("pages of the wrong length"))
}
