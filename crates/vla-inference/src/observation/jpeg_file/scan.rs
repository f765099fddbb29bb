//! Reading the scans of a frame block by block, without their values.

use super::bits::Bits;
use super::huffman::{Huffman, Unread};
use super::progressive::{Coefficients, Pass};
use super::{Problem, Tables};
use crate::observation::MAX_SIDE;

/// A component of the frame.
pub(super) struct Component {
    id: u8,
    /// Sampling factors, 1 to 4.
    horizontal: usize,
    vertical: usize,
    /// Whether a scan had it.
    pub seen: bool,
}

/// What the frame header says, and what was read of the frame.
pub(super) struct Frame {
    width: usize,
    height: usize,
    pub components: Vec<Component>,
    /// For progressive frames: what is known of the coefficients.
    pub progress: Option<Coefficients>,
}

/// A component of a scan: index in the frame, numbers of the tables.
pub(super) struct Part {
    pub component: usize,
    pub dc: usize,
    pub ac: usize,
}

/// A scan header.
pub(super) struct Scan {
    pub parts: Vec<Part>,
    pass: Pass,
}

impl Frame {
    /// Reads a frame header. `None` for what no decoder of ours reads; an error with width and
    /// height for pictures that are too large or have no size.
    pub fn parse(content: &[u8], progressive: bool) -> Option<Result<Self, (usize, usize)>> {
        let (&[precision, h1, h0, w1, w0, count], rest) = content.split_first_chunk::<6>()?;
        let (height, width) =
            (usize::from(u16::from_be_bytes([h1, h0])), usize::from(u16::from_be_bytes([w1, w0])));
        if precision != 8 || !(1..=4).contains(&count) || rest.len() != usize::from(count) * 3 {
            return None;
        }
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Some(Err((width, height)));
        }
        let component = |&[id, factors, _]: &[u8; 3]| {
            let (horizontal, vertical) = (usize::from(factors >> 4), usize::from(factors & 15));
            let valid = (1..=4).contains(&horizontal) && (1..=4).contains(&vertical);
            valid.then_some(Component { id, horizontal, vertical, seen: false })
        };
        let components: Option<Vec<_>> = rest.as_chunks::<3>().0.iter().map(component).collect();
        let mut frame = Self { width, height, components: components?, progress: None };
        if progressive {
            let blocks = (0..frame.components.len()).map(|index| {
                let (columns, rows) = frame.padded_blocks(index);
                columns * rows
            });
            frame.progress = Some(Coefficients::new(blocks));
        }
        Some(Ok(frame))
    }

    fn factors(&self) -> (usize, usize) {
        let largest = |of: fn(&Component) -> usize| self.components.iter().map(of).max();
        (largest(|c| c.horizontal).unwrap_or(1), largest(|c| c.vertical).unwrap_or(1))
    }

    /// MCUs of an interleaved scan.
    fn mcus(&self) -> (usize, usize) {
        let (horizontal, vertical) = self.factors();
        (self.width.div_ceil(8 * horizontal), self.height.div_ceil(8 * vertical))
    }

    /// Columns and rows of blocks of a component, with those that pad its last MCUs.
    fn padded_blocks(&self, index: usize) -> (usize, usize) {
        let (component, (columns, rows)) = (&self.components[index], self.mcus());
        (columns * component.horizontal, rows * component.vertical)
    }

    /// Columns and rows of blocks of a component, as a scan of it alone has them.
    fn own_blocks(&self, index: usize) -> (usize, usize) {
        let (component, (horizontal, vertical)) = (&self.components[index], self.factors());
        let columns = (self.width * component.horizontal).div_ceil(horizontal).div_ceil(8);
        (columns, (self.height * component.vertical).div_ceil(vertical).div_ceil(8))
    }

    /// Reads a scan to its end. `false`: tables are missing, or numbers are out of their ranges;
    /// the decoder says what it makes of them.
    ///
    /// # Errors
    /// When a block is missing or cannot be read.
    pub fn read(
        &mut self,
        scan: &Scan,
        tables: &Tables,
        restart: usize,
        bits: &mut Bits<'_>,
    ) -> Result<bool, Problem> {
        let alone = scan.parts.len() == 1;
        let (columns, rows) = match scan.parts.as_slice() {
            [only] => self.own_blocks(only.component),
            _ => self.mcus(),
        };
        let mut progress = self.progress.take();
        if let Some(progress) = &mut progress
            && !progress.begin(&scan.pass, scan.parts.iter().map(|part| part.component))
        {
            return Ok(false);
        }
        let Some(blocks) = self.blocks(scan, tables, progress.is_some(), alone) else {
            return Ok(false);
        };
        for mcu in 0..columns * rows {
            let (column, row) = (mcu % columns, mcu / columns);
            if restart > 0 && mcu > 0 && mcu.is_multiple_of(restart) {
                if !bits.restart() {
                    return Err(self.missing(row, rows, &Unread::Ended));
                }
                if let Some(progress) = &mut progress {
                    progress.restart();
                }
            }
            for block in &blocks {
                let read = match &mut progress {
                    None => block.read(bits),
                    Some(progress) => {
                        let x = column * block.across + block.x;
                        let y = row * block.down + block.y;
                        progress.read(
                            block.component,
                            y * block.columns + x,
                            &scan.pass,
                            block,
                            bits,
                        )
                    }
                };
                read.map_err(|unread| self.missing(row, rows, &unread))?;
            }
        }
        self.progress = progress;
        scan.parts.iter().for_each(|part| self.components[part.component].seen = true);
        Ok(true)
    }

    /// The blocks of an MCU; `None` when a table is missing.
    fn blocks<'a>(
        &self,
        scan: &Scan,
        tables: &'a Tables,
        progressive: bool,
        alone: bool,
    ) -> Option<Vec<Block<'a>>> {
        let needs_dc = scan.pass.needs_dc_table();
        let needs_ac = !progressive || scan.pass.needs_ac_table();
        let mut blocks = Vec::new();
        for part in &scan.parts {
            let component = &self.components[part.component];
            let dc = tables.dc[part.dc].as_ref();
            let ac = tables.ac[part.ac].as_ref();
            if (needs_dc && dc.is_none()) || (needs_ac && ac.is_none()) {
                return None;
            }
            let (across, down) =
                if alone { (1, 1) } else { (component.horizontal, component.vertical) };
            let columns = self.padded_blocks(part.component).0;
            for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
                let component = part.component;
                blocks.push(Block { component, dc, ac, x, y, across, down, columns });
            }
        }
        Some(blocks)
    }

    /// The error for an MCU row that is not whole.
    fn missing(&self, row: usize, rows: usize, why: &Unread) -> Problem {
        let height = self.height;
        let pixels = (row * height).div_ceil(rows.max(1));
        Problem::Incomplete(match why {
            Unread::Ended => format!(
                "its data end at about row {pixels} of {height}: it was cut off, or a part was lost"
            ),
            Unread::NoCode => format!("its data are damaged at about row {pixels} of {height}"),
        })
    }
}

/// A block of an MCU.
pub(super) struct Block<'a> {
    component: usize,
    pub dc: Option<&'a Huffman>,
    pub ac: Option<&'a Huffman>,
    /// Place in the MCU, and blocks of the MCU in each direction.
    x: usize,
    y: usize,
    across: usize,
    down: usize,
    /// Blocks in a row of the component.
    columns: usize,
}

impl Block<'_> {
    /// Passes over a block of a sequential scan.
    #[inline]
    fn read(&self, bits: &mut Bits<'_>) -> Result<(), Unread> {
        let (Some(dc), Some(ac)) = (self.dc, self.ac) else { return Err(Unread::NoCode) };
        dc.symbol_and_value(bits)?;
        let mut index = 1;
        while index < 64 {
            let symbol = ac.symbol_and_value(bits)?;
            if symbol & 15 == 0 && symbol != 0xf0 {
                return Ok(()); // the rest of the block is zero
            }
            index += usize::from(symbol >> 4) + 1;
        }
        Ok(())
    }
}

impl Scan {
    /// Reads a scan header; `None` when it does not fit the frame.
    pub fn parse(content: &[u8], frame: &Frame) -> Option<Self> {
        let (&count, rest) = content.split_first()?;
        let (parts, rest) = rest.split_at_checked(usize::from(count) * 2)?;
        let &[start, end, approximation] = rest.first_chunk::<3>()?;
        let part = |&[id, numbers]: &[u8; 2]| {
            let component = frame.components.iter().position(|component| component.id == id)?;
            let (dc, ac) = (usize::from(numbers >> 4), usize::from(numbers & 15));
            (dc < 4 && ac < 4).then_some(Part { component, dc, ac })
        };
        let parts: Vec<Part> = parts.as_chunks::<2>().0.iter().map(part).collect::<Option<_>>()?;
        if !(1..=4).contains(&parts.len()) {
            return None;
        }
        // A sequential scan has everything, whatever these fields say.
        let pass = match frame.progress {
            None => Pass::sequential(),
            Some(_) => Pass::new(start, end, approximation, parts.len())?,
        };
        Some(Self { parts, pass })
    }
}
