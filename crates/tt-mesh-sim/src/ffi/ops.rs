//! Operations.

use tt_metal_sys as abi;
use tt_metal_sys::{Status, TensorHandle};

use super::{array, borrow, give, guard, not_null, with_mesh};
use crate::error::{Result, ensure, invalid, refusal};
use crate::format::{Format, Layout};
use crate::op::{Activation, Compute, Op};
use crate::program::OwnedProgram;

/// # Safety
/// The header's promise about pointers.
unsafe fn compute(pointer: *const abi::Compute) -> Result<Compute> {
    // SAFETY: the caller's promise.
    Compute::from_abi(unsafe { borrow(pointer, "compute") }?)
}

/// Runs an operation with one output.
///
/// # Safety
/// The header's promise about `out`.
unsafe fn one(op: Op, inputs: &[TensorHandle], out: *mut TensorHandle) -> Result<()> {
    not_null(out)?;
    let first =
        inputs.first().copied().ok_or_else(|| invalid(format!("{} of no tensors", op.name())))?;
    let handles = with_mesh(first, |mesh| mesh.dispatch(op, inputs))?;
    let handle = handles
        .first()
        .copied()
        .ok_or_else(|| refusal(abi::TTP_INTERNAL, "an operation without output"))?;
    // SAFETY: the caller's promise.
    unsafe { give(out, handle) }
}

fn none(op: Op, inputs: &[TensorHandle]) -> Result<()> {
    with_mesh(inputs[0], |mesh| mesh.dispatch(op, inputs)).map(drop)
}

/// `inputs` without the optional ones that are 0.
fn present(inputs: &[TensorHandle], optional: TensorHandle) -> Vec<TensorHandle> {
    inputs.iter().copied().chain((optional != 0).then_some(optional)).collect()
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_linear(
    x: TensorHandle,
    w: TensorHandle,
    bias: TensorHandle,
    activation: u32,
    config: *const abi::Compute,
    format: u32,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        // SAFETY: the header's promise about pointers.
        let compute = unsafe { compute(config) }?;
        let op = Op::Linear {
            bias: bias != 0,
            activation: Activation::from_abi(activation)?,
            compute,
            format: Format::from_abi(format)?,
        };
        // SAFETY: as above.
        unsafe { one(op, &present(&[x, w], bias), out) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_layer_norm(
    x: TensorHandle,
    weight: TensorHandle,
    bias: TensorHandle,
    eps: f32,
    config: *const abi::Compute,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        ensure!(eps.is_finite() && eps > 0.0, "layer_norm: eps {eps} is not a positive number");
        // SAFETY: the header's promise about pointers.
        let compute = unsafe { compute(config) }?;
        // SAFETY: as above.
        unsafe {
            one(
                Op::LayerNorm { bias: bias != 0, eps: eps.to_bits(), compute },
                &present(&[x, weight], bias),
                out,
            )
        }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_rms_norm(
    x: TensorHandle,
    weight: TensorHandle,
    eps: f32,
    config: *const abi::Compute,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        ensure!(eps.is_finite() && eps > 0.0, "rms_norm: eps {eps} is not a positive number");
        // SAFETY: the header's promise about pointers.
        let compute = unsafe { compute(config) }?;
        // SAFETY: as above.
        unsafe { one(Op::RmsNorm { eps: eps.to_bits(), compute }, &[x, weight], out) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_rope(
    x: TensorHandle,
    cosine: TensorHandle,
    sine: TensorHandle,
    order: u32,
    config: *const abi::Compute,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        ensure!(
            matches!(order, abi::TTP_ROPE_HALF | abi::TTP_ROPE_PAIRS),
            "rope: order {order} is none of TTP_ROPE_*"
        );
        // SAFETY: the header's promise about pointers.
        let compute = unsafe { compute(config) }?;
        // SAFETY: as above.
        unsafe {
            one(Op::Rope { half: order == abi::TTP_ROPE_HALF, compute }, &[x, cosine, sine], out)
        }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_split_heads(
    qkv: TensorHandle,
    q_heads: u32,
    kv_heads: u32,
    q: *mut TensorHandle,
    k: *mut TensorHandle,
    v: *mut TensorHandle,
) -> Status {
    let op = Op::SplitHeads { q: q_heads as usize, kv: kv_heads as usize };
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { split(op, qkv, [q, k, v]) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_split_heads_decode(
    qkv: TensorHandle,
    q_heads: u32,
    kv_heads: u32,
    q: *mut TensorHandle,
    k: *mut TensorHandle,
    v: *mut TensorHandle,
) -> Status {
    let op = Op::SplitHeadsDecode { q: q_heads as usize, kv: kv_heads as usize };
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { split(op, qkv, [q, k, v]) })
}

/// Runs an operation with three outputs.
///
/// # Safety
/// The header's promise about `out`.
unsafe fn split(op: Op, qkv: TensorHandle, out: [*mut TensorHandle; 3]) -> Result<()> {
    out.into_iter().try_for_each(not_null)?;
    let handles = with_mesh(qkv, |mesh| mesh.dispatch(op, &[qkv]))?;
    for (out, handle) in out.into_iter().zip(handles) {
        // SAFETY: the caller's promise.
        unsafe { give(out, handle) }?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_concat_heads(
    x: TensorHandle,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::ConcatHeads, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_attention(
    q: TensorHandle,
    k: TensorHandle,
    v: TensorHandle,
    mask: TensorHandle,
    causal: u32,
    scale: f32,
    config: *const abi::Compute,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        ensure!(scale.is_finite(), "attention: scale {scale} is not finite");
        // SAFETY: the header's promise about pointers.
        let compute = unsafe { compute(config) }?;
        let op =
            Op::Attention { mask: mask != 0, causal: causal != 0, scale: scale.to_bits(), compute };
        // SAFETY: as above.
        unsafe { one(op, &present(&[q, k, v], mask), out) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_attention_decode(
    q: TensorHandle,
    k_cache: TensorHandle,
    v_cache: TensorHandle,
    position: TensorHandle,
    scale: f32,
    config: *const abi::Compute,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        ensure!(scale.is_finite(), "attention_decode: scale {scale} is not finite");
        // SAFETY: the header's promise about pointers.
        let compute = unsafe { compute(config) }?;
        // SAFETY: as above.
        unsafe {
            one(
                Op::AttentionDecode { scale: scale.to_bits(), compute },
                &[q, k_cache, v_cache, position],
                out,
            )
        }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_cache_fill(cache: TensorHandle, x: TensorHandle) -> Status {
    guard(|| none(Op::CacheFill, &[cache, x]))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_cache_update(
    cache: TensorHandle,
    x: TensorHandle,
    position: TensorHandle,
) -> Status {
    guard(|| none(Op::CacheUpdate, &[cache, x, position]))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_cache_update_pair(
    k_cache: TensorHandle,
    v_cache: TensorHandle,
    k: TensorHandle,
    v: TensorHandle,
    position: TensorHandle,
) -> Status {
    guard(|| {
        ensure!(
            k_cache != v_cache,
            "cache_update_pair: keys and values are the same cache {k_cache:#x}"
        );
        // One program on a mesh; here one after the other, after both were checked.
        let caches = [(k_cache, k), (v_cache, v)];
        with_mesh(k_cache, |mesh| {
            for (cache, row) in caches {
                mesh.check(Op::CacheUpdatePair { first: true }, &[cache, row, position])?;
            }
            for (first, (cache, row)) in [true, false].into_iter().zip(caches) {
                mesh.dispatch(Op::CacheUpdatePair { first }, &[cache, row, position])?;
            }
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_embedding(
    ids: TensorHandle,
    table: TensorHandle,
    layout: u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe {
        one(Op::Embedding { layout: Layout::from_abi(layout)? }, &[ids, table], out)
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_binary(
    a: TensorHandle,
    b: TensorHandle,
    operation: u32,
    left_activation: u32,
    format: u32,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        ensure!(
            matches!(operation, abi::TTP_ADD | abi::TTP_SUB | abi::TTP_MUL),
            "binary: operation {operation} is none of TTP_ADD, TTP_SUB, TTP_MUL"
        );
        let op = Op::Binary {
            operation,
            left: Activation::from_abi(left_activation)?,
            format: Format::from_abi(format)?,
        };
        // SAFETY: the header's promise about pointers.
        unsafe { one(op, &[a, b], out) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_unary(
    x: TensorHandle,
    activation: u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::Unary { activation: Activation::from_abi(activation)? }, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_increment(x: TensorHandle, value: i32) -> Status {
    guard(|| none(Op::Increment { value }, &[x]))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_concat(
    tensors: *const TensorHandle,
    count: u32,
    dim: u32,
    out: *mut TensorHandle,
) -> Status {
    guard(|| {
        // SAFETY: the header's promise about pointers.
        let tensors = unsafe { array(tensors, count as usize, "tensors") }?;
        // SAFETY: as above.
        unsafe { one(Op::Concat { dim: dim as usize }, tensors, out) }
    })
}

/// # Safety
/// The header's promise about pointers: four words.
unsafe fn four(pointer: *const u32, what: &str) -> Result<[usize; 4]> {
    // SAFETY: the caller's promise.
    let words = unsafe { borrow(pointer.cast::<[u32; 4]>(), what) }?;
    Ok(words.map(|word| word as usize))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_slice(
    x: TensorHandle,
    begin: *const u32,
    end: *const u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe {
        one(Op::Slice { begin: four(begin, "begin")?, end: four(end, "end")? }, &[x], out)
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_reshape(
    x: TensorHandle,
    dims: *const u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::Reshape { dims: four(dims, "dims")? }, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_transpose(x: TensorHandle, out: *mut TensorHandle) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::Transpose, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_convert(
    x: TensorHandle,
    format: u32,
    layout: u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe {
        one(
            Op::Convert { format: Format::from_abi(format)?, layout: Layout::from_abi(layout)? },
            &[x],
            out,
        )
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ttp_copy(x: TensorHandle, target: TensorHandle) -> Status {
    guard(|| none(Op::Copy, &[target, x]))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_argmax(
    x: TensorHandle,
    begin: u32,
    end: u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::Argmax { begin: begin as usize, end: end as usize }, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_all_gather(
    x: TensorHandle,
    dim: u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::AllGather { dim: dim as usize }, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_reduce_scatter(
    x: TensorHandle,
    dim: u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::ReduceScatter { dim: dim as usize }, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_all_reduce(x: TensorHandle, out: *mut TensorHandle) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::AllReduce, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_partition(
    x: TensorHandle,
    dim: u32,
    out: *mut TensorHandle,
) -> Status {
    // SAFETY: the header's promise about pointers.
    guard(|| unsafe { one(Op::Partition { dim: dim as usize }, &[x], out) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ttp_run_program(
    tensors: *const TensorHandle,
    count: u32,
    program: *const abi::Program,
) -> Status {
    guard(|| {
        // SAFETY: the header's promise about pointers.
        let tensors = unsafe { array(tensors, count as usize, "tensors") }?;
        let first = tensors
            .first()
            .copied()
            .ok_or_else(|| invalid("a program without tensors has no output"))?;
        with_mesh(first, |mesh| {
            // SAFETY: as above, for everything the program points to.
            let program = unsafe {
                OwnedProgram::copy(borrow(program, "program")?, tensors.len(), mesh.board())
            }?;
            mesh.run_program(tensors, program)
        })
    })
}
