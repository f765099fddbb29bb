//! The C functions. Each converts its pointers to borrowed values, locks the mesh, and returns an
//! error or panic as a status and this thread's error text.

mod ops;
mod tensors;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

use tt_metal_sys as abi;
use tt_metal_sys::{Api, MeshHandle, Status};

use crate::error::{Refusal, Result, invalid, refusal};
use crate::mesh::{Mesh, mesh_handle, mesh_of};

type Meshes = RwLock<HashMap<u64, Arc<Mutex<Mesh>>>>;
static MESHES: LazyLock<Meshes> = LazyLock::new(Meshes::default);
static NEXT_MESH: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// This provider, linked into a program.
pub fn api() -> Api {
    use ops::*;
    use tensors::*;
    // A function that departs from its declaration in the ABI does not compile here.
    Api {
        ttp_abi_version,
        ttp_provider_name,
        ttp_last_error,
        ttp_mesh_open,
        ttp_mesh_close,
        ttp_mesh_describe,
        ttp_mesh_memory,
        ttp_mesh_synchronize,
        ttp_tensor_create,
        ttp_tensor_upload,
        ttp_tensor_write,
        ttp_tensor_read,
        ttp_tensor_describe,
        ttp_tensor_address,
        ttp_tensor_free,
        ttp_pack,
        ttp_linear,
        ttp_layer_norm,
        ttp_rms_norm,
        ttp_rope,
        ttp_split_heads,
        ttp_split_heads_decode,
        ttp_concat_heads,
        ttp_attention,
        ttp_attention_decode,
        ttp_cache_fill,
        ttp_cache_update,
        ttp_cache_update_pair,
        ttp_embedding,
        ttp_binary,
        ttp_unary,
        ttp_increment,
        ttp_concat,
        ttp_slice,
        ttp_reshape,
        ttp_transpose,
        ttp_convert,
        ttp_copy,
        ttp_argmax,
        ttp_all_gather,
        ttp_reduce_scatter,
        ttp_all_reduce,
        ttp_partition,
        ttp_run_program,
        ttp_trace_begin,
        ttp_trace_end,
        ttp_trace_run,
        ttp_trace_free,
    }
}

/// The same provider, whose meshes record: see [`crate::record`].
pub(crate) fn recording_api() -> Api {
    Api { ttp_mesh_open: recording_open, ttp_provider_name: recorder_name, ..api() }
}

/// Runs `body`; an error or a panic becomes a status and the thread's error text.
fn guard(body: impl FnOnce() -> Result<()>) -> Status {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Err(refusal(
            abi::TTP_INTERNAL,
            format!("fault in tt-mesh-sim: {}", text.unwrap_or_else(|| "unknown".into())),
        ))
    });
    match result {
        Ok(()) => abi::TTP_OK,
        Err(Refusal { status, text }) => {
            let text = CString::new(text.replace(['\0', '\n'], " ")).unwrap_or_default();
            LAST_ERROR.with(|last| last.replace(text));
            status
        }
    }
}

/// The mesh that a mesh, tensor or trace handle belongs to.
fn with_mesh<T>(handle: u64, body: impl FnOnce(&mut Mesh) -> Result<T>) -> Result<T> {
    let mesh = MESHES.read().unwrap_or_else(PoisonError::into_inner).get(&mesh_of(handle)).cloned();
    let mesh = mesh.ok_or_else(|| {
        refusal(
            abi::TTP_BAD_HANDLE,
            format!("handle {handle:#x}: its mesh is closed or was never opened"),
        )
    })?;
    let mut mesh = mesh.lock().unwrap_or_else(PoisonError::into_inner);
    body(&mut mesh)
}

/// A structure behind a pointer.
///
/// # Safety
/// A pointer that is not NULL points to a valid `T` for the duration of the call.
unsafe fn borrow<'a, T>(pointer: *const T, what: &str) -> Result<&'a T> {
    // SAFETY: the caller's promise; NULL is refused.
    unsafe { pointer.as_ref() }.ok_or_else(|| invalid(format!("{what} is NULL")))
}

/// An array behind a pointer.
///
/// # Safety
/// A pointer that is not NULL points to `count` valid `T` for the duration of the call.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    if pointer.is_null() {
        return if count == 0 {
            Ok(&[])
        } else {
            Err(invalid(format!("{what} is NULL but has {count} elements")))
        };
    }
    // SAFETY: the caller's promise; slices of more than isize::MAX bytes are refused.
    if count.saturating_mul(size_of::<T>()) > isize::MAX as usize {
        return Err(invalid(format!("{what} has {count} elements: more than memory")));
    }
    // SAFETY: not NULL, within bounds, and alive as the caller promised.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Writes a result to an output pointer.
///
/// # Safety
/// A pointer that is not NULL points to room for a `T`.
unsafe fn give<T>(out: *mut T, value: T) -> Result<()> {
    if out.is_null() {
        return Err(invalid("the pointer for the result is NULL"));
    }
    // SAFETY: the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

fn not_null<T>(out: *mut T) -> Result<()> {
    if out.is_null() { Err(invalid("the pointer for the result is NULL")) } else { Ok(()) }
}

#[unsafe(no_mangle)]
extern "C" fn ttp_abi_version() -> u32 {
    abi::TTP_ABI_VERSION
}

#[unsafe(no_mangle)]
extern "C" fn ttp_provider_name() -> *const c_char {
    const NAME: &str =
        concat!("tt-mesh-sim ", env!("CARGO_PKG_VERSION"), " (simulated chips, no silicon)\0");
    NAME.as_ptr().cast()
}

#[unsafe(no_mangle)]
extern "C" fn ttp_last_error() -> *const c_char {
    // The text lives in the thread until its next failure.
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

extern "C" fn recorder_name() -> *const c_char {
    const NAME: &str = concat!("tt-mesh-sim ", env!("CARGO_PKG_VERSION"), " (recording)\0");
    NAME.as_ptr().cast()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ttp_mesh_open(config: *const abi::MeshConfig, out: *mut MeshHandle) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { open(config, out, None) })
}

unsafe extern "C" fn recording_open(
    config: *const abi::MeshConfig,
    out: *mut MeshHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { open(config, out, Some(crate::record::current()?)) })
}

/// # Safety
/// The header's promise about pointers.
unsafe fn open(
    config: *const abi::MeshConfig,
    out: *mut MeshHandle,
    recorder: Option<crate::record::Recorder>,
) -> Result<()> {
    not_null(out)?;
    // SAFETY: the header's promise about pointers.
    let config = unsafe { borrow(config, "config") }?;
    let handle = mesh_handle(NEXT_MESH.fetch_add(1, Ordering::Relaxed));
    let mesh = Mesh::open(handle, config, recorder)?;
    MESHES
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(handle, Arc::new(Mutex::new(mesh)));
    // SAFETY: as above.
    unsafe { give(out, handle) }
}

#[unsafe(no_mangle)]
extern "C" fn ttp_mesh_close(mesh: MeshHandle) -> Status {
    guard(|| {
        let removed = MESHES.write().unwrap_or_else(PoisonError::into_inner).remove(&mesh);
        removed.map(drop).ok_or_else(|| {
            refusal(
                abi::TTP_BAD_HANDLE,
                format!("mesh handle {mesh:#x}: it is closed or was never opened"),
            )
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ttp_mesh_describe(mesh: MeshHandle, out: *mut abi::MeshInfo) -> Status {
    guard(|| {
        // SAFETY: the header's promise about pointers; the caller has set struct_size.
        let size = unsafe { borrow(out.cast_const(), "out") }?.struct_size as usize;
        if size != size_of::<abi::MeshInfo>() {
            return Err(invalid(format!(
                "ttp_mesh_info of {size} bytes, expected {}: set struct_size",
                size_of::<abi::MeshInfo>()
            )));
        }
        let info = with_mesh(mesh, |mesh| Ok(mesh.info()))?;
        // SAFETY: as above.
        unsafe { give(out, info) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ttp_mesh_memory(
    mesh: MeshHandle,
    chip: u32,
    out: *mut abi::MemoryStats,
) -> Status {
    guard(|| {
        let stats = with_mesh(mesh, |mesh| mesh.memory(chip))?;
        // SAFETY: the header's promise about pointers.
        unsafe { give(out, stats) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn ttp_mesh_synchronize(mesh: MeshHandle) -> Status {
    guard(|| with_mesh(mesh, |mesh| mesh.not_while_capturing("synchronizing")))
}
