//! The custom kernels (`kernels/`) as operations: cores, circular buffers and arguments.

mod token;

pub use token::{
    CANDIDATES, PickAction, PickCandidate, ScanLogits, pick_action, pick_action_program,
    pick_candidate, pick_candidate_program, scan_cores, scan_logits, scan_logits_program,
};

use crate::{
    CircularBuffer, Compute, CoreRange, Error, Format, Kernel, Layout, Mesh, Program, Result, Role,
    Tensor,
};

/// File name under `kernels/` and source of every kernel.
const FILES: [(&str, &str); 7] = [
    ("dataflow/image_patches.cpp", include_str!("../../../kernels/dataflow/image_patches.cpp")),
    ("dataflow/write_tiles.cpp", include_str!("../../../kernels/dataflow/write_tiles.cpp")),
    ("dataflow/read_columns.cpp", include_str!("../../../kernels/dataflow/read_columns.cpp")),
    ("compute/column_matmul.cpp", include_str!("../../../kernels/compute/column_matmul.cpp")),
    ("dataflow/pick_action.cpp", include_str!("../../../kernels/dataflow/pick_action.cpp")),
    ("dataflow/scan_logits.cpp", include_str!("../../../kernels/dataflow/scan_logits.cpp")),
    ("dataflow/pick_candidate.cpp", include_str!("../../../kernels/dataflow/pick_candidate.cpp")),
];

/// Line that includes a header, and the header.
const HEADERS: [(&str, &str); 2] = [
    ("#include \"../include/l1.hpp\"\n", include_str!("../../../kernels/include/l1.hpp")),
    ("#include \"../include/token.hpp\"\n", include_str!("../../../kernels/include/token.hpp")),
];

/// File name and source of every kernel, with the headers of `include/` inlined: TT-NN compiles the
/// source outside this repository's folders.
pub fn sources() -> Vec<(&'static str, String)> {
    let inlined = |text: &str| {
        HEADERS.iter().fold(text.to_owned(), |text, (line, header)| {
            text.replace(line, &header.replace("#pragma once\n", ""))
        })
    };
    FILES.iter().map(|(name, text)| (*name, inlined(text))).collect()
}

fn source(name: &str) -> Result<String> {
    sources()
        .into_iter()
        .find_map(|(known, text)| (known == name).then_some(text))
        .ok_or_else(|| Error::Host(format!("there is no kernel {name}")))
}

/// A kernel on a rectangle of cores that starts at the first core; `runtime_args` row by row.
fn kernel(
    name: &str,
    role: Role,
    size: (u32, u32),
    compile_args: Vec<u32>,
    accessors: Vec<u32>,
    runtime_args: Vec<Vec<u32>>,
) -> Result<Kernel> {
    Ok(Kernel {
        name: name.into(),
        source: source(name)?,
        role,
        cores: rectangle(size),
        compile_args,
        accessors,
        runtime_args,
        compute: Compute::default(),
    })
}

fn rectangle((columns, rows): (u32, u32)) -> CoreRange {
    CoreRange { first: (0, 0), last: (columns.saturating_sub(1), rows.saturating_sub(1)) }
}

fn require(condition: bool, text: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::Host(text())) }
}

/// The patch matrix of both vision towers from camera bytes, on every chip.
///
/// `image`: U8 `[1, 1, side, 3 * side]` row-major, RGB interleaved. `out`: BF16 tiles `[1, 1, (side
/// / patch)^2, 3 * patch^2]`, columns in the order (channel, y, x), values byte - 128.
pub fn image_patches(mesh: &Mesh, image: &Tensor, out: &Tensor, patch: usize) -> Result<()> {
    mesh.run_program(&[image, out], &image_patches_program(mesh, image, out, patch)?)
}

/// The program of [`image_patches`].
pub fn image_patches_program(
    mesh: &Mesh,
    image: &Tensor,
    out: &Tensor,
    patch: usize,
) -> Result<Program> {
    image_patches_on(mesh, mesh.info().grid, image, out, patch)
}

/// [`image_patches_program`] on the first cores of a chip: `grid` columns and rows.
pub fn image_patches_on(
    mesh: &Mesh,
    grid: (u32, u32),
    image: &Tensor,
    out: &Tensor,
    patch: usize,
) -> Result<Program> {
    let [a, b, side, row_bytes] = image.dims();
    require(
        [a, b] == [1, 1]
            && row_bytes == 3 * side
            && image.format() == Format::U8
            && image.spec().layout == Layout::RowMajor,
        || {
            format!(
                "image_patches: the image must be U8 [1, 1, side, 3 side] row-major, not {image:?}"
            )
        },
    )?;
    require(patch > 0 && side % patch == 0, || {
        format!("image_patches: patches of {patch} do not tile {side} pixels")
    })?;
    let across = side / patch;
    let (patches, depth) = (across * across, 3 * patch * patch);
    require(
        out.dims() == [1, 1, patches, depth]
            && out.format() == Format::Bf16
            && out.spec().layout == Layout::Tile,
        || {
            format!(
                "image_patches: the output must be BF16 [1, 1, {patches}, {depth}] in tiles, not \
                {out:?}"
            )
        },
    )?;
    // Rows of tiles go round the rows of cores, where these are fewer; the columns of tiles are
    // shared out along a row.
    let (grid_columns, grid_rows) = grid;
    require(grid_columns > 0 && grid_rows > 0, || "image_patches: a chip without cores".into())?;
    let (tile_rows, tile_columns) = (patches.div_ceil(32) as u32, depth.div_ceil(32) as u32);
    let share = tile_columns.div_ceil(grid_columns);
    let size = (tile_columns.div_ceil(share), tile_rows.min(grid_rows));
    // Each row of the image is a page, which a kernel can read to an address of the same remainder.
    let stride = row_bytes.next_multiple_of(mesh.info().dram_alignment.max(1) as usize) as u32;
    let bands = |tile_row: usize| {
        (32 * tile_row + 31).min(patches - 1) / across + 1 - 32 * tile_row / across
    };
    let band_rows = (0..tile_rows as usize).map(bands).max().unwrap_or(1) * patch;
    let (image_address, out_address) = (image.address()?, out.address()?);
    let mut reader_args = Vec::new();
    let mut writer_args = Vec::new();
    for row in 0..size.1 {
        for column in 0..size.0 {
            let first = column * share;
            let count = share.min(tile_columns - first);
            let turns = (tile_rows - row).div_ceil(size.1);
            reader_args.push(vec![image_address, row, turns, size.1, first, count]);
            let (page, step) = (row * tile_columns + first, size.1 * tile_columns);
            writer_args.push(vec![out_address, page, count, turns, step]);
        }
    }
    let cores = rectangle(size);
    Ok(Program {
        kernels: vec![
            kernel(
                "dataflow/image_patches.cpp",
                Role::Reader,
                size,
                vec![side as u32, patch as u32, stride],
                vec![0],
                reader_args,
            )?,
            kernel(
                "dataflow/write_tiles.cpp",
                Role::Writer,
                size,
                vec![2048],
                vec![1],
                writer_args,
            )?,
        ],
        buffers: vec![
            CircularBuffer {
                index: 0,
                format: Format::U8,
                page_bytes: stride,
                pages: band_rows as u32,
                cores,
            },
            CircularBuffer { index: 16, format: Format::Bf16, page_bytes: 2048, pages: 2, cores },
        ],
        semaphores: Vec::new(),
    })
}

/// `out = x w` for one row of tiles, one core for each column of tiles, the sum kept in float32:
/// the action head.
///
/// `x`: `[1, 1, <= 32, K]`, `w`: `[1, 1, K, N]`, `out`: F32 `[1, 1, rows of x, N]`, all in tiles; K
/// and N multiples of 32.
pub fn narrow_matmul(
    mesh: &Mesh,
    x: &Tensor,
    w: &Tensor,
    out: &Tensor,
    compute: Compute,
) -> Result<()> {
    mesh.run_program(&[x, w, out], &narrow_matmul_program(mesh, x, w, out, compute)?)
}

/// The program of [`narrow_matmul`].
pub fn narrow_matmul_program(
    mesh: &Mesh,
    x: &Tensor,
    w: &Tensor,
    out: &Tensor,
    compute: Compute,
) -> Result<Program> {
    let ([a, b, rows, depth], [c, d, w_rows, columns]) = (x.dims(), w.dims());
    let tiled = [x, w, out].iter().all(|tensor| tensor.spec().layout == Layout::Tile);
    require(
        tiled
            && [a, b, c, d] == [1; 4]
            && rows <= 32
            && depth == w_rows
            && depth % 32 == 0
            && columns % 32 == 0,
        || format!("narrow_matmul: {x:?} by {w:?} is not one row of tiles by whole tiles"),
    )?;
    require(out.dims() == [1, 1, rows, columns] && out.format() == Format::F32, || {
        format!("narrow_matmul: the output must be F32 [1, 1, {rows}, {columns}], not {out:?}")
    })?;
    let (grid_columns, grid_rows) = mesh.info().grid;
    let (depth, columns) = ((depth / 32) as u32, (columns / 32) as u32);
    let across = (1..=grid_columns.min(columns)).rev().find(|n| columns % n == 0).unwrap_or(1);
    let size = (across, columns / across);
    require(size.1 <= grid_rows, || {
        format!("narrow_matmul: {columns} columns of tiles do not fit the chip's cores")
    })?;
    let block = [8, 4, 2, 1].into_iter().find(|block| depth % block == 0).unwrap_or(1);
    let (x_bytes, w_bytes) = (x.format().tile_bytes() as u32, w.format().tile_bytes() as u32);
    let (x_address, w_address, out_address) = (x.address()?, w.address()?, out.address()?);
    let per_core = |args: &dyn Fn(u32) -> Vec<u32>| (0..columns).map(args).collect::<Vec<_>>();
    let cores = rectangle(size);
    let nothing = per_core(&|_| Vec::new());
    let mut matmul = kernel(
        "compute/column_matmul.cpp",
        Role::Compute,
        size,
        vec![depth, block],
        Vec::new(),
        nothing,
    )?;
    matmul.compute = compute;
    let reader = vec![depth, columns, block, x_bytes, w_bytes];
    Ok(Program {
        kernels: vec![
            kernel(
                "dataflow/read_columns.cpp",
                Role::Reader,
                size,
                reader,
                vec![0, 1],
                per_core(&|n| vec![x_address, w_address, n]),
            )?,
            matmul,
            kernel(
                "dataflow/write_tiles.cpp",
                Role::Writer,
                size,
                vec![4096],
                vec![2],
                per_core(&|n| vec![out_address, n, 1, 1, 0]),
            )?,
        ],
        buffers: vec![
            // Two blocks each: one is filled while the other is used.
            CircularBuffer {
                index: 0,
                format: x.format(),
                page_bytes: x_bytes,
                pages: 2 * block,
                cores,
            },
            CircularBuffer {
                index: 1,
                format: w.format(),
                page_bytes: w_bytes,
                pages: 2 * block,
                cores,
            },
            CircularBuffer { index: 16, format: Format::F32, page_bytes: 4096, pages: 1, cores },
        ],
        semaphores: Vec::new(),
    })
}
