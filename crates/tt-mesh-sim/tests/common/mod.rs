//! Seeded data, meshes, and distances, shared by the tests.
#![allow(dead_code)] // each test file uses its part

use tt_metal::{
    Board, Distribution, Format, HostArray, Layout, Mesh, MeshOptions, Provider, Tensor,
};

pub const BOARDS: &[Board] = Board::ALL;
pub const FLOATS: [Format; 4] = [Format::F32, Format::Bf16, Format::Bfp8B, Format::Bfp4B];

pub fn provider() -> Provider {
    Provider::linked(tt_mesh_sim::api())
}

pub fn mesh(board: Board) -> Mesh {
    Mesh::open(
        &provider(),
        board,
        MeshOptions { trace_region_bytes: 1 << 20, ..MeshOptions::default() },
    )
    .unwrap()
}

/// Normally distributed numbers, the same for the same seed (splitmix64 and Box-Muller).
pub fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count)
        .map(|_| {
            ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos())
                as f32
        })
        .collect()
}

pub fn upload(mesh: &Mesh, data: &[f32], dims: [usize; 4], format: Format) -> Tensor {
    mesh.upload(HostArray::f32(data, dims), Distribution::Replicate, format, Layout::Tile).unwrap()
}

pub fn random(mesh: &Mesh, dims: [usize; 4], format: Format, seed: u64) -> Tensor {
    upload(mesh, &gaussian(dims.iter().product(), seed), dims, format)
}

/// What a tensor holds after its format's rounding, in double precision: references start from
/// here.
pub fn held(tensor: &Tensor) -> Vec<f64> {
    tensor.read_f32(0).unwrap().into_iter().map(f64::from).collect()
}

/// Root mean square of the difference over that of the reference.
pub fn distance(values: &[f32], reference: &[f64]) -> f64 {
    assert_eq!(values.len(), reference.len());
    let error: f64 = values.iter().zip(reference).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let scale: f64 = reference.iter().map(|b| b * b).sum();
    (error / scale).sqrt()
}

/// How far one rounding into a format takes a gaussian tensor, with a margin.
pub fn tolerance(format: Format) -> f64 {
    match format {
        Format::F32 => 2e-6,
        Format::Bf16 => 2.5e-3,
        Format::Bfp8B => 1e-2,
        _ => 0.30, // the packer's BFP4 truncates
    }
}

/// Every chip's copy is asserted equal to the first, which is returned.
pub fn same_everywhere(tensor: &Tensor) -> Vec<f32> {
    let first = tensor.read_f32(0).unwrap();
    for chip in 1..tensor.mesh().chips() {
        assert_eq!(tensor.read_f32(chip).unwrap(), first, "chip {chip}");
    }
    first
}
