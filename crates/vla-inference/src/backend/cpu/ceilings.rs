//! What the processor can do at best: the denominators of every share of a peak.

use std::hint::black_box;
use std::time::Instant;

use multiversion::multiversion;

use super::{BackendError, CpuBackend};

/// Rounds of measurement; the best counts, because others may use the cores.
const ROUNDS: usize = 24;
/// Loop iterations of one measurement, about 0.3 ms.
const ITERATIONS: u64 = 40_000;
/// Independent sums: more than a multiply-add takes cycles, times two units.
const SUMS: usize = 16;
/// float32 values that each thread reads: beyond a core's own caches, 64 MB.
const READ: usize = 16 << 20;

/// Best rates of all threads together, in 1e9 per second.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ceilings {
    /// Threads.
    pub threads: usize,
    /// float32 operations by fused multiply-add (two each).
    pub f32_gflops: f64,
    /// Operations of `vdpbf16ps`; none where the processor lacks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bf16_dot_gflops: Option<f64>,
    /// Operations of `vpdpbusd`; none where the processor lacks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int8_dot_gops: Option<f64>,
    /// Bytes read from memory (or from a shared cache that holds 64 MB per thread).
    pub read_gbytes: f64,
}

impl Ceilings {
    /// Measures `threads` threads (0: one per core) for about a second.
    ///
    /// # Errors
    /// When the operating system refuses to start the threads.
    pub fn measure(threads: usize) -> Result<Self, BackendError> {
        let pool = CpuBackend::new(threads)?.pool;
        let best = |work: &(dyn Fn() -> f64 + Sync)| {
            let rate = || {
                let start = Instant::now();
                let amount = work();
                amount / start.elapsed().as_secs_f64() / 1e9
            };
            let round = |_| pool.broadcast(|_| rate()).into_iter().sum::<f64>();
            (0..ROUNDS).map(round).fold(0.0, f64::max)
        };
        let [bf16, int8] = dots();
        let per_thread = (0..pool.current_num_threads()).map(|_| vec![1.0f32; READ]);
        let memory: Vec<Vec<f32>> = per_thread.collect();
        Ok(Self {
            threads: pool.current_num_threads(),
            f32_gflops: best(&multiply_adds),
            bf16_dot_gflops: bf16.map(|work| best(&work)),
            int8_dot_gops: int8.map(|work| best(&work)),
            read_gbytes: best(&|| {
                let own = memory.get(rayon::current_thread_index().unwrap_or(0));
                let values = own.map_or(&[][..], Vec::as_slice);
                black_box(super::loops::sum(values));
                size_of_val(values) as f64
            }),
        })
    }
}

impl std::fmt::Display for Ceilings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "best of {} threads: multiply-add {:.0} GFLOP/s", self.threads, self.f32_gflops)?;
        if let Some(rate) = self.bf16_dot_gflops {
            write!(f, ", vdpbf16ps {rate:.0} GFLOP/s")?;
        }
        if let Some(rate) = self.int8_dot_gops {
            write!(f, ", vpdpbusd {rate:.0} GOP/s")?;
        }
        write!(f, ", memory {:.1} GB/s", self.read_gbytes)
    }
}

/// Multiply-adds in registers; gives the number of operations.
fn multiply_adds() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return wide_multiply_adds();
    }
    narrow_multiply_adds()
}

#[cfg(target_arch = "x86_64")]
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma"))]
fn wide_multiply_adds() -> f64 {
    sums::<16, 8>()
}

#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn narrow_multiply_adds() -> f64 {
    sums::<8, 8>()
}

/// Of a register each, or two of NEON's: eight hide the latency of two units, and AVX2 has
/// registers left for the factors.
#[inline(always)]
fn sums<const LANES: usize, const SUMS: usize>() -> f64 {
    let (a, b) = (black_box([0.5f32; LANES]), black_box([0.25f32; LANES]));
    let mut sums = [[0.0f32; LANES]; SUMS];
    for _ in 0..2 * ITERATIONS {
        for sum in &mut sums {
            for ((sum, a), b) in sum.iter_mut().zip(&a).zip(&b) {
                *sum = sum.mul_add(*a, *b);
            }
        }
    }
    black_box(sums);
    (2 * ITERATIONS) as f64 * (SUMS * LANES * 2) as f64
}

/// A measurement of one instruction.
type Work = fn() -> f64;

/// Measurements of `vdpbf16ps` and `vpdpbusd`, where the processor has them.
fn dots() -> [Option<Work>; 2] {
    #[cfg(target_arch = "x86_64")]
    {
        let avx512 = is_x86_feature_detected!("avx512f");
        let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
        let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
        // SAFETY: each is only called where the processor has its features.
        let bf16 = bf16.then_some((|| unsafe { bf16_dots() }) as Work);
        // SAFETY: as above.
        let int8 = vnni.then_some((|| unsafe { int8_dots() }) as Work);
        [bf16, int8]
    }
    #[cfg(not(target_arch = "x86_64"))]
    [None, None]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_dots() -> f64 {
    use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32};
    use std::arch::x86_64::{_mm512_reduce_add_ps, _mm512_setzero_ps};
    // SAFETY: the types differ in name only: 512 bits without invalid values.
    let pairs = |x: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(x) };
    let (a, b) = (_mm512_set1_epi32(black_box(0x3f00_3f00)), _mm512_set1_epi32(black_box(0)));
    let (a, b) = (pairs(a), pairs(b));
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..ITERATIONS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, a, b);
        }
    }
    black_box(sums.map(|sum| _mm512_reduce_add_ps(sum)));
    ITERATIONS as f64 * (SUMS * 64) as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn int8_dots() -> f64 {
    use std::arch::x86_64::_mm512_setzero_si512;
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi32};
    let (a, b) = (_mm512_set1_epi32(black_box(0x0101_0101)), _mm512_set1_epi32(black_box(0)));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..2 * ITERATIONS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums.map(|sum| _mm512_reduce_add_epi32(sum)));
    (2 * ITERATIONS) as f64 * (SUMS * 128) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_are_plausible_and_printed() {
        let ceilings = Ceilings::measure(2).unwrap();
        assert_eq!(ceilings.threads, 2);
        // A processor without these would take hours for one action.
        assert!(ceilings.f32_gflops > 0.1 && ceilings.read_gbytes > 0.1, "{ceilings}");
        assert_eq!(ceilings.bf16_dot_gflops.is_some(), dots()[0].is_some());
        assert!(ceilings.to_string().starts_with("best of 2 threads: multiply-add "));
    }
}
