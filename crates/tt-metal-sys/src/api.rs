//! The functions of the header, as a table of pointers.

use std::ffi::{c_char, c_void};

use crate::types::*;

/// Declaration of a function in Rust, for the drift test.
#[derive(Debug, Clone)]
pub struct Signature {
    /// Name in the header.
    pub name: &'static str,
    /// Name and Rust type of each parameter.
    pub parameters: Vec<(&'static str, &'static str)>,
    /// Rust type of the result.
    pub result: &'static str,
}

macro_rules! abi_functions {
    ($( $name:ident ( $( $arg:ident : $ty:ty ),* $(,)? ) -> $ret:ty; )*) => {
        /// Every function of a provider, documented in `tt_provider.h`.
        #[derive(Clone, Copy)]
        #[allow(missing_docs)] // one text for both languages, in the header
        pub struct Api { $( pub $name: unsafe extern "C" fn($( $ty ),*) -> $ret ),* }

        impl Api {
            /// Names of all functions, in the order of the table.
            pub const NAMES: &'static [&'static str] = &[$( stringify!($name) ),*];

            /// Looks up every function in a loaded library; the error is the list of those missing.
            ///
            /// # Safety
            /// A symbol with a name of the ABI must have the signature of the header.
            pub(crate) unsafe fn from_library(
                library: &libloading::Library,
            ) -> Result<Self, Vec<&'static str>> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the caller vouches for the signatures; the pointer is copied out and
                    // the library outlives it inside `Provider`.
                    let $name = unsafe {
                        library.get::<unsafe extern "C" fn($( $ty ),*) -> $ret>(
                            concat!(stringify!($name), "\0").as_bytes(),
                        )
                    }.map(|symbol| *symbol).ok();
                    if $name.is_none() { missing.push(stringify!($name)); }
                )*
                match ($( $name, )*) {
                    ($( Some($name), )*) => Ok(Api { $( $name ),* }),
                    _ => Err(missing),
                }
            }
        }

        /// Every function with its parameters.
        pub fn signatures() -> Vec<Signature> {
            vec![$( Signature {
                name: stringify!($name),
                parameters: vec![$( (stringify!($arg), stringify!($ty)) ),*],
                result: stringify!($ret),
            } ),*]
        }
    };
}

abi_functions! {
    ttp_abi_version() -> u32;
    ttp_provider_name() -> *const c_char;
    ttp_last_error() -> *const c_char;
    ttp_mesh_open(config: *const MeshConfig, out: *mut MeshHandle) -> Status;
    ttp_mesh_close(mesh: MeshHandle) -> Status;
    ttp_mesh_describe(mesh: MeshHandle, out: *mut MeshInfo) -> Status;
    ttp_mesh_memory(mesh: MeshHandle, chip: u32, out: *mut MemoryStats) -> Status;
    ttp_mesh_synchronize(mesh: MeshHandle) -> Status;
    ttp_tensor_create(
        mesh: MeshHandle, spec: *const Spec, zeroed: u32, out: *mut TensorHandle
    ) -> Status;
    ttp_tensor_upload(
        mesh: MeshHandle, host: *const Host, distribution: *const Distribution, format: u32,
        layout: u32, out: *mut TensorHandle
    ) -> Status;
    ttp_tensor_write(
        tensor: TensorHandle, host: *const Host, distribution: *const Distribution
    ) -> Status;
    ttp_tensor_read(
        tensor: TensorHandle, chip: u32, format: u32, data: *mut c_void, bytes: u64
    ) -> Status;
    ttp_tensor_describe(tensor: TensorHandle, out: *mut Spec) -> Status;
    ttp_tensor_address(tensor: TensorHandle, out: *mut u32) -> Status;
    ttp_tensor_free(tensor: TensorHandle) -> Status;
    ttp_pack(
        host: *const Host, distribution: *const Distribution, chips: u32, format: u32,
        data: *mut c_void, bytes: u64, needed: *mut u64
    ) -> Status;
    ttp_linear(
        x: TensorHandle, w: TensorHandle, bias: TensorHandle, activation: u32,
        compute: *const Compute, format: u32, out: *mut TensorHandle
    ) -> Status;
    ttp_layer_norm(
        x: TensorHandle, weight: TensorHandle, bias: TensorHandle, eps: f32,
        compute: *const Compute, out: *mut TensorHandle
    ) -> Status;
    ttp_rms_norm(
        x: TensorHandle, weight: TensorHandle, eps: f32, compute: *const Compute,
        out: *mut TensorHandle
    ) -> Status;
    ttp_rope(
        x: TensorHandle, cosine: TensorHandle, sine: TensorHandle, order: u32,
        compute: *const Compute, out: *mut TensorHandle
    ) -> Status;
    ttp_split_heads(
        qkv: TensorHandle, q_heads: u32, kv_heads: u32, q: *mut TensorHandle, k: *mut TensorHandle,
        v: *mut TensorHandle
    ) -> Status;
    ttp_split_heads_decode(
        qkv: TensorHandle, q_heads: u32, kv_heads: u32, q: *mut TensorHandle, k: *mut TensorHandle,
        v: *mut TensorHandle
    ) -> Status;
    ttp_concat_heads(x: TensorHandle, out: *mut TensorHandle) -> Status;
    ttp_attention(
        q: TensorHandle, k: TensorHandle, v: TensorHandle, mask: TensorHandle, causal: u32,
        scale: f32, compute: *const Compute, out: *mut TensorHandle
    ) -> Status;
    ttp_attention_decode(
        q: TensorHandle, k_cache: TensorHandle, v_cache: TensorHandle, position: TensorHandle,
        scale: f32, compute: *const Compute, out: *mut TensorHandle
    ) -> Status;
    ttp_cache_fill(cache: TensorHandle, x: TensorHandle) -> Status;
    ttp_cache_update(cache: TensorHandle, x: TensorHandle, position: TensorHandle) -> Status;
    ttp_cache_update_pair(
        k_cache: TensorHandle, v_cache: TensorHandle, k: TensorHandle, v: TensorHandle,
        position: TensorHandle
    ) -> Status;
    ttp_embedding(
        ids: TensorHandle, table: TensorHandle, layout: u32, out: *mut TensorHandle
    ) -> Status;
    ttp_binary(
        a: TensorHandle, b: TensorHandle, operation: u32, left_activation: u32, format: u32,
        out: *mut TensorHandle
    ) -> Status;
    ttp_unary(x: TensorHandle, activation: u32, out: *mut TensorHandle) -> Status;
    ttp_increment(x: TensorHandle, value: i32) -> Status;
    ttp_concat(
        tensors: *const TensorHandle, count: u32, dim: u32, out: *mut TensorHandle
    ) -> Status;
    ttp_slice(
        x: TensorHandle, begin: *const u32, end: *const u32, out: *mut TensorHandle
    ) -> Status;
    ttp_reshape(x: TensorHandle, dims: *const u32, out: *mut TensorHandle) -> Status;
    ttp_transpose(x: TensorHandle, out: *mut TensorHandle) -> Status;
    ttp_convert(x: TensorHandle, format: u32, layout: u32, out: *mut TensorHandle) -> Status;
    ttp_copy(x: TensorHandle, target: TensorHandle) -> Status;
    ttp_argmax(x: TensorHandle, begin: u32, end: u32, out: *mut TensorHandle) -> Status;
    ttp_all_gather(x: TensorHandle, dim: u32, out: *mut TensorHandle) -> Status;
    ttp_reduce_scatter(x: TensorHandle, dim: u32, out: *mut TensorHandle) -> Status;
    ttp_all_reduce(x: TensorHandle, out: *mut TensorHandle) -> Status;
    ttp_partition(x: TensorHandle, dim: u32, out: *mut TensorHandle) -> Status;
    ttp_run_program(tensors: *const TensorHandle, count: u32, program: *const Program) -> Status;
    ttp_trace_begin(mesh: MeshHandle) -> Status;
    ttp_trace_end(mesh: MeshHandle, out: *mut TraceHandle) -> Status;
    ttp_trace_run(trace: TraceHandle, blocking: u32) -> Status;
    ttp_trace_free(trace: TraceHandle) -> Status;
}
