//! A check of PNG files that the decoder does not make.

const SIGNATURE: usize = 8;
const CHUNK_HEADER: usize = 8;
const CHUNK_CRC: usize = 4;
/// Colour type of pixels that are indices into a palette (PNG specification, table 11.1).
const INDEXED: u8 = 3;
/// 256 entries of three bytes.
const LARGEST_PALETTE: usize = 768;

/// Why the palette of an indexed picture cannot be used. The `png` crate 0.18 panics with such a
/// palette; libpng refuses it as well.
pub(super) fn palette_problem(bytes: &[u8]) -> Option<String> {
    let (kind, header) = chunk(bytes, SIGNATURE)?;
    // Width, height, bit depth, colour type, ...
    if kind != b"IHDR" || *header.get(9)? != INDEXED {
        return None;
    }
    let mut at = SIGNATURE;
    while let Some((kind, data)) = chunk(bytes, at) {
        match kind {
            b"IDAT" => return None,
            b"PLTE" if data.len() > LARGEST_PALETTE || !data.len().is_multiple_of(3) => {
                let size = data.len();
                return Some(format!(
                    "its palette has {size} bytes; 3 an entry and at most {LARGEST_PALETTE} are \
                    possible"
                ));
            }
            _ => at += CHUNK_HEADER + data.len() + CHUNK_CRC,
        }
    }
    None
}

/// Type and data of the chunk that starts at `at`; none where the file ends in it.
fn chunk(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_at_checked(4)?;
    let data = rest.get(..u32::from_be_bytes(*length) as usize)?;
    Some((kind, data))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::observation::file::decode;

    /// An indexed picture of 2x2 pixels with two bits a pixel and a palette of so many bytes.
    fn indexed(palette: usize) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 2, 2);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Two);
        encoder.set_palette((0..palette).map(|i| i as u8).collect::<Vec<_>>());
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0b0001_0000, 0b1011_0000]).unwrap();
        writer.finish().unwrap();
        file
    }

    #[test]
    fn whole_palettes_decode() {
        for palette in [3, 6, 12, 768] {
            let image = decode(&indexed(palette)).unwrap();
            assert_eq!(image.pixels()[..3], [0, 1, 2]);
        }
    }

    #[test]
    fn broken_palettes_are_refused() {
        for palette in [1, 2, 4, 304, 767, 769, 771, 3000] {
            let error = decode(&indexed(palette)).unwrap_err().to_string();
            assert!(error.contains(&format!("its palette has {palette} bytes")), "{error}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let whole = indexed(12);
        for length in 0..whole.len() - 12 {
            assert!(decode(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
    }
}
