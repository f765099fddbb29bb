//! Choice of the tiles: what the processor has, and which of two ways to the same bits is faster.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::layout::{Line, MAX_ROWS, PANEL, PASS};
use super::portable;

/// How a block of rows is multiplied with a panel. The first three give the same bits: products of
/// bf16 are exact in float32, and all add them in one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    /// bf16 weights widened into a scratch, float32 multiply-add.
    Floats,
    /// bf16 weights widened in registers, float32 multiply-add: for few rows.
    Widening,
    /// Pairs of bf16 by AVX512_BF16.
    Pairs,
    /// int8 weights and bytes of activations, 32-bit sums.
    Bytes,
}

/// Weights of the next pass, requested from memory piece by piece while this one is computed.
pub(super) struct Ahead<'a> {
    lines: &'a [Line],
    piece: usize,
}

impl<'a> Ahead<'a> {
    /// In about so many pieces.
    pub(super) fn new(lines: &'a [Line], pieces: usize) -> Self {
        Self { lines, piece: lines.len().div_ceil(pieces.max(1)) }
    }

    /// Requests the next piece.
    pub(super) fn fetch(&mut self) {
        let (now, later) = self.lines.split_at(self.piece.min(self.lines.len()));
        self.lines = later;
        #[cfg(target_arch = "x86_64")]
        for line in now {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: every x86-64 has the instruction, and it faults on no address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = now;
    }
}

/// Instructions beyond the portable loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    avx512: bool,
    bf16: bool,
    vnni: bool,
}

impl Features {
    /// Only the portable loops.
    #[cfg(test)]
    pub(super) const NONE: Self = Self { avx512: false, bf16: false, vnni: false };

    /// Those of this processor.
    pub(super) fn of_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f");
            Self {
                avx512,
                bf16: avx512 && is_x86_feature_detected!("avx512bf16"),
                vnni: avx512 && is_x86_feature_detected!("avx512vnni"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::default()
    }

    /// Whether there are instructions for this tile (the portable loops have no [`Tile::Pairs`]).
    pub(super) fn has(self, tile: Tile) -> bool {
        match tile {
            Tile::Floats | Tile::Widening => self.avx512,
            Tile::Pairs => self.bf16,
            Tile::Bytes => self.vnni,
        }
    }

    /// `c (+)= a b`; of [`Tile::Bytes`] the sums are 32-bit integers in the same memory.
    pub(super) fn run(
        self,
        tile: Tile,
        rows: usize,
        a: &[u32],
        b: &[Line],
        c: &mut [f32],
        first: bool,
    ) {
        #[cfg(target_arch = "x86_64")]
        if self.has(tile) {
            // SAFETY: `has` says that the processor has the features: they are only set where they
            // were detected.
            unsafe {
                match tile {
                    Tile::Floats => avx512::floats(rows, a, b, c, first),
                    Tile::Widening => avx512::widening(rows, a, b, c, first),
                    Tile::Pairs => avx512::pairs(rows, a, b, c, first),
                    Tile::Bytes => {
                        avx512::bytes(rows, a, b, bytemuck::cast_slice_mut(c), first);
                    }
                }
            }
            return;
        }
        match tile {
            Tile::Floats => portable::floats(rows, a, b, c, first),
            Tile::Widening => portable::widening(rows, a, b, c, first),
            Tile::Bytes => portable::bytes(rows, a, b, bytemuck::cast_slice_mut(c), first),
            Tile::Pairs => unreachable!("pairs are only chosen where the processor has them"),
        }
    }

    /// Lines of bf16 pairs as lines of float32, for [`Tile::Floats`].
    pub(super) fn widen(self, out: &mut [Line], stored: &[Line]) {
        #[cfg(target_arch = "x86_64")]
        if self.avx512 {
            // SAFETY: only set where it was detected.
            unsafe { avx512::widen(out, stored) };
            return;
        }
        portable::widen(out, stored);
    }

    /// The faster tile for bf16 and many rows. `vdpbf16ps` does twice the work of a multiply-add on
    /// Zen 4 and half of it on Sapphire Rapids; both are timed once per process, in 1 ms.
    pub(super) fn bf16_tile(self) -> Tile {
        static FASTER: OnceLock<Tile> = OnceLock::new();
        if !self.has(Tile::Pairs) {
            return Tile::Floats;
        }
        *FASTER.get_or_init(|| {
            // A step of pairs has twice the products of one of floats.
            let (pairs, floats) = (self.shortest(Tile::Pairs), self.shortest(Tile::Floats) * 2);
            if pairs < floats { Tile::Pairs } else { Tile::Floats }
        })
    }

    /// The shortest of several timings of one tile.
    fn shortest(self, tile: Tile) -> Duration {
        let (a, b) = (vec![0; MAX_ROWS * PASS], vec![Line([0; 16]); 2 * PASS]);
        let mut c = vec![0.0; MAX_ROWS * PANEL];
        let time = |_| {
            let start = Instant::now();
            for _ in 0..4 {
                self.run(tile, MAX_ROWS, &a, &b, &mut c, true);
            }
            start.elapsed()
        };
        (0..16).map(time).min().unwrap_or(Duration::MAX)
    }
}
