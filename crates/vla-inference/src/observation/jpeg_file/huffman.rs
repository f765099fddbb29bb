//! Huffman tables of a JPEG.

use super::bits::{Bits, Ended};

/// Bits that are looked up at once; longer codes are searched by length.
const LOOKED_UP: u32 = 9;

/// A table for decoding.
pub(super) struct Huffman {
    /// By the next [`LOOKED_UP`] bits: length of the code and symbol; length 0 for a longer one.
    short: Box<[(u8, u8); 1 << LOOKED_UP]>,
    /// By length: first code, first symbol, number of codes.
    by_length: [(u32, usize, u32); 17],
    symbols: Vec<u8>,
}

/// Why no symbol was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// The bits ended.
    Ended,
    /// Bits that are no code of the table.
    NoCode,
}

impl From<Ended> for Unread {
    fn from(Ended: Ended) -> Self {
        Self::Ended
    }
}

impl Huffman {
    /// Reads the counts and symbols of a table; also the number of bytes that they take.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (counts, rest) = bytes.split_first_chunk::<16>()?;
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let symbols = rest.get(..total.min(257))?.to_vec();
        if symbols.len() > 256 {
            return None;
        }
        let mut by_length = [(0, 0, 0); 17];
        let mut short = Box::new([(0, 0); 1 << LOOKED_UP]);
        let (mut code, mut first) = (0_u32, 0);
        for (length, count) in (1..=16_u32).zip(counts.map(u32::from)) {
            if code + count > 1 << length {
                return None;
            }
            by_length[length as usize] = (code, first, count);
            for i in 0..count {
                let symbol = symbols[first + i as usize];
                if length <= LOOKED_UP {
                    let shift = LOOKED_UP - length;
                    let from = ((code + i) << shift) as usize;
                    short[from..from + (1 << shift)].fill((length as u8, symbol));
                }
            }
            first += count as usize;
            code = (code + count) << 1;
        }
        Some((Self { short, by_length, symbols }, 16 + total))
    }

    /// The next symbol.
    #[inline]
    pub fn symbol(&self, bits: &mut Bits<'_>) -> Result<u8, Unread> {
        self.symbol_and(bits, 0)
    }

    /// The next symbol; also passes over the bits of the value whose size its lower half is.
    #[inline]
    pub fn symbol_and_value(&self, bits: &mut Bits<'_>) -> Result<u8, Unread> {
        self.symbol_and(bits, 15)
    }

    /// The next symbol, with as many bits behind it as its bits under a mask say.
    #[inline]
    fn symbol_and(&self, bits: &mut Bits<'_>, mask: u8) -> Result<u8, Unread> {
        let next = u32::from(bits.peek());
        let (length, symbol) = self.short[(next >> (16 - LOOKED_UP)) as usize];
        if length > 0 {
            bits.skip(u32::from(length + (symbol & mask)))?;
            return Ok(symbol);
        }
        for length in LOOKED_UP + 1..=16 {
            let (code, first, count) = self.by_length[length as usize];
            let offset = (next >> (16 - length)).wrapping_sub(code);
            if offset < count {
                let symbol = self.symbols[first + offset as usize];
                bits.skip(length + u32::from(symbol & mask))?;
                return Ok(symbol);
            }
        }
        // Behind the last bit the look-ahead has zeros, which may be no code.
        bits.skip(16)?;
        Err(Unread::NoCode)
    }
}

/// A DHT segment with the tables of Annex K.3 of ISO/IEC 10918-1, which decoders take for the
/// frames of an MJPEG stream: these leave their tables out.
pub(crate) const STANDARD_TABLES: &[u8; 420] = &{
    let mut bytes = [0; 420];
    let mut at = put(&mut bytes, 0, &[0xff, 0xc4, 0x01, 0xa2]);
    at = put(&mut bytes, at, &[0x00, 0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
    at = put(&mut bytes, at, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    at = put(&mut bytes, at, &[0x10, 0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d]);
    at = put(&mut bytes, at, &AC_LUMA);
    at = put(&mut bytes, at, &[0x01, 0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
    at = put(&mut bytes, at, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    at = put(&mut bytes, at, &[0x11, 0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77]);
    at = put(&mut bytes, at, &AC_CHROMA);
    assert!(at == bytes.len());
    bytes
};

const fn put(into: &mut [u8; 420], mut at: usize, from: &[u8]) -> usize {
    let mut i = 0;
    while i < from.len() {
        into[at] = from[i];
        at += 1;
        i += 1;
    }
    at
}

/// Symbols of table K.5.
const AC_LUMA: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2A, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7,
    0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3, 0xC4, 0xC5,
    0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
    0xF9, 0xFA,
];

/// Symbols of table K.6.
const AC_CHROMA: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0,
    0x15, 0x62, 0x72, 0xD1, 0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26,
    0x27, 0x28, 0x29, 0x2A, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5,
    0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
    0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
    0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
    0xF9, 0xFA,
];
