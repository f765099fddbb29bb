//! Operations that move data and, at most, change its format.

use crate::error::{Result, ensure, invalid};
use crate::format::round::{By, round_rows};
use crate::format::{Format, Layout, Spec, Values};

/// Block formats share exponents along rows: data that came from other rows is rounded anew.
pub fn rounded(mut values: Values, output: Spec) -> Values {
    if let (Values::Float(floats), true) = (&mut values, output.format.is_block()) {
        round_rows(floats, output.width(), output.format, By::Device);
    }
    values
}

/// Builds new elements from runs `(source, start, length)` of old ones.
pub fn assemble(sources: &[&Values], runs: impl Iterator<Item = (usize, usize, usize)>) -> Values {
    fn copy<T: Copy>(
        sources: &[&[T]],
        runs: impl Iterator<Item = (usize, usize, usize)>,
    ) -> Vec<T> {
        let mut out = Vec::new();
        runs.for_each(|(source, start, length)| {
            out.extend_from_slice(&sources[source][start..start + length])
        });
        out
    }
    match sources.first() {
        Some(Values::Word(_)) => {
            Values::Word(copy(&sources.iter().map(|s| s.words()).collect::<Vec<_>>(), runs))
        }
        Some(Values::Byte(_)) => {
            let bytes =
                |s: &&Values| if let Values::Byte(bytes) = s { bytes.clone() } else { Vec::new() };
            let sources: Vec<Vec<u8>> = sources.iter().map(bytes).collect();
            Values::Byte(copy(&sources.iter().map(Vec::as_slice).collect::<Vec<_>>(), runs))
        }
        _ => Values::Float(copy(&sources.iter().map(|s| s.floats()).collect::<Vec<_>>(), runs)),
    }
}

pub fn check_concat(inputs: &[Spec], dim: usize) -> Result<Vec<Spec>> {
    let first = inputs.first().copied().ok_or_else(|| invalid("concat: no tensors"))?;
    ensure!(dim < 4, "concat: dimension {dim} is not 0..3");
    let mut dims = first.dims;
    for other in &inputs[1..] {
        let fits = (0..4).all(|i| i == dim || other.dims[i] == first.dims[i]);
        ensure!(
            fits && other.format == first.format && other.layout == first.layout,
            "concat: {other} does not continue {first} along dimension {dim}"
        );
        dims[dim] = dims[dim].saturating_add(other.dims[dim]);
    }
    Ok(vec![first.with_dims(dims)?])
}

pub fn concat(specs: &[Spec], inputs: &[&Values], output: Spec, dim: usize) -> Values {
    let outer: usize = output.dims[..dim].iter().product();
    let runs: Vec<usize> = specs.iter().map(|spec| spec.dims[dim..].iter().product()).collect();
    let order = (0..outer)
        .flat_map(|i| runs.iter().enumerate().map(move |(source, run)| (source, i * run, *run)));
    rounded(assemble(inputs, order), output)
}

pub fn check_slice(x: Spec, begin: [usize; 4], end: [usize; 4]) -> Result<Vec<Spec>> {
    for i in 0..4 {
        ensure!(
            begin[i] < end[i] && end[i] <= x.dims[i],
            "slice: {begin:?}..{end:?} is not a part of {x}"
        );
    }
    Ok(vec![x.with_dims(std::array::from_fn(|i| end[i] - begin[i]))?])
}

pub fn slice(x: Spec, values: &Values, output: Spec, begin: [usize; 4]) -> Values {
    let [_, d1, d2, d3] = x.dims;
    let [e0, e1, e2, e3] = output.dims;
    let rows =
        (0..e0).flat_map(move |i| (0..e1).flat_map(move |j| (0..e2).map(move |k| (i, j, k))));
    let runs = rows.map(|(i, j, k)| {
        (0, (((begin[0] + i) * d1 + begin[1] + j) * d2 + begin[2] + k) * d3 + begin[3], e3)
    });
    rounded(assemble(&[values], runs), output)
}

pub fn check_reshape(x: Spec, dims: [usize; 4]) -> Result<Vec<Spec>> {
    let output = x.with_dims(dims)?;
    ensure!(
        output.elements() == x.elements(),
        "reshape: {x} has {} elements, {dims:?} has {}",
        x.elements(),
        output.elements()
    );
    Ok(vec![output])
}

pub fn check_transpose(x: Spec) -> Result<Vec<Spec>> {
    let [a, b, rows, columns] = x.dims;
    ensure!(x.format != Format::U8, "transpose: U8 is not supported");
    Ok(vec![x.with_dims([a, b, columns, rows])?])
}

pub fn transpose(x: Spec, values: &Values) -> Values {
    let [a, b, rows, columns] = x.dims;
    let runs = (0..a * b).flat_map(move |plane| {
        (0..columns)
            .flat_map(move |c| (0..rows).map(move |r| (0, (plane * rows + r) * columns + c, 1)))
    });
    assemble(&[values], runs)
}

pub fn check_convert(x: Spec, format: Format, layout: Layout) -> Result<Vec<Spec>> {
    let same_kind = x.format == format || (x.format.is_float() && format.is_float());
    ensure!(
        same_kind,
        "convert: {:?} to {format:?} is not a conversion between float formats",
        x.format
    );
    Ok(vec![Spec::new(x.dims, format, layout)?])
}

pub fn convert(values: &Values, output: Spec) -> Values {
    let mut values = values.clone();
    if let Values::Float(floats) = &mut values {
        round_rows(floats, output.width(), output.format, By::Device);
    }
    values
}
