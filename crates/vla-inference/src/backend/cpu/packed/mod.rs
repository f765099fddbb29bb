//! Linear layers over weights that are packed once, at load: float32 arithmetic over weights of
//! float32 or bf16, bf16 with activations rounded to bf16 and float32 sums, or int8 per output with
//! activations quantised row by row.
//!
//! A product is divided into blocks of rows (see [`layout`]) and groups of panels; a worker takes a
//! group at a time and passes over the inputs in pieces whose weights stay in its caches. Every
//! tile adds along the inputs in one order, so that a row's result depends neither on the other
//! rows, nor on the number of threads, nor on the processor.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
mod layout;
mod portable;
mod scratch;
mod store;
#[cfg(test)]
mod tests;
mod tile;

use std::ops::Range;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{BackendError, CpuFormat, CpuTensor};
use crate::tensor::HostTensor;
use format::Format;
use layout::{FEW_ROWS, Line, MAX_ROWS, PANEL, PASS};
use scratch::{LINES, SUMS, WORDS, reused};
use store::Store;
use tile::{Ahead, Features, Tile};

/// Panels of a group at most: 128 KB of weights per pass, and as much of sums for 256 rows, stay in
/// the second-level cache.
const GROUP: usize = 4;
/// Stored words of a task with few rows, which is bound by memory: 128 KB.
const STREAMED_WORDS: usize = 32 << 10;

/// Packed weights of a linear layer.
pub(super) struct Packed {
    format: Format,
    features: Features,
    inputs: usize,
    outputs: usize,
    /// Words per output.
    words: usize,
    /// Panel by panel, step by step, two lines.
    lines: Store,
    /// int8: value of one unit per output.
    units: Vec<f32>,
    /// int8: what the zero point of the activations adds to each output's sum.
    zero_sums: Vec<i32>,
}

/// Consecutive rows of one tile.
#[derive(Clone, Copy)]
struct RowBlock {
    start: usize,
    rows: usize,
}

/// Rows in blocks of nearly equal size.
fn row_blocks(rows: usize) -> Vec<RowBlock> {
    let count = rows.div_ceil(MAX_ROWS);
    let at = |index: usize| index * rows / count;
    (0..count).map(|index| RowBlock { start: at(index), rows: at(index + 1) - at(index) }).collect()
}

/// Panels per group, such that no worker is left without work at the end.
fn group_size(panels: usize, threads: usize) -> usize {
    let idle = |size: usize| panels.div_ceil(size).div_ceil(threads) * size * threads - panels;
    (1..=GROUP).rev().min_by_key(|size| idle(*size)).unwrap_or(1)
}

/// Rows in the words of a tile, with the factor of each.
struct Activations<'a> {
    words: &'a [u32],
    scales: &'a [f32],
    per_row: usize,
    blocks: &'a [RowBlock],
}

impl Packed {
    /// Packs weights `[outputs_i, inputs]`, stacked along the outputs.
    pub(super) fn new(
        format: CpuFormat,
        weights: &[HostTensor],
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, BackendError> {
        let format = Format::of(format, weights);
        store::pack(format, weights, [inputs, outputs], Features::of_processor())
    }

    /// `out = x W^T`; `finish` gets each row's pieces with the index of their first output.
    pub(super) fn multiply(
        &self,
        x: &CpuTensor,
        out: &mut CpuTensor,
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) {
        if x.rows > 0 {
            self.multiply_with(self.tile(x.rows), x, out, finish);
        }
    }

    fn multiply_with(
        &self,
        tile: Tile,
        x: &CpuTensor,
        out: &mut CpuTensor,
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) {
        let blocks = row_blocks(x.rows);
        let per_row = activations::words_per_row(tile, self.format, self.words);
        let mut scales = vec![1.0; x.rows];
        reused(&WORDS, x.rows * per_row, 0, |words| {
            self.pack_activations(tile, x, &blocks, words, &mut scales);
            let packed = Activations { words, scales: &scales, per_row, blocks: &blocks };
            self.groups(tile, &packed, out, finish);
        });
    }

    fn tile(&self, rows: usize) -> Tile {
        match self.format {
            Format::Floats => Tile::Floats,
            Format::Int8 => Tile::Bytes,
            Format::WidenedBf16 if rows <= FEW_ROWS => Tile::Widening,
            Format::WidenedBf16 => Tile::Floats,
            Format::Bf16 => match self.features.bf16_tile() {
                Tile::Floats if rows <= FEW_ROWS => Tile::Widening,
                tile => tile,
            },
        }
    }

    fn pack_activations(
        &self,
        tile: Tile,
        x: &CpuTensor,
        blocks: &[RowBlock],
        words: &mut [u32],
        scales: &mut [f32],
    ) {
        let per_row = words.len() / x.rows;
        let (mut words, mut scales) = (words, scales);
        let mut tasks = Vec::with_capacity(blocks.len());
        for block in blocks {
            let (head, tail) = words.split_at_mut(block.rows * per_row);
            let (head_scales, tail_scales) = scales.split_at_mut(block.rows);
            tasks.push((block, head, head_scales));
            (words, scales) = (tail, tail_scales);
        }
        tasks.into_par_iter().for_each(|(block, words, scales)| {
            let values = block.start * self.inputs..(block.start + block.rows) * self.inputs;
            let values = &x.values[values];
            match self.format {
                Format::Floats => activations::pack_exact(values, self.inputs, 1, words),
                Format::WidenedBf16 => activations::pack_exact(values, self.inputs, 2, words),
                _ => activations::pack(tile, values, self.inputs, self.words, words, scales),
            }
        });
    }

    /// Divides the outputs among the workers.
    fn groups(
        &self,
        tile: Tile,
        x: &Activations<'_>,
        out: &mut CpuTensor,
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) {
        let panels = self.outputs.div_ceil(PANEL);
        let size = if x.blocks.len() == 1 {
            (STREAMED_WORDS / (self.words * PANEL)).clamp(1, 2 * GROUP)
        } else {
            group_size(panels, rayon::current_num_threads())
        };
        let groups = columns_of(out, size * PANEL);
        groups.into_par_iter().with_max_len(1).enumerate().for_each(|(index, mut rows)| {
            let panels = index * size..((index + 1) * size).min(panels);
            reused(&SUMS, x.scales.len() * panels.len() * PANEL, 0.0, |sums| {
                self.sum(tile, x, panels.clone(), sums);
                self.write(x, panels, sums, &mut rows, &finish);
            });
        });
    }

    /// Sums of a group of panels, block by block, panel by panel, `[rows, PANEL]`.
    fn sum(&self, tile: Tile, x: &Activations<'_>, panels: Range<usize>, sums: &mut [f32]) {
        // Stored words in a pass: of widened weights, a word is two steps.
        let steps_per_word = x.per_row / self.words;
        let widened = tile == Tile::Floats && steps_per_word == 2;
        // A single block of rows meets each weight once: nothing has to stay in a cache. (Portable
        // tiles pass over a panel twice.)
        let single = x.blocks.len() == 1 && !widened && self.features.has(tile);
        let pass = if single { self.words } else { PASS / steps_per_word };
        let scratch = if widened { panels.len() * 2 * PASS } else { 0 };
        reused(&LINES, scratch, Line([0; 16]), |scratch| {
            for start in (0..self.words).step_by(pass) {
                let words = start..(start + pass).min(self.words);
                let wide = 4 * words.len();
                if widened {
                    for (panel, out) in panels.clone().zip(scratch.chunks_exact_mut(wide)) {
                        self.features.widen(out, self.lines_of(panel, &words));
                    }
                }
                // A panel's lines stay in the first-level cache while the rows pass by.
                for (index, panel) in panels.clone().enumerate() {
                    let b = if widened {
                        &scratch[index * wide..][..wide]
                    } else {
                        self.lines_of(panel, &words)
                    };
                    let next = words.end..(words.end + pass).min(self.words);
                    let mut next = Ahead::new(self.lines_of(panel, &next), x.blocks.len());
                    for block in x.blocks {
                        let first = block.start * x.per_row + start * steps_per_word * block.rows;
                        let a = &x.words[first..][..words.len() * steps_per_word * block.rows];
                        let c = (block.start * panels.len() + index * block.rows) * PANEL;
                        let c = &mut sums[c..][..block.rows * PANEL];
                        self.features.run(tile, block.rows, a, b, c, start == 0);
                        next.fetch();
                    }
                }
            }
        });
    }

    fn lines_of(&self, panel: usize, words: &Range<usize>) -> &[Line] {
        let first = 2 * panel * self.words;
        &self.lines[first + 2 * words.start..first + 2 * words.end]
    }

    /// Writes the sums of a group to its columns of the output.
    fn write(
        &self,
        x: &Activations<'_>,
        panels: Range<usize>,
        sums: &[f32],
        rows: &mut [&mut [f32]],
        finish: &impl Fn(&mut [f32], usize),
    ) {
        let first = panels.start * PANEL;
        for block in x.blocks {
            let sums = &sums[block.start * panels.len() * PANEL..];
            for row in 0..block.rows {
                let out = &mut *rows[block.start + row];
                let sums = &sums[row * PANEL..];
                gather(out, sums, block.rows * PANEL);
                if self.format == Format::Int8 {
                    let (units, zeros) = (&self.units[first..], &self.zero_sums[first..]);
                    dequantise(out, units, zeros, x.scales[block.start + row]);
                }
                finish(out, first);
            }
        }
    }
}

/// A row's sums of consecutive panels, `stride` apart.
fn gather(out: &mut [f32], sums: &[f32], stride: usize) {
    for (out, sums) in out.chunks_mut(PANEL).zip(sums.chunks(stride)) {
        out.copy_from_slice(&sums[..out.len()]);
    }
}

/// Integer sums in place of floats: without the zero point, times the units of weights and
/// activations.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn dequantise(out: &mut [f32], units: &[f32], zeros: &[i32], scale: f32) {
    for ((out, unit), zero) in out.iter_mut().zip(units).zip(zeros) {
        *out = (out.to_bits().cast_signed() - zero) as f32 * (scale * unit);
    }
}

/// The output's columns in pieces of `width`; each piece has one slice per row.
fn columns_of(out: &mut CpuTensor, width: usize) -> Vec<Vec<&mut [f32]>> {
    let pieces = out.columns.div_ceil(width);
    let mut columns: Vec<Vec<&mut [f32]>> =
        (0..pieces).map(|_| Vec::with_capacity(out.rows)).collect();
    for row in out.values.chunks_exact_mut(out.columns) {
        for (piece, slice) in columns.iter_mut().zip(row.chunks_mut(width)) {
            piece.push(slice);
        }
    }
    columns
}
