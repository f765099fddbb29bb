//! Logical elements to device bytes and back: rows, or tiles of four faces with the exponents of
//! block formats first.

use super::round::{By, GROUP, block_element, block_value, shared_exponent};
use super::{FACE, Format, Layout, Spec, TILE, Values};

/// Visits the elements of a tile in device order: position in the tile, and index of the logical
/// element (None in the padding).
fn tile_order(spec: &Spec, tile: usize) -> impl Iterator<Item = Option<usize>> {
    let [_, _, height, width] = spec.dims;
    let (down, across) = (height.div_ceil(TILE), width.div_ceil(TILE));
    let (plane, within) = (tile / (down * across), tile % (down * across));
    let (top, left) = (within / across * TILE, within % across * TILE);
    (0..TILE * TILE).map(move |position| {
        let (face, row, column) =
            (position / (FACE * FACE), position / FACE % FACE, position % FACE);
        let (row, column) = (top + face / 2 * FACE + row, left + face % 2 * FACE + column);
        (row < height && column < width).then_some((plane * height + row) * width + column)
    })
}

/// Bytes of all pages, one after another and without bank alignment. Floats are rounded into the
/// format by `by`; padding is zero.
pub fn to_pages(values: &Values, spec: &Spec, by: By) -> Vec<u8> {
    let (pages, page_bytes) = spec.pages();
    let mut bytes = Vec::with_capacity(pages * page_bytes);
    if spec.layout == Layout::RowMajor {
        match values {
            Values::Float(values) => {
                values.iter().for_each(|value| push_float(&mut bytes, *value, spec.format, by))
            }
            Values::Word(words) => words.iter().for_each(|word| bytes.extend(word.to_le_bytes())),
            Values::Byte(raw) => bytes.extend(raw),
        }
        return bytes;
    }
    for tile in 0..pages {
        match values {
            Values::Float(values) => {
                let elements: Vec<f32> = tile_order(spec, tile)
                    .map(|at| at.and_then(|at| values.get(at)).copied().unwrap_or(0.0))
                    .collect();
                push_float_tile(&mut bytes, &elements, spec.format, by);
            }
            Values::Word(words) => {
                for at in tile_order(spec, tile) {
                    bytes.extend(
                        at.and_then(|at| words.get(at)).copied().unwrap_or(0).to_le_bytes(),
                    );
                }
            }
            Values::Byte(raw) => bytes.extend(
                tile_order(spec, tile)
                    .map(|at| at.and_then(|at| raw.get(at)).copied().unwrap_or(0)),
            ),
        }
    }
    bytes
}

fn push_float(bytes: &mut Vec<u8>, value: f32, format: Format, by: By) {
    if format == Format::Bf16 {
        let rounded = if by == By::Host {
            super::round::bf16_even(value)
        } else {
            super::round::bf16_away(value)
        };
        bytes.extend(((rounded.to_bits() >> 16) as u16).to_le_bytes());
    } else {
        bytes.extend(value.to_le_bytes());
    }
}

/// One tile in device order.
pub fn push_float_tile(bytes: &mut Vec<u8>, elements: &[f32], format: Format, by: By) {
    let bits = match format {
        Format::Bfp8B => 7,
        Format::Bfp4B => 3,
        _ => return elements.iter().for_each(|value| push_float(bytes, *value, format, by)),
    };
    let exponents: Vec<u32> = elements.chunks(GROUP).map(shared_exponent).collect();
    bytes.extend(exponents.iter().map(|exponent| *exponent as u8));
    let mut codes = elements.iter().enumerate().map(|(at, value)| {
        let (negative, magnitude) = block_element(*value, exponents[at / GROUP], bits, by);
        (u8::from(negative) << bits) | magnitude as u8
    });
    if bits == 7 {
        bytes.extend(codes);
    } else {
        // Two elements a byte, the first in the low half.
        while let (Some(low), Some(high)) = (codes.next(), codes.next()) {
            bytes.push(low | (high << 4));
        }
    }
}

/// Elements of one tile in device order. `bytes` has `format.tile_bytes()` bytes.
pub fn float_tile(bytes: &[u8], format: Format) -> Vec<f32> {
    match format {
        Format::Bf16 => bytes
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
            .collect(),
        Format::Bfp8B | Format::Bfp4B => {
            let (exponents, codes) = bytes.split_at(TILE * TILE / GROUP);
            (0..TILE * TILE)
                .map(|at| {
                    let shared = u32::from(exponents[at / GROUP]);
                    if format == Format::Bfp8B {
                        block_value(codes[at] >> 7 == 1, u32::from(codes[at] & 0x7f), shared, 7)
                    } else {
                        let code = codes[at / 2] >> (4 * (at % 2)) & 0xf;
                        block_value(code >> 3 == 1, u32::from(code & 7), shared, 3)
                    }
                })
                .collect()
        }
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// The inverse of [`to_pages`]. `None` when the length is not that of the spec.
pub fn from_pages(bytes: &[u8], spec: &Spec) -> Option<Values> {
    let (pages, page_bytes) = spec.pages();
    if bytes.len() != pages * page_bytes {
        return None;
    }
    if spec.layout == Layout::RowMajor {
        return Some(match spec.format {
            Format::U8 => Values::Byte(bytes.to_vec()),
            Format::U32 | Format::I32 => Values::Word(
                bytes
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            ),
            format => Values::Float(float_tile(bytes, format)),
        });
    }
    let mut values = Values::zeros(spec.format, spec.elements());
    for (tile, page) in bytes.chunks_exact(page_bytes).enumerate() {
        match &mut values {
            Values::Float(out) => place(out, spec, tile, &float_tile(page, spec.format)),
            Values::Word(out) => {
                let words: Vec<u32> = page
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                place(out, spec, tile, &words);
            }
            Values::Byte(out) => place(out, spec, tile, page),
        }
    }
    Some(values)
}

fn place<T: Copy>(out: &mut [T], spec: &Spec, tile: usize, elements: &[T]) {
    for (at, element) in tile_order(spec, tile).zip(elements) {
        if let Some(slot) = at.and_then(|at| out.get_mut(at)) {
            *slot = *element;
        }
    }
}

/// Whether every byte that a logical element needs is marked in `written` (one mark for each byte
/// of the pages).
pub fn written_whole(written: &[u8], spec: &Spec) -> bool {
    let all = |marks: &[u8]| marks.iter().all(|mark| *mark != 0);
    match spec.format.element_bytes() {
        Some(bytes) if spec.layout == Layout::Tile => {
            let (_, page_bytes) = spec.pages();
            written.chunks_exact(page_bytes).enumerate().all(|(tile, marks)| {
                tile_order(spec, tile)
                    .zip(marks.chunks_exact(bytes))
                    .all(|(at, marks)| at.is_none() || all(marks))
            })
        }
        // Rows have no padding; a group of a block format needs its exponent.
        _ => all(written),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(dims: [usize; 4], format: Format) -> Spec {
        Spec::new(dims, format, Layout::Tile).unwrap()
    }

    #[test]
    fn faces_follow_each_other() {
        let spec = spec([1, 1, 32, 64], Format::F32);
        let values = Values::Float((0..32 * 64).map(|i| i as f32).collect());
        let elements: Vec<f32> = to_pages(&values, &spec, By::Host)
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        // Face 1 starts at column 16 of row 0, face 2 at row 16, the second tile at column 32.
        assert_eq!((elements[0], elements[15], elements[16]), (0.0, 15.0, 64.0));
        assert_eq!(
            (elements[256], elements[512], elements[768]),
            (16.0, 16.0 * 64.0, 16.0 * 64.0 + 16.0)
        );
        assert_eq!(elements[1024], 32.0);
    }

    #[test]
    fn block_tiles_carry_exponents_first_and_the_low_nibble_first() {
        let mut values = vec![0.0; 1024];
        (values[0], values[1], values[32]) = (1.0, -0.5, 4.0);
        let bytes = to_pages(
            &Values::Float(values.clone()),
            &spec([1, 1, 32, 32], Format::Bfp8B),
            By::Host,
        );
        assert_eq!(bytes.len(), 1088);
        assert_eq!((bytes[0], bytes[1], bytes[2]), (127, 129, 0)); // rows 0, 1, 2 of face 0
        assert_eq!((bytes[64], bytes[65], bytes[64 + 16]), (64, 0x80 | 32, 64));
        let bytes =
            to_pages(&Values::Float(values), &spec([1, 1, 32, 32], Format::Bfp4B), By::Host);
        assert_eq!(bytes.len(), 576);
        assert_eq!(bytes[64], 4 | (0x8 | 2) << 4);
    }

    #[test]
    fn pages_round_trip_with_ragged_edges() {
        for format in
            [Format::F32, Format::Bf16, Format::Bfp8B, Format::Bfp4B, Format::U32, Format::U8]
        {
            let spec = spec([2, 3, 45, 70], format);
            let values = match format {
                Format::U32 => Values::Word((0..spec.elements() as u32).collect()),
                Format::U8 => Values::Byte((0..spec.elements()).map(|i| i as u8).collect()),
                _ => {
                    let mut values: Vec<f32> =
                        (0..spec.elements()).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
                    super::super::round::round_rows(&mut values, 70, format, By::Host);
                    Values::Float(values)
                }
            };
            let bytes = to_pages(&values, &spec, By::Host);
            assert_eq!(bytes.len(), 6 * 2 * 3 * format.tile_bytes());
            assert_eq!(from_pages(&bytes, &spec).unwrap(), values);
            assert!(from_pages(&bytes[1..], &spec).is_none());
        }
    }
}
