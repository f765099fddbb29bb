//! From ids to rows and from rows to ids.

use crate::error::{Result, ensure, invalid};
use crate::format::{Format, Layout, Spec, TILE, Values};

pub fn check(inputs: &[Spec], layout: Layout) -> Result<Vec<Spec>> {
    let (ids, table) = (&inputs[0], &inputs[1]);
    let [a, b, c, count] = ids.dims;
    ensure!(
        [a, b, c] == [1, 1, 1] && ids.format == Format::U32 && ids.layout == Layout::RowMajor,
        "embedding: ids must be U32 [1, 1, 1, N] row-major, not {ids}"
    );
    ensure!(
        table.dims[0] == 1
            && table.dims[1] == 1
            && table.format == Format::Bf16
            && table.layout == Layout::RowMajor,
        "embedding: table must be BF16 [1, 1, V, D] row-major, not {table}"
    );
    ensure!(
        layout == Layout::RowMajor || count == 1 || count.is_multiple_of(TILE),
        "embedding: {count} ids cannot become tiles; pad the ids to a multiple of {TILE} or ask \
        for row-major"
    );
    Ok(vec![Spec::new([1, 1, count, table.dims[3]], Format::Bf16, layout)?])
}

pub fn run(specs: &[Spec], inputs: &[&Values]) -> Result<Values> {
    let (rows, width) = (specs[1].dims[2], specs[1].width());
    let table = inputs[1].floats();
    let mut out = Vec::with_capacity(inputs[0].words().len() * width);
    for id in inputs[0].words() {
        let at = *id as usize;
        ensure!(
            at < rows,
            "embedding: id {id} is outside the table of {rows} rows: on silicon this reads \
            foreign memory"
        );
        out.extend_from_slice(&table[at * width..][..width]);
    }
    Ok(Values::Float(out))
}

pub fn check_argmax(x: Spec, begin: usize, end: usize) -> Result<Vec<Spec>> {
    let [a, b, rows, width] = x.dims;
    ensure!(
        a == 1 && b == 1 && matches!(x.format, Format::Bf16 | Format::F32),
        "argmax: x must be BF16 or F32 [1, 1, R, W], not {x}"
    );
    ensure!(
        begin < end && end <= width,
        "argmax: columns {begin}..{end} are not a part of {width}"
    );
    Ok(vec![Spec::new([1, 1, 1, rows], Format::U32, Layout::RowMajor)?])
}

pub fn argmax(spec: Spec, x: &[f32], begin: usize, end: usize) -> Result<Values> {
    let mut out = Vec::with_capacity(spec.rows());
    for (row, line) in x.chunks_exact(spec.width()).enumerate() {
        let mut best = begin;
        for column in begin..end {
            if line[column].is_nan() {
                return Err(invalid(format!(
                    "argmax: NaN in row {row}, column {column}: the device would give an \
                    arbitrary index"
                )));
            }
            // Strictly greater: the lowest index wins ties.
            if line[column] > line[best] {
                best = column;
            }
        }
        out.push(best as u32);
    }
    Ok(Values::Word(out))
}
