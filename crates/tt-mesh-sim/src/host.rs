//! Host arrays: bounds checks, distribution over the chips, rounding as on the host.

use std::sync::Arc;

use half::bf16;

use crate::error::{Result, ensure, invalid};
use crate::format::pack::{from_pages, to_pages};
use crate::format::round::{By, round_rows};
use crate::format::{Format, Layout, Spec, Values};
use crate::op::Shards;
use tt_metal_sys as abi;

/// Distribution of an array over the chips.
#[derive(Debug, Clone, Copy)]
pub enum Distribution {
    /// The whole array on each chip.
    Replicate,
    /// Equal parts along a dimension.
    Shard(usize),
}

impl Distribution {
    /// From the ABI's structure.
    pub fn from_abi(distribution: &abi::Distribution) -> Result<Self> {
        match distribution.kind {
            abi::TTP_REPLICATE => Ok(Self::Replicate),
            abi::TTP_SHARD => {
                ensure!(distribution.dim < 4, "shard dimension {} is not 0..3", distribution.dim);
                Ok(Self::Shard(distribution.dim as usize))
            }
            other => {
                Err(invalid(format!("distribution {other} is neither TTP_REPLICATE nor TTP_SHARD")))
            }
        }
    }

    /// Shape of one chip's part.
    pub fn shard_dims(self, mut dims: [usize; 4], chips: usize) -> Result<[usize; 4]> {
        if let Self::Shard(dim) = self {
            ensure!(
                chips > 0 && dims[dim].is_multiple_of(chips),
                "dimension {dim} of {dims:?} does not split over {chips} chips; pad it"
            );
            dims[dim] /= chips;
        }
        Ok(dims)
    }

    fn parts(self, chips: usize) -> usize {
        if matches!(self, Self::Replicate) { 1 } else { chips }
    }
}

/// An array on the host.
#[derive(Debug, Clone, Copy)]
pub struct HostArray<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Shape of the whole.
    pub dims: [usize; 4],
    /// Format of the elements.
    pub format: Format,
    /// Row-major, or packed into tiles shard by shard.
    pub layout: Layout,
}

impl HostArray<'_> {
    /// Whether it can become `spec`.
    pub fn check(&self, spec: &Spec, distribution: Distribution, chips: usize) -> Result<()> {
        let expected = if self.layout == Layout::Tile {
            ensure!(
                self.format == spec.format && spec.layout == Layout::Tile,
                "a packed array of {:?} cannot become {spec}: pack it for that format",
                self.format
            );
            let (pages, page_bytes) = spec.pages();
            (pages * page_bytes * distribution.parts(chips)) as u64
        } else {
            let kinds = self.format == spec.format
                || (matches!(self.format, Format::F32 | Format::Bf16) && spec.format.is_float());
            ensure!(kinds, "a host array of {:?} cannot become {spec}", self.format);
            let element = self.format.element_bytes().ok_or_else(|| {
                invalid(format!("a row-major host array cannot hold {:?}", self.format))
            })?;
            // `Spec::new` has bounded the product of a shard; the whole is at most `chips` times
            // that.
            Spec::new(self.dims, self.format, Layout::RowMajor)?.elements() as u64 * element as u64
        };
        ensure!(
            self.bytes.len() as u64 == expected,
            "a host array of {:?} {:?} has {expected} bytes, not {}",
            self.dims,
            self.format,
            self.bytes.len()
        );
        Ok(())
    }

    fn values(&self) -> Values {
        match self.format {
            Format::U8 => Values::Byte(self.bytes.to_vec()),
            Format::U32 | Format::I32 => Values::Word(
                self.bytes
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            ),
            Format::Bf16 => Values::Float(
                self.bytes
                    .chunks_exact(2)
                    .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
            ),
            _ => Values::Float(
                self.bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            ),
        }
    }
}

/// Each chip's elements. `array.check` has passed.
pub fn shards(
    array: &HostArray<'_>,
    distribution: Distribution,
    spec: &Spec,
    chips: usize,
) -> Result<Shards> {
    let parts = distribution.parts(chips);
    let mut shards: Shards = Vec::with_capacity(chips);
    if array.layout == Layout::Tile {
        let bytes = array.bytes.len() / parts;
        for part in array.bytes.chunks_exact(bytes) {
            shards.push(Arc::new(
                from_pages(part, spec)
                    .ok_or_else(|| invalid("a packed array of the wrong length"))?,
            ));
        }
    } else {
        let values = array.values();
        if let Values::Float(floats) = &values {
            ensure!(
                !spec.format.is_block() || floats.iter().all(|value| value.is_finite()),
                "an array with NaN or infinity cannot become {spec}: block formats have neither"
            );
        }
        let whole = Spec::new(array.dims, array.format, Layout::RowMajor)?;
        for part in 0..parts {
            let mut values = match distribution {
                Distribution::Replicate => values.clone(),
                Distribution::Shard(dim) => {
                    let mut begin = [0; 4];
                    begin[dim] = part * spec.dims[dim];
                    crate::op::part(whole, &values, *spec, begin)
                }
            };
            if let Values::Float(floats) = &mut values {
                round_rows(floats, spec.width(), spec.format, By::Host);
            }
            shards.push(Arc::new(values));
        }
    }
    if let (Some(first), 1) = (shards.first().cloned(), parts) {
        shards.resize(chips, first);
    }
    Ok(shards)
}

/// Whether `bytes` bytes are the elements of `spec` in `format`, row-major.
pub fn check_read(spec: &Spec, format: Format, bytes: usize) -> Result<()> {
    let element = format
        .element_bytes()
        .ok_or_else(|| invalid(format!("a read gives row-major elements; {format:?} has none")))?;
    let kinds = spec.format == format || (spec.format.is_float() && format.is_float());
    ensure!(kinds, "{spec} cannot be read as {format:?}");
    let needed = spec.elements() * element;
    ensure!(bytes == needed, "reading {spec} as {format:?} takes {needed} bytes, not {bytes}");
    Ok(())
}

/// Elements as row-major bytes of `format`.
pub fn read(spec: &Spec, values: &Values, format: Format, out: &mut [u8]) -> Result<()> {
    check_read(spec, format, out.len())?;
    match values {
        Values::Float(floats) if format == Format::Bf16 => {
            out.chunks_exact_mut(2).zip(floats).for_each(|(out, value)| {
                out.copy_from_slice(&bf16::from_f32(*value).to_le_bytes())
            });
        }
        Values::Float(floats) => out
            .chunks_exact_mut(4)
            .zip(floats)
            .for_each(|(out, value)| out.copy_from_slice(&value.to_le_bytes())),
        Values::Word(words) => out
            .chunks_exact_mut(4)
            .zip(words)
            .for_each(|(out, word)| out.copy_from_slice(&word.to_le_bytes())),
        Values::Byte(bytes) => out.copy_from_slice(bytes),
    }
    Ok(())
}

/// Tiles of a row-major array, shard after shard.
pub fn pack(
    array: &HostArray<'_>,
    distribution: Distribution,
    chips: usize,
    format: Format,
) -> Result<Vec<u8>> {
    let spec = packed_spec(array, distribution, chips, format)?;
    let shards = shards(array, distribution, &spec, chips)?;
    Ok(shards
        .iter()
        .take(distribution.parts(chips))
        .flat_map(|shard| to_pages(shard, &spec, By::Host))
        .collect())
}

/// Length of the result of [`pack`].
pub fn packed_bytes(
    array: &HostArray<'_>,
    distribution: Distribution,
    chips: usize,
    format: Format,
) -> Result<u64> {
    let (pages, page_bytes) = packed_spec(array, distribution, chips, format)?.pages();
    Ok((pages * page_bytes * distribution.parts(chips)) as u64)
}

fn packed_spec(
    array: &HostArray<'_>,
    distribution: Distribution,
    chips: usize,
    format: Format,
) -> Result<Spec> {
    ensure!(array.layout == Layout::RowMajor, "only a row-major array can be packed");
    ensure!((1..=32).contains(&chips), "{chips} chips: there are 1, 2 or 8");
    Spec::new(distribution.shard_dims(array.dims, chips)?, format, Layout::Tile)
}
