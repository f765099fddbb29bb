//! Operations of OpenVLA-OFT's pass, as `models/oft` and `backend/tt` launch them under capture.
//! `tests/mesh_oft.rs` compares them with those that the backend counts.

use std::collections::BTreeSet;

use super::{HEAD_BLOCKS, OnePass, TILE_SIDE};
use crate::backend::precision::PrecisionPolicy;
use crate::checkpoint::OpenVlaConfig;

/// Operations of the vision stage (towers, projector) and of everything after it.
pub(super) fn one_pass(
    config: &OpenVlaConfig,
    chips: usize,
    policy: &PrecisionPolicy,
    (images, pass): (usize, OnePass),
) -> [usize; 2] {
    // An all-reduce, and a conversion where the partial sums have another format.
    let reduction = 1 + usize::from(policy.collectives != policy.stream);
    let split_vision = usize::from(policy.split_vision && chips > 1);
    let grids: BTreeSet<_> =
        config.towers.iter().map(|tower| (tower.img_size, tower.patch_size)).collect();
    let towers = config.towers.iter().map(|tower| {
        // Patch and position embedding; prefix tokens are appended and cut off.
        let prefix = if tower.prefix_tokens == 0 { 0 } else { 2 };
        2 + prefix + tower.used_blocks() * (11 + 2 * split_vision * reduction)
    });
    let joined = usize::from(config.towers.len() > 1);
    let image = grids.len() + towers.sum::<usize>() + joined;
    // A sharded projector reduces once, applies the activation after it, and gathers its output;
    // a width that does not fill the tiles of its shards is cut.
    let outputs = config.projector.layers.last().copied().unwrap_or(0);
    let shards = if split_vision == 1 { chips } else { 1 };
    let padded = shards * outputs.div_ceil(shards).next_multiple_of(TILE_SIDE) > outputs;
    let projector =
        config.projector.layers.len() + usize::from(padded) + split_vision * (reduction + 2);
    let vision = images * image + usize::from(images > 1) + projector;

    let state = if pass.state_dim > 0 { 2 } else { 0 };
    // Embedding, its three parts, the sequence.
    let sequence = 1 + 3 + state + 1;
    let layers = config.llama.num_hidden_layers;
    let llama = layers * (17 + if chips > 1 { 2 * reduction } else { 0 });
    // The last layer's rows are cut out twice; the last norm.
    let head = 2 + 1 + 5 + 3 * HEAD_BLOCKS;
    [vision, sequence + llama + head]
}
