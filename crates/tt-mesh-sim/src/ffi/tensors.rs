//! Tensors and traces.

use std::ffi::c_void;

use tt_metal_sys as abi;
use tt_metal_sys::{MeshHandle, Status, TensorHandle, TraceHandle};

use super::{array, borrow, give, guard, not_null, with_mesh};
use crate::error::{Result, invalid};
use crate::format::{Format, Layout, Spec};
use crate::host::{self, Distribution, HostArray};

fn dims(dims: [u32; 4]) -> [usize; 4] {
    dims.map(|dim| dim as usize)
}

/// # Safety
/// The header's promise about pointers.
unsafe fn host_array<'a>(host: *const abi::Host) -> Result<HostArray<'a>> {
    // SAFETY: the caller's promise, for both pointers.
    let host = unsafe { borrow(host, "host") }?;
    let length = usize::try_from(host.bytes)
        .map_err(|_| invalid(format!("a host array of {} bytes", host.bytes)))?;
    // SAFETY: as above.
    let bytes = unsafe { array(host.data.cast::<u8>(), length, "host data") }?;
    Ok(HostArray {
        bytes,
        dims: dims(host.dims),
        format: Format::from_abi(host.format)?,
        layout: Layout::from_abi(host.layout)?,
    })
}

/// # Safety
/// The header's promise about pointers.
unsafe fn distribution(raw: *const abi::Distribution) -> Result<Distribution> {
    // SAFETY: the caller's promise.
    Distribution::from_abi(unsafe { borrow(raw, "distribution") }?)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_tensor_create(
    mesh: MeshHandle,
    spec: *const abi::Spec,
    zeroed: u32,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        not_null(out)?;
        // SAFETY: the header's promise about pointers.
        let spec = unsafe { borrow(spec, "spec") }?;
        let spec = Spec::new(
            dims(spec.dims),
            Format::from_abi(spec.format)?,
            Layout::from_abi(spec.layout)?,
        )?;
        let handle = with_mesh(mesh, |mesh| mesh.create(spec, zeroed != 0))?;
        // SAFETY: as above.
        unsafe { give(out, handle) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_tensor_upload(
    mesh: MeshHandle,
    host: *const abi::Host,
    distribution: *const abi::Distribution,
    format: u32,
    layout: u32,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        not_null(out)?;
        // SAFETY: the header's promise about pointers.
        let (array, shards) = unsafe { (host_array(host)?, self::distribution(distribution)?) };
        let (format, layout) = (Format::from_abi(format)?, Layout::from_abi(layout)?);
        let handle = with_mesh(mesh, |mesh| mesh.upload(&array, shards, format, layout))?;
        // SAFETY: as above.
        unsafe { give(out, handle) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_tensor_write(
    tensor: TensorHandle,
    host: *const abi::Host,
    distribution: *const abi::Distribution,
) -> Status {
    guard(|| {
        // SAFETY: the header's promise about pointers.
        let (array, shards) = unsafe { (host_array(host)?, self::distribution(distribution)?) };
        with_mesh(tensor, |mesh| mesh.write(tensor, &array, shards))
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_tensor_read(
    tensor: TensorHandle,
    chip: u32,
    format: u32,
    data: *mut c_void,
    bytes: u64,
) -> Status {
    guard(|| {
        not_null(data)?;
        let length = usize::try_from(bytes)
            .ok()
            .filter(|length| isize::try_from(*length).is_ok())
            .ok_or_else(|| invalid(format!("room for {bytes} bytes")))?;
        // SAFETY: not NULL; the caller promises room for `bytes` bytes, which any bit pattern
        // fills.
        let out = unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), length) };
        let format = Format::from_abi(format)?;
        with_mesh(tensor, |mesh| mesh.read(tensor, chip, format, out))
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_tensor_describe(
    tensor: TensorHandle,
    out: *mut abi::Spec,
) -> Status {
    guard(|| {
        let spec = with_mesh(tensor, |mesh| mesh.tensor(tensor).map(|tensor| tensor.spec))?;
        let spec = abi::Spec {
            dims: spec.dims.map(|dim| dim as u32),
            format: spec.format.to_abi(),
            layout: spec.layout.to_abi(),
        };
        // SAFETY: the header's promise about pointers.
        unsafe { give(out, spec) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_tensor_address(tensor: TensorHandle, out: *mut u32) -> Status {
    guard(|| {
        let block = with_mesh(tensor, |mesh| mesh.tensor(tensor).map(|tensor| tensor.block))?;
        let address = block
            .and_then(|block| u32::try_from(block.start).ok())
            .ok_or_else(|| invalid("the tensor has no address"))?;
        // SAFETY: the header's promise about pointers.
        unsafe { give(out, address) }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_tensor_free(tensor: TensorHandle) -> Status {
    guard(|| with_mesh(tensor, |mesh| mesh.free(tensor)))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_pack(
    host: *const abi::Host,
    distribution: *const abi::Distribution,
    chips: u32,
    format: u32,
    data: *mut c_void,
    bytes: u64,
    needed: *mut u64,
) -> Status {
    guard(|| {
        not_null(needed)?;
        let format = Format::from_abi(format)?;
        // SAFETY: the header's promise about pointers. With `data` NULL the array is only measured.
        let (array, shards) = unsafe {
            let array = if data.is_null() {
                let host = borrow(host, "host")?;
                HostArray {
                    bytes: &[],
                    dims: dims(host.dims),
                    format: Format::from_abi(host.format)?,
                    layout: Layout::from_abi(host.layout)?,
                }
            } else {
                host_array(host)?
            };
            (array, self::distribution(distribution)?)
        };
        let length = host::packed_bytes(&array, shards, chips as usize, format)?;
        if !data.is_null() {
            if bytes != length {
                return Err(invalid(format!("packing takes {length} bytes, not {bytes}")));
            }
            let packed = host::pack(&array, shards, chips as usize, format)?;
            // SAFETY: the caller promises room for `bytes` bytes, which is the length of `packed`.
            unsafe {
                std::ptr::copy_nonoverlapping(packed.as_ptr(), data.cast::<u8>(), packed.len())
            };
        }
        // SAFETY: as above.
        unsafe { give(needed, length) }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_trace_begin(mesh: MeshHandle) -> Status {
    guard(|| with_mesh(mesh, |mesh| mesh.trace_begin()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_trace_end(mesh: MeshHandle, out: *mut TraceHandle) -> Status {
    guard(|| {
        not_null(out)?;
        let trace = with_mesh(mesh, |mesh| mesh.trace_end())?;
        // SAFETY: the header's promise about pointers.
        unsafe { give(out, trace) }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_trace_run(trace: TraceHandle, _blocking: u32) -> Status {
    guard(|| with_mesh(trace, |mesh| mesh.trace_run(trace)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_trace_free(trace: TraceHandle) -> Status {
    guard(|| with_mesh(trace, |mesh| mesh.trace_free(trace)))
}
