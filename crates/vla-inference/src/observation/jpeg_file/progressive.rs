//! Scans of progressive frames: which coefficients they bring, and to which bit.

use super::bits::Bits;
use super::huffman::Unread;
use super::scan::Block;

/// Coefficients and bits of a scan.
pub(super) struct Pass {
    /// First and last coefficient, in zigzag order.
    start: usize,
    end: usize,
    /// Whether it refines coefficients that are there.
    refines: bool,
    /// Lowest bit after it.
    low: u8,
}

impl Pass {
    /// From the fields of a scan header; `None` when they contradict each other.
    pub fn new(start: u8, end: u8, approximation: u8, parts: usize) -> Option<Self> {
        let (high, low) = (approximation >> 4, approximation & 15);
        let valid = end < 64
            && low <= 13
            && if start == 0 { end == 0 } else { start <= end && parts == 1 }
            && (high == 0 || high == low + 1);
        let pass = Self { start: start.into(), end: end.into(), refines: high > 0, low };
        valid.then_some(pass)
    }

    /// All coefficients at once.
    pub fn sequential() -> Self {
        Self { start: 0, end: 63, refines: false, low: 0 }
    }

    pub fn needs_dc_table(&self) -> bool {
        self.start == 0 && !self.refines
    }

    pub fn needs_ac_table(&self) -> bool {
        self.start > 0
    }

    fn range(&self) -> std::ops::RangeInclusive<usize> {
        self.start..=self.end
    }
}

/// Lowest bit of a coefficient that no scan has brought.
const UNSEEN: u8 = u8::MAX;

/// What is known of the coefficients of each component.
pub(super) struct Coefficients {
    components: Vec<Known>,
    /// Blocks that follow without further coefficients in this scan.
    empty_run: u32,
}

struct Known {
    /// A bit for each coefficient of each block that is not zero.
    present: Vec<u64>,
    /// Lowest bit, by coefficient.
    low: [u8; 64],
}

impl Coefficients {
    /// Of components with so many blocks.
    pub fn new(blocks: impl Iterator<Item = usize>) -> Self {
        let known = |blocks| Known { present: vec![0; blocks], low: [UNSEEN; 64] };
        Self { components: blocks.map(known).collect(), empty_run: 0 }
    }

    /// Whether every coefficient that was begun has its last bit.
    pub fn are_exact(&self) -> bool {
        let exact = |known: &Known| {
            known.low[0] == 0 && known.low.iter().all(|low| matches!(*low, 0 | UNSEEN))
        };
        self.components.iter().all(exact)
    }

    /// Begins a scan; `false` when it does not continue the ones before.
    pub fn begin(&mut self, pass: &Pass, parts: impl Iterator<Item = usize>) -> bool {
        self.empty_run = 0;
        for part in parts {
            let low = &mut self.components[part].low[pass.range()];
            if pass.refines && low.contains(&UNSEEN) {
                return false;
            }
            low.fill(pass.low);
        }
        true
    }

    /// After a restart marker.
    pub fn restart(&mut self) {
        self.empty_run = 0;
    }

    /// Passes over a block.
    pub fn read(
        &mut self,
        component: usize,
        index: usize,
        pass: &Pass,
        block: &Block<'_>,
        bits: &mut Bits<'_>,
    ) -> Result<(), Unread> {
        let Self { components, empty_run } = self;
        let Some(present) = components[component].present.get_mut(index) else {
            return Err(Unread::NoCode);
        };
        match (pass.start, pass.refines) {
            (0, true) => Ok(bits.skip(1)?),
            (0, false) => {
                let size = block.dc.ok_or(Unread::NoCode)?.symbol(bits)?;
                Ok(bits.skip(u32::from(size & 15))?)
            }
            (_, false) => first(present, empty_run, pass, block, bits),
            (_, true) => refine(present, empty_run, pass, block, bits),
        }
    }
}

/// Length of a run of blocks without coefficients.
fn run_of_blocks(size: u8, bits: &mut Bits<'_>) -> Result<u32, Unread> {
    Ok((1 << size) + bits.take(u32::from(size))?)
}

/// The first scan of a range of coefficients.
fn first(
    present: &mut u64,
    empty_run: &mut u32,
    pass: &Pass,
    block: &Block<'_>,
    bits: &mut Bits<'_>,
) -> Result<(), Unread> {
    if *empty_run > 0 {
        *empty_run -= 1;
        return Ok(());
    }
    let ac = block.ac.ok_or(Unread::NoCode)?;
    let mut index = pass.start;
    while index <= pass.end {
        let symbol = ac.symbol(bits)?;
        let (run, size) = (symbol >> 4, symbol & 15);
        if size == 0 && run != 15 {
            *empty_run = run_of_blocks(run, bits)? - 1;
            return Ok(());
        }
        index += usize::from(run);
        if size > 0 {
            bits.skip(u32::from(size))?;
            *present |= 1_u64.checked_shl(index as u32).unwrap_or(0);
        }
        index += 1;
    }
    Ok(())
}

/// A scan with one more bit of a range of coefficients.
fn refine(
    present: &mut u64,
    empty_run: &mut u32,
    pass: &Pass,
    block: &Block<'_>,
    bits: &mut Bits<'_>,
) -> Result<(), Unread> {
    let ac = block.ac.ok_or(Unread::NoCode)?;
    let mut index = pass.start;
    if *empty_run == 0 {
        while index <= pass.end {
            let symbol = ac.symbol(bits)?;
            let (mut run, size) = (symbol >> 4, symbol & 15);
            if size == 0 && run != 15 {
                *empty_run = run_of_blocks(run, bits)?;
                break;
            }
            if size > 0 {
                bits.skip(1)?; // sign of the new coefficient
            }
            // Its place follows `run` coefficients that stay zero; those that are there have a bit
            // each.
            while index <= pass.end {
                if *present >> index & 1 == 1 {
                    bits.skip(1)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                index += 1;
            }
            if size > 0 && index <= pass.end {
                *present |= 1 << index;
            }
            index += 1;
        }
    }
    if *empty_run > 0 {
        while index <= pass.end {
            if *present >> index & 1 == 1 {
                bits.skip(1)?;
            }
            index += 1;
        }
        *empty_run -= 1;
    }
    Ok(())
}
