//! Constants and structures of the header, each with its C name beside it.

/// Memory layout of a structure: C name, size, alignment and fields. For the drift test.
#[derive(Debug, Clone)]
pub struct StructLayout {
    /// Name in the header.
    pub c_name: &'static str,
    /// `sizeof`.
    pub size: usize,
    /// `_Alignof`.
    pub align: usize,
    /// Name, offset and Rust type of each field, in order.
    pub fields: Vec<(&'static str, usize, &'static str)>,
}

macro_rules! abi_structs {
    ($( $(#[$doc:meta])* $name:ident = $c:literal {
        $( $(#[$fdoc:meta])* $field:ident : $ty:ty ),* $(,)?
    } )*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy)]
            pub struct $name { $( $(#[$fdoc])* pub $field: $ty ),* }
        )*
        /// Layout of every structure of the ABI, as this crate was compiled.
        pub fn struct_layouts() -> Vec<StructLayout> {
            vec![$( StructLayout {
                c_name: $c,
                size: size_of::<$name>(),
                align: align_of::<$name>(),
                fields: vec![$( (
                    stringify!($field),
                    std::mem::offset_of!($name, $field),
                    stringify!($ty),
                ) ),*],
            } ),*]
        }
        /// Rust name and C name of every structure.
        pub const STRUCT_NAMES: &[(&str, &str)] = &[$( (stringify!($name), $c) ),*];
    };
}

macro_rules! abi_constants {
    ($( $(#[$doc:meta])* $name:ident : $ty:ty = $value:expr; )*) => {
        $( $(#[$doc])* pub const $name: $ty = $value; )*
        /// Every constant of the ABI with its value. For the drift test.
        pub const CONSTANTS: &[(&str, i64)] = &[$( (stringify!($name), $value as i64) ),*];
    };
}

/// `ttp_status`.
pub type Status = i32;
/// `ttp_mesh`: a handle, 0 is none.
pub type MeshHandle = u64;
/// `ttp_tensor`: a handle, 0 is none.
pub type TensorHandle = u64;
/// `ttp_trace`: a handle, 0 is none.
pub type TraceHandle = u64;

abi_constants! {
    /// Version of the ABI these declarations describe.
    TTP_ABI_VERSION: u32 = 2;
    /// Success.
    TTP_OK: Status = 0;
    /// A value, shape, format or layout that the operation refuses.
    TTP_INVALID_ARGUMENT: Status = 1;
    /// Valid, but not supported by this provider.
    TTP_UNSUPPORTED: Status = 2;
    /// Device memory is exhausted.
    TTP_OUT_OF_MEMORY: Status = 3;
    /// Freed, foreign or invented handle.
    TTP_BAD_HANDLE: Status = 4;
    /// Data that nothing has written was read.
    TTP_UNWRITTEN: Status = 5;
    /// Forbidden during capture, or a stale trace.
    TTP_TRACE_RULE: Status = 6;
    /// The device failed.
    TTP_DEVICE: Status = 7;
    /// No such device here.
    TTP_NOT_FOUND: Status = 8;
    /// A fault of the provider.
    TTP_INTERNAL: Status = 9;
    /// One Wormhole chip.
    TTP_BOARD_N150: u32 = 1;
    /// Two chips.
    TTP_BOARD_N300: u32 = 2;
    /// Eight chips in a ring.
    TTP_BOARD_T3K: u32 = 3;
    /// One Blackhole chip.
    TTP_BOARD_P150: u32 = 4;
    /// Two Blackhole chips.
    TTP_BOARD_P300: u32 = 5;
    /// Four Blackhole chips in a ring.
    TTP_BOARD_QUIETBOX: u32 = 6;
    /// Eight Blackhole chips in a ring.
    TTP_BOARD_LOUDBOX: u32 = 7;
    /// Wormhole.
    TTP_ARCH_WORMHOLE: u32 = 1;
    /// Blackhole.
    TTP_ARCH_BLACKHOLE: u32 = 2;
    /// IEEE single.
    TTP_FORMAT_F32: u32 = 0;
    /// bfloat16.
    TTP_FORMAT_BF16: u32 = 1;
    /// Block float, 8 bits an element.
    TTP_FORMAT_BFP8_B: u32 = 2;
    /// Block float, 4 bits an element.
    TTP_FORMAT_BFP4_B: u32 = 3;
    /// Unsigned words.
    TTP_FORMAT_U32: u32 = 4;
    /// Signed words.
    TTP_FORMAT_I32: u32 = 5;
    /// Bytes.
    TTP_FORMAT_U8: u32 = 6;
    /// Rows one after another.
    TTP_LAYOUT_ROW_MAJOR: u32 = 0;
    /// 32x32 tiles of four faces.
    TTP_LAYOUT_TILE: u32 = 1;
    /// The whole array on each chip.
    TTP_REPLICATE: u32 = 0;
    /// Equal parts along a dimension.
    TTP_SHARD: u32 = 1;
    /// One matmul pass.
    TTP_LOFI: u32 = 0;
    /// Two passes.
    TTP_HIFI2: u32 = 2;
    /// Three passes.
    TTP_HIFI3: u32 = 3;
    /// Four passes.
    TTP_HIFI4: u32 = 4;
    /// No activation.
    TTP_ACT_NONE: u32 = 0;
    /// GELU with erf.
    TTP_ACT_GELU: u32 = 1;
    /// x * sigmoid(x).
    TTP_ACT_SILU: u32 = 2;
    /// max(x, 0).
    TTP_ACT_RELU: u32 = 3;
    /// GELU with tanh.
    TTP_ACT_GELU_TANH: u32 = 4;
    /// a + b.
    TTP_ADD: u32 = 0;
    /// a - b.
    TTP_SUB: u32 = 1;
    /// a * b.
    TTP_MUL: u32 = 2;
    /// Pairs (i, i + d/2).
    TTP_ROPE_HALF: u32 = 0;
    /// Pairs (2i, 2i + 1).
    TTP_ROPE_PAIRS: u32 = 1;
    /// Kernel that fills circular buffers.
    TTP_ROLE_READER: u32 = 0;
    /// Kernel that drains them.
    TTP_ROLE_WRITER: u32 = 1;
    /// Kernel between the two.
    TTP_ROLE_COMPUTE: u32 = 2;
}

abi_structs! {
    /// Options of opening a mesh.
    MeshConfig = "ttp_mesh_config" {
        /// `size_of::<MeshConfig>()`.
        struct_size: u32,
        /// `TTP_BOARD_*`.
        board: u32,
        /// Bytes of every DRAM bank reserved for traces.
        trace_region_bytes: u64,
        /// DRAM per chip, 0 for all of it.
        dram_limit_bytes: u64,
        /// 1 or 2.
        command_queues: u32,
        /// 0.
        reserved: u32,
    }
    /// Properties of an open mesh.
    MeshInfo = "ttp_mesh_info" {
        /// `size_of::<MeshInfo>()`.
        struct_size: u32,
        /// `TTP_BOARD_*`.
        board: u32,
        /// Rows of chips.
        rows: u32,
        /// Columns of chips.
        columns: u32,
        /// 1 when the last chip is connected to the first.
        ring: u32,
        /// Cores per row of a chip.
        grid_x: u32,
        /// Cores per column of a chip.
        grid_y: u32,
        /// DRAM banks of a chip.
        dram_banks: u32,
        /// DRAM of a chip available to tensors, in bytes.
        dram_bytes: u64,
        /// L1 of a core, in bytes.
        l1_bytes: u64,
        /// 1 for a simulated mesh.
        simulated: u32,
        /// `TTP_ARCH_*`.
        architecture: u32,
        /// Pages in DRAM start at multiples of this, in bytes.
        dram_alignment: u32,
        /// Ethernet links that a collective uses between neighbours.
        links: u32,
    }
    /// DRAM of one chip, in bytes.
    MemoryStats = "ttp_memory" {
        /// Available to tensors.
        total: u64,
        /// Allocated.
        allocated: u64,
        /// Not allocated.
        free: u64,
        /// Largest tensor that would fit.
        largest_free: u64,
        /// Highest allocation so far.
        peak: u64,
    }
    /// A tensor on one chip.
    Spec = "ttp_spec" {
        /// Shape on one chip.
        dims: [u32; 4],
        /// `TTP_FORMAT_*`.
        format: u32,
        /// `TTP_LAYOUT_*`.
        layout: u32,
    }
    /// A host array.
    Host = "ttp_host" {
        /// First byte.
        data: *const c_void,
        /// Length.
        bytes: u64,
        /// Shape of the whole array.
        dims: [u32; 4],
        /// `TTP_FORMAT_*`.
        format: u32,
        /// `TTP_LAYOUT_*`; tiled means packed by `ttp_pack`.
        layout: u32,
    }
    /// Distribution of a host array over the chips.
    Distribution = "ttp_distribution" {
        /// `TTP_REPLICATE` or `TTP_SHARD`.
        kind: u32,
        /// Sharded dimension.
        dim: u32,
    }
    /// Arithmetic of an operation.
    Compute = "ttp_compute" {
        /// `TTP_LOFI` to `TTP_HIFI4`.
        fidelity: u32,
        /// 1 to accumulate in float32.
        fp32_dest: u32,
        /// 1 for fast approximate functions.
        approx: u32,
    }
    /// A rectangle of cores, both corners included.
    CoreRange = "ttp_core_range" {
        /// First column.
        x0: u32,
        /// First row.
        y0: u32,
        /// Last column.
        x1: u32,
        /// Last row.
        y1: u32,
    }
    /// One kernel of a program.
    Kernel = "ttp_kernel" {
        /// File name under `kernels/`.
        name: *const c_char,
        /// C++ source.
        source: *const c_char,
        /// Compile-time arguments.
        compile_args: *const u32,
        /// Tensors whose accessors follow the compile-time arguments.
        accessors: *const u32,
        /// Words for each core.
        runtime_args: *const u32,
        /// Length of `compile_args`.
        compile_arg_count: u32,
        /// Length of `accessors`.
        accessor_count: u32,
        /// Words per core.
        runtime_arg_count: u32,
        /// `TTP_ROLE_*`.
        role: u32,
        /// Cores it runs on.
        cores: CoreRange,
        /// For compute kernels.
        compute: Compute,
        /// 0.
        reserved: u32,
    }
    /// A circular buffer in L1.
    CircularBuffer = "ttp_circular_buffer" {
        /// Number on the core, 0 to 31.
        index: u32,
        /// `TTP_FORMAT_*`.
        format: u32,
        /// Bytes of one page.
        page_bytes: u32,
        /// Pages in the ring.
        pages: u32,
        /// Cores that have one.
        cores: CoreRange,
    }
    /// A semaphore in L1.
    Semaphore = "ttp_semaphore" {
        /// Number on the core.
        id: u32,
        /// Value at the start.
        initial: u32,
        /// Cores that have one.
        cores: CoreRange,
    }
    /// Kernels, buffers and semaphores that run together.
    Program = "ttp_program" {
        /// First kernel.
        kernels: *const Kernel,
        /// First circular buffer.
        buffers: *const CircularBuffer,
        /// First semaphore.
        semaphores: *const Semaphore,
        /// Number of kernels.
        kernel_count: u32,
        /// Number of circular buffers.
        buffer_count: u32,
        /// Number of semaphores.
        semaphore_count: u32,
        /// 0.
        reserved: u32,
    }
}

use std::ffi::{c_char, c_void};
