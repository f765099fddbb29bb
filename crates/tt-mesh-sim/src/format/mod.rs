//! Number formats and memory layouts of Wormhole.

pub mod pack;
pub mod round;

use tt_metal_sys as abi;

use crate::error::{Result, invalid};

/// Rows and columns of a tile.
pub const TILE: usize = 32;
/// Rows and columns of one of the four faces of a tile.
pub const FACE: usize = 16;
/// More elements than any chip can hold; a bound before anything is multiplied or allocated.
const MAX_ELEMENTS: u128 = 1 << 37;

/// A number format of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[allow(missing_docs)] // the names of the ABI
pub enum Format {
    F32,
    Bf16,
    Bfp8B,
    Bfp4B,
    U32,
    I32,
    U8,
}

impl Format {
    /// From the ABI's number.
    pub fn from_abi(value: u32) -> Result<Self> {
        Ok(match value {
            abi::TTP_FORMAT_F32 => Self::F32,
            abi::TTP_FORMAT_BF16 => Self::Bf16,
            abi::TTP_FORMAT_BFP8_B => Self::Bfp8B,
            abi::TTP_FORMAT_BFP4_B => Self::Bfp4B,
            abi::TTP_FORMAT_U32 => Self::U32,
            abi::TTP_FORMAT_I32 => Self::I32,
            abi::TTP_FORMAT_U8 => Self::U8,
            other => return Err(invalid(format!("format {other} is none of TTP_FORMAT_*"))),
        })
    }

    /// To the ABI's number.
    pub fn to_abi(self) -> u32 {
        match self {
            Self::F32 => abi::TTP_FORMAT_F32,
            Self::Bf16 => abi::TTP_FORMAT_BF16,
            Self::Bfp8B => abi::TTP_FORMAT_BFP8_B,
            Self::Bfp4B => abi::TTP_FORMAT_BFP4_B,
            Self::U32 => abi::TTP_FORMAT_U32,
            Self::I32 => abi::TTP_FORMAT_I32,
            Self::U8 => abi::TTP_FORMAT_U8,
        }
    }

    /// Whether values are real numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::Bf16 | Self::Bfp8B | Self::Bfp4B)
    }

    /// Whether 16 neighbours share an exponent: such formats exist only in tiles.
    pub fn is_block(self) -> bool {
        matches!(self, Self::Bfp8B | Self::Bfp4B)
    }

    /// Bytes of one element in row-major order; `None` for block formats.
    pub fn element_bytes(self) -> Option<usize> {
        match self {
            Self::F32 | Self::U32 | Self::I32 => Some(4),
            Self::Bf16 => Some(2),
            Self::U8 => Some(1),
            Self::Bfp8B | Self::Bfp4B => None,
        }
    }

    /// Bytes of one 32x32 tile.
    pub fn tile_bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 | Self::I32 => 4096,
            Self::Bf16 => 2048,
            Self::Bfp8B => 1088,
            Self::Bfp4B => 576,
            Self::U8 => 1024,
        }
    }
}

/// Order of the elements in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[allow(missing_docs)] // the names of the ABI
pub enum Layout {
    RowMajor,
    Tile,
}

impl Layout {
    /// From the ABI's number.
    pub fn from_abi(value: u32) -> Result<Self> {
        match value {
            abi::TTP_LAYOUT_ROW_MAJOR => Ok(Self::RowMajor),
            abi::TTP_LAYOUT_TILE => Ok(Self::Tile),
            other => Err(invalid(format!("layout {other} is none of TTP_LAYOUT_*"))),
        }
    }

    /// To the ABI's number.
    pub fn to_abi(self) -> u32 {
        match self {
            Self::RowMajor => abi::TTP_LAYOUT_ROW_MAJOR,
            Self::Tile => abi::TTP_LAYOUT_TILE,
        }
    }
}

/// A tensor on one chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Spec {
    /// Shape.
    pub dims: [usize; 4],
    /// Number format.
    pub format: Format,
    /// Order in memory.
    pub layout: Layout,
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.dims, self.format, self.layout)
    }
}

impl Spec {
    /// A spec that memory can hold: no empty dimension, no block format outside tiles.
    pub fn new(dims: [usize; 4], format: Format, layout: Layout) -> Result<Self> {
        let elements = dims.iter().fold(1u128, |product, dim| product.saturating_mul(*dim as u128));
        if elements == 0 || elements > MAX_ELEMENTS {
            return Err(invalid(format!("shape {dims:?} is empty or larger than any chip")));
        }
        if format.is_block() && layout == Layout::RowMajor {
            return Err(invalid(format!(
                "{format:?} exists only in tiles; use TTP_LAYOUT_TILE or BF16"
            )));
        }
        Ok(Self { dims, format, layout })
    }

    /// The same tensor with another shape.
    pub fn with_dims(self, dims: [usize; 4]) -> Result<Self> {
        Self::new(dims, self.format, self.layout)
    }

    /// Number of elements, padding not counted.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Rows of the last dimension.
    pub fn rows(&self) -> usize {
        self.dims[..3].iter().product()
    }

    /// Elements of the last dimension.
    pub fn width(&self) -> usize {
        self.dims[3]
    }

    /// Pages and bytes of one page: a tile, or a row.
    pub fn pages(&self) -> (usize, usize) {
        match (self.layout, self.format.element_bytes()) {
            (Layout::RowMajor, Some(bytes)) => (self.rows(), self.dims[3] * bytes),
            // Block formats are refused in rows by `new`.
            (Layout::Tile, _) | (Layout::RowMajor, None) => {
                let planes = self.dims[0] * self.dims[1];
                (
                    planes * self.dims[2].div_ceil(TILE) * self.dims[3].div_ceil(TILE),
                    self.format.tile_bytes(),
                )
            }
        }
    }
}

/// Elements of a tensor on one chip, in logical order. Floats hold exactly what the format can.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Every float format.
    Float(Vec<f32>),
    /// U32, and I32 by its bits.
    Word(Vec<u32>),
    /// U8.
    Byte(Vec<u8>),
}

impl Values {
    /// Zeros of a format.
    pub fn zeros(format: Format, elements: usize) -> Self {
        match format {
            Format::U32 | Format::I32 => Self::Word(vec![0; elements]),
            Format::U8 => Self::Byte(vec![0; elements]),
            _ => Self::Float(vec![0.0; elements]),
        }
    }

    /// The floats; empty for other kinds, which `check` of each operation has excluded.
    pub fn floats(&self) -> &[f32] {
        if let Self::Float(values) = self { values } else { &[] }
    }

    /// The words; empty for other kinds.
    pub fn words(&self) -> &[u32] {
        if let Self::Word(values) = self { values } else { &[] }
    }
}
