//! Sizes that packing and tiles share.
//!
//! A *panel* is the weights of 32 consecutive outputs. Its *steps* follow each other along the
//! inputs; a step is two *lines* of 16 words, one word of 32 bits per output. A word holds one
//! float32, two neighbouring bf16 (the lower input in the lower half) or four neighbouring int8
//! (the lowest input in the lowest byte). Inputs are padded with zeros to whole words.
//! The activations of a block of rows have the same words: step by step, one word per row.

/// Outputs of a line.
pub(super) const LANES: usize = 16;
/// Outputs of a panel.
pub(super) const PANEL: usize = 2 * LANES;
/// Rows of the largest tile.
pub(super) const MAX_ROWS: usize = 14;
/// Up to this many rows, a product is bound by memory: weights are widened in registers.
pub(super) const FEW_ROWS: usize = 8;
/// Steps of one pass over a panel: its lines (32 KB) stay in the first-level cache while the
/// blocks of rows pass by.
pub(super) const PASS: usize = 256;

/// One word of 16 outputs.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u32; LANES]);

/// The two bf16 of a word as float32, the upper one first: the order of AVX512_BF16's
/// `vdpbf16ps`, so that every kernel adds in the same order and gives the same bits.
#[inline(always)]
pub(super) fn widened(word: u32) -> [u32; 2] {
    [word & 0xffff_0000, word << 16]
}
