//! The only call of the GEMM.

use gemm_common::Parallelism;

/// A matrix in memory: element `(i, j)` is at `start + i * row + j * column`.
#[derive(Clone, Copy)]
pub(super) struct Strided<P> {
    /// First element.
    pub start: P,
    /// Elements from row to row.
    pub row: usize,
    /// Elements from column to column.
    pub column: usize,
}

/// `out = scale * a b` with `a` of `m * k` and `b` of `k * n` elements, on the calling thread. The
/// previous content of `out` is not read.
///
/// # Safety
/// Every element of the three matrices lies within an allocation that is valid for reading (`a`,
/// `b`) or writing (`out`); nothing else writes to them during the call, and `out` overlaps neither
/// `a` nor `b`.
pub(super) unsafe fn multiply(
    [m, n, k]: [usize; 3],
    out: Strided<*mut f32>,
    a: Strided<*const f32>,
    b: Strided<*const f32>,
    scale: f32,
) {
    let stride = |elements: usize| elements as isize; // an allocation has at most isize::MAX bytes
    let kernel = gemm_f32::gemm::f32::get_gemm_fn();
    // The kernels need a destination with contiguous columns; `out` has contiguous rows, so that
    // `out^T = b^T a^T` is computed. SAFETY: the caller vouches for the elements; the
    // strides are passed on as they are, with rows and columns exchanged throughout.
    unsafe {
        kernel(
            n,
            m,
            k,
            out.start,
            stride(out.row),
            stride(out.column),
            false,
            b.start,
            stride(b.row),
            stride(b.column),
            a.start,
            stride(a.row),
            stride(a.column),
            0.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
