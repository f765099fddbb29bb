//! What is in a JPEG before it is decoded: where it ends, whether every block of every scan is
//! there, whether it has Huffman tables of its own, and how its camera was held.
//!
//! The decoder fills what is missing with grey or repeats it, and reports no error. So the entropy
//! code is read once without computing a pixel: only that shows whether every row was there. The
//! last two bytes do not, since tools and drivers append an end marker to half a picture, and
//! others append a video, a newline or padding to a whole one.

mod bits;
mod huffman;
mod progressive;
mod scan;

use image::metadata::Orientation;

use self::bits::Bits;
use self::huffman::Huffman;
use self::progressive::Coefficients;
use self::scan::Frame;

pub(super) use self::huffman::STANDARD_TABLES;

/// Most scans of a picture; encoders make about ten.
const MAX_SCANS: usize = 500;

/// A whole JPEG.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// Bytes up to and with the end marker; what follows is no part of the picture.
    pub bytes: usize,
    /// Whether a scan uses a Huffman table that the file does not have, as the frames of MJPEG do:
    /// there the standard tables are meant.
    pub lacks_tables: bool,
}

/// Why a JPEG is not a whole picture.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// Something is missing or damaged, in words.
    Incomplete(String),
    /// More than [`super::MAX_SIDE`] pixels in a direction, or none.
    Side(usize, usize),
}

/// Markers by their second byte.
mod marker {
    pub const SOF0: u8 = 0xc0;
    pub const SOF1: u8 = 0xc1;
    pub const SOF2: u8 = 0xc2;
    pub const DHT: u8 = 0xc4;
    pub const RST0: u8 = 0xd0;
    pub const RST7: u8 = 0xd7;
    pub const SOI: u8 = 0xd8;
    pub const EOI: u8 = 0xd9;
    pub const SOS: u8 = 0xda;
    pub const DRI: u8 = 0xdd;
    pub const APP1: u8 = 0xe1;
    pub const TEM: u8 = 0x01;

    /// Frames of methods that no decoder of ours reads: lossless, hierarchical, arithmetic.
    pub fn is_other_frame(code: u8) -> bool {
        matches!(code, 0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf)
    }

    /// Without a length and content.
    pub fn stands_alone(code: u8) -> bool {
        matches!(code, TEM | RST0..=RST7 | SOI)
    }
}

/// A marker and the content of its segment.
struct Segment<'a> {
    code: u8,
    content: &'a [u8],
}

/// Reads markers one by one.
struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    /// The next marker with its content; `None` where the bytes end before it does.
    fn next(&mut self) -> Option<Segment<'a>> {
        loop {
            // Other bytes before a marker are passed over, as decoders do.
            while *self.bytes.get(self.at)? != 0xff {
                self.at += 1;
            }
            while *self.bytes.get(self.at)? == 0xff {
                self.at += 1;
            }
            let code = self.bytes[self.at];
            self.at += 1;
            if code == 0 || marker::stands_alone(code) {
                continue;
            }
            if code == marker::EOI {
                return Some(Segment { code, content: &[] });
            }
            let length = self.bytes.get(self.at..self.at + 2)?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let content = self.bytes.get(self.at + 2..self.at + length.max(2))?;
            self.at += length.max(2);
            return Some(Segment { code, content });
        }
    }
}

/// Huffman tables by their number, and whether the file itself has them.
#[derive(Default)]
struct Tables {
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    /// A scan needed a table that the file does not have.
    lacking: bool,
}

impl Tables {
    /// Takes the tables of a DHT segment; `None` when it is malformed.
    fn define(&mut self, mut content: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = content {
            let (table, used) = Huffman::parse(rest)?;
            let place = match kind >> 4 {
                0 => self.dc.get_mut(usize::from(kind & 15)),
                1 => self.ac.get_mut(usize::from(kind & 15)),
                _ => None,
            };
            *place? = Some(table);
            content = &rest[used..];
        }
        Some(())
    }

    /// Fills in the standard tables where a sequential scan uses others than the file has.
    fn complete(&mut self, scan: &scan::Scan) {
        let missing = |known: &[Option<Huffman>; 4], number: usize| known[number].is_none();
        if !scan.parts.iter().any(|p| missing(&self.dc, p.dc) || missing(&self.ac, p.ac)) {
            return;
        }
        self.lacking = true;
        let mut standard = Tables::default();
        let _ = standard.define(&STANDARD_TABLES[4..]);
        let own = self.dc.iter_mut().chain(&mut self.ac);
        for (own, standard) in own.zip(standard.dc.into_iter().chain(standard.ac)) {
            if own.is_none() {
                *own = standard;
            }
        }
    }
}

fn incomplete<T>(what: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Incomplete(what.into()))
}

/// Reads the whole structure.
///
/// # Errors
/// When a block of a scan is missing or cannot be read, or the picture is too large. `None` for
/// files of a form that is not looked into; the decoder says what it makes of them.
pub(super) fn examine(bytes: &[u8]) -> Result<Option<Whole>, Problem> {
    let mut segments = Segments { bytes, at: 2 };
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut restart = 0;
    let mut scans = 0;
    loop {
        let Some(segment) = segments.next() else {
            let Some(frame) = &frame else {
                return incomplete("it ends within its header: it was cut off");
            };
            // Where every block was read, only the end marker itself is missing.
            return match frame.check_complete(scans) {
                Ok(()) => Ok(Some(Whole { bytes: bytes.len(), lacks_tables: tables.lacking })),
                Err(problem) => Err(problem),
            };
        };
        match segment.code {
            marker::EOI => break,
            marker::SOF0 | marker::SOF1 | marker::SOF2 if frame.is_none() => {
                match Frame::parse(segment.content, segment.code == marker::SOF2) {
                    Some(parsed) => frame = Some(parsed.map_err(|(w, h)| Problem::Side(w, h))?),
                    None => return Ok(None),
                }
            }
            marker::DHT if tables.define(segment.content).is_none() => {
                return incomplete("its Huffman tables are damaged");
            }
            marker::DRI => match segment.content {
                [high, low] => restart = usize::from(u16::from_be_bytes([*high, *low])),
                _ => return Ok(None),
            },
            marker::SOS => {
                scans += 1;
                let Some(frame) = &mut frame else { return Ok(None) };
                let Some(scan) = scan::Scan::parse(segment.content, frame) else {
                    return Ok(None);
                };
                if scans > MAX_SCANS {
                    return incomplete(format!("more than {MAX_SCANS} scans"));
                }
                if frame.progress.is_none() {
                    tables.complete(&scan);
                }
                let mut bits = Bits::new(&bytes[segments.at..]);
                if !frame.read(&scan, &tables, restart, &mut bits)? {
                    return Ok(None);
                }
                segments.at += bits.position();
            }
            code if marker::is_other_frame(code) => return Ok(None),
            _ => {}
        }
    }
    let Some(frame) = frame else { return incomplete("it has no picture before its end marker") };
    frame.check_complete(scans)?;
    Ok(Some(Whole { bytes: segments.at, lacks_tables: tables.lacking }))
}

/// The orientation that the camera wrote into the header, if it is not upright.
pub(super) fn orientation(bytes: &[u8]) -> Option<Orientation> {
    let mut segments = Segments { bytes, at: 2 };
    loop {
        let segment = segments.next()?;
        match segment.code {
            marker::EOI | marker::SOS => return None,
            marker::APP1 => {
                let Some(exif) = segment.content.strip_prefix(b"Exif\0\0") else { continue };
                return Orientation::from_exif_chunk(exif)
                    .filter(|orientation| *orientation != Orientation::NoTransforms);
            }
            _ => {}
        }
    }
}

impl Frame {
    /// Whether every component had its scans.
    fn check_complete(&self, scans: usize) -> Result<(), Problem> {
        if let Some(component) = self.components.iter().position(|component| !component.seen) {
            let of = self.components.len();
            return incomplete(format!("component {} of {of} is missing", component + 1));
        }
        match self.progress.as_ref().is_none_or(Coefficients::are_exact) {
            true => Ok(()),
            false => incomplete(format!(
                "it ends after {scans} scans, before its coefficients have their last bits: only a \
                preview is there"
            )),
        }
    }
}

#[cfg(test)]
mod tests;
