//! Arrays of NumPy on the wire: element type, shape, bytes in C order.

use crate::{WireError, shown};

/// Axes of an array; NumPy itself ends at 64.
pub const MAX_AXES: usize = 8;

/// What the bytes of an element are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A byte, 0 or 1.
    Bool,
    /// An unsigned integer.
    Unsigned,
    /// A signed integer, two's complement.
    Signed,
    /// IEEE 754.
    Float,
}

/// Element type, as NumPy writes it: `|u1`, `<f4`, `>i8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtype {
    /// What the bytes are.
    pub kind: Kind,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub size: usize,
    /// Whether the most significant byte is the first.
    pub big_endian: bool,
}

impl Dtype {
    /// `|u1`: pixels.
    pub const U8: Self = Self { kind: Kind::Unsigned, size: 1, big_endian: false };
    /// `<f4`.
    pub const F32: Self = Self { kind: Kind::Float, size: 4, big_endian: false };
    /// `<f8`: actions.
    pub const F64: Self = Self { kind: Kind::Float, size: 8, big_endian: false };

    /// Reads `|u1`, `<f8` or a name such as `float32`.
    ///
    /// # Errors
    /// When it is no type of numbers.
    pub fn parse(text: &str) -> Result<Self, WireError> {
        let unknown = || {
            WireError::Array(format!(
                "dtype '{}' is no type of numbers; send bool, integers of 1 to 8 bytes or floats \
                of 2 to 8 bytes",
                shown(text)
            ))
        };
        let named = match text {
            "bool" => "|b1",
            "uint8" => "|u1",
            "int8" => "|i1",
            "uint16" => "<u2",
            "int16" => "<i2",
            "uint32" => "<u4",
            "int32" => "<i4",
            "uint64" => "<u8",
            "int64" => "<i8",
            "float16" => "<f2",
            "float32" => "<f4",
            "float64" => "<f8",
            other => other,
        };
        let [order, kind, size] = *named.as_bytes() else { return Err(unknown()) };
        let (kind, sizes): (Kind, &[u8]) = match kind {
            b'b' => (Kind::Bool, b"1"),
            b'u' => (Kind::Unsigned, b"1248"),
            b'i' => (Kind::Signed, b"1248"),
            b'f' => (Kind::Float, b"248"),
            _ => return Err(unknown()),
        };
        let one_byte = size == b'1';
        // `|` is for elements that have no byte order.
        let big_endian = match order {
            b'|' if one_byte => false,
            b'<' => false,
            b'>' => !one_byte,
            _ => return Err(unknown()),
        };
        if !sizes.contains(&size) {
            return Err(unknown());
        }
        Ok(Self { kind, size: usize::from(size - b'0'), big_endian })
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let order = match (self.size, self.big_endian) {
            (1, _) => '|',
            (_, false) => '<',
            (_, true) => '>',
        };
        let kind = match self.kind {
            Kind::Bool => 'b',
            Kind::Unsigned => 'u',
            Kind::Signed => 'i',
            Kind::Float => 'f',
        };
        write!(f, "{order}{kind}{}", self.size)
    }
}

/// An array whose bytes are as many as its shape says.
#[derive(Clone, Debug, PartialEq)]
pub struct NdArray {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl NdArray {
    /// An array of these bytes in C order.
    ///
    /// # Errors
    /// When shape and bytes do not agree.
    pub fn new(dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Result<Self, WireError> {
        if shape.len() > MAX_AXES {
            return Err(WireError::Array(format!(
                "an array of {} axes; {MAX_AXES} are the most",
                shape.len()
            )));
        }
        let needed = shape.iter().try_fold(dtype.size, |bytes, axis| bytes.checked_mul(*axis));
        if needed != Some(data.len()) {
            return Err(WireError::Array(format!(
                "an array of shape {shape:?} and dtype {dtype} has {} bytes; {} came",
                needed.map_or("too many".to_owned(), |needed| needed.to_string()),
                data.len()
            )));
        }
        Ok(Self { dtype, shape, data })
    }

    /// `<f8` of one axis.
    #[must_use]
    pub fn vector(values: &[f64]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F64, shape: vec![values.len()], data }
    }

    /// `<f8` of two axes.
    ///
    /// # Errors
    /// When rows differ in length.
    pub fn matrix(rows: &[Vec<f64>]) -> Result<Self, WireError> {
        let columns = rows.first().map_or(0, Vec::len);
        let data = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        if let Some(other) = rows.iter().find(|row| row.len() != columns) {
            let length = other.len();
            return Err(WireError::Array(format!("rows of {columns} and of {length} numbers")));
        }
        Self::new(Dtype::F64, vec![rows.len(), columns], data)
    }

    /// Element type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Length of each axis; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements' bytes, in C order.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The elements' bytes, in C order.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// `<f4` of these values in place of `<f8`, for clients that expect it.
    ///
    /// # Errors
    /// When shape and values do not agree.
    pub fn single(shape: Vec<usize>, values: &[f32]) -> Result<Self, WireError> {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(Dtype::F32, shape, data)
    }

    /// The elements as numbers, in C order; `None` for halves, which no protocol here sends as
    /// numbers. Integers beyond 2^53 are rounded.
    #[must_use]
    pub fn numbers(&self) -> Option<Vec<f64>> {
        let Dtype { kind, size, big_endian } = self.dtype;
        if (kind, size) == (Kind::Float, 2) {
            return None;
        }
        let number = |element: &[u8]| {
            // The least significant byte last.
            let fold = |word: u64, byte: &u8| word << 8 | u64::from(*byte);
            let word = if big_endian {
                element.iter().fold(0, fold)
            } else {
                element.iter().rev().fold(0, fold)
            };
            let unused = 64 - 8 * size as u32;
            match kind {
                Kind::Bool => f64::from(u8::from(word != 0)),
                Kind::Unsigned => word as f64,
                Kind::Signed => ((word << unused) as i64 >> unused) as f64,
                Kind::Float if size == 4 => f64::from(f32::from_bits(word as u32)),
                Kind::Float => f64::from_bits(word),
            }
        };
        Some(self.data.chunks_exact(size).map(number).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dtypes_as_numpy_writes_them() {
        for text in ["|b1", "|u1", "|i1", "<u2", "<i4", "<i8", "<f2", "<f4", "<f8", ">f4", ">u2"] {
            assert_eq!(Dtype::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Dtype::parse("float32").unwrap(), Dtype::F32);
        assert_eq!(Dtype::parse(">u1").unwrap(), Dtype::U8);
        for text in ["", "|O", "<U3", "<c8", "<f1", "|f4", "<u3", "<f9", "datetime64", "<b2"] {
            let error = Dtype::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("dtype '{text}'")), "{error}");
        }
    }

    #[test]
    fn numbers_of_every_type() {
        let numbers = |dtype: &str, data: &[u8]| {
            let dtype = Dtype::parse(dtype).unwrap();
            let shape = vec![data.len() / dtype.size];
            NdArray::new(dtype, shape, data.to_vec()).unwrap().numbers()
        };
        assert_eq!(numbers("|b1", &[0, 1, 2]), Some(vec![0.0, 1.0, 1.0]));
        assert_eq!(numbers("|i1", &[255, 127]), Some(vec![-1.0, 127.0]));
        assert_eq!(numbers("<i2", &(-300i16).to_le_bytes()), Some(vec![-300.0]));
        assert_eq!(numbers(">i2", &(-300i16).to_be_bytes()), Some(vec![-300.0]));
        assert_eq!(numbers("<u8", &u64::MAX.to_le_bytes()), Some(vec![u64::MAX as f64]));
        assert_eq!(numbers("<i8", &i64::MIN.to_le_bytes()), Some(vec![i64::MIN as f64]));
        assert_eq!(numbers(">f4", &1.5f32.to_be_bytes()), Some(vec![1.5]));
        assert_eq!(numbers("<f8", &(-0.1f64).to_le_bytes()), Some(vec![-0.1]));
        assert_eq!(numbers("<f2", &[0, 0]), None);
    }

    #[test]
    fn shape_and_bytes_agree() {
        let error = |shape: Vec<usize>, bytes: usize| {
            NdArray::new(Dtype::F32, shape, vec![0; bytes]).unwrap_err().to_string()
        };
        assert_eq!(
            error(vec![2, 3], 23),
            "an array of shape [2, 3] and dtype <f4 has 24 bytes; 23 came"
        );
        assert!(error(vec![usize::MAX, 2], 8).contains("too many"));
        assert_eq!(error(vec![1; 9], 4), "an array of 9 axes; 8 are the most");
        assert!(NdArray::new(Dtype::F32, vec![], vec![0; 4]).is_ok());
        assert!(NdArray::new(Dtype::F32, vec![0, 5], vec![]).is_ok());
        assert!(NdArray::matrix(&[vec![1.0], vec![]]).is_err());
    }
}
