//! DRAM of a chip: banks that are filled in step, first fit, as TT-NN's allocator does. All chips
//! of a mesh hold a tensor at the same address, so one allocator serves them all.

use std::collections::BTreeMap;

use tt_metal_sys as abi;
use tt_metal_sys::boards::Chip;

use crate::error::{Result, refusal};
use crate::format::Spec;

/// A block of every bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Address in the bank.
    pub start: u64,
    /// Bytes in the bank.
    pub bytes: u64,
}

impl Block {
    /// One past the last address.
    pub fn end(self) -> u64 {
        self.start + self.bytes
    }

    /// Whether two blocks share an address.
    pub fn overlaps(self, other: Block) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// First-fit allocator over one bank, valid for all.
#[derive(Debug)]
pub struct Allocator {
    chip: Chip,
    capacity: u64,
    free: BTreeMap<u64, u64>,
    allocated: u64,
    peak: u64,
}

impl Allocator {
    /// `limit`: DRAM of a chip, at most what the board has; `trace_region` is taken from every
    /// bank.
    pub fn new(chip: Chip, limit: Option<u64>, trace_region: u64) -> Self {
        let usable = chip.usable_bank_bytes();
        let bank = limit.map_or(usable, |limit| (limit / chip.dram_banks).min(usable));
        let capacity =
            bank.saturating_sub(trace_region) / chip.dram_alignment * chip.dram_alignment;
        let first = (chip.dram_base, capacity);
        let free = if capacity > 0 { BTreeMap::from([first]) } else { BTreeMap::new() };
        Self { chip, capacity, free, allocated: 0, peak: 0 }
    }

    /// Allocates a block for a tensor; the error has the sizes.
    pub fn allocate(&mut self, spec: &Spec) -> Result<Block> {
        let banks = self.chip.dram_banks;
        let (pages, page_bytes) = spec.pages();
        let bytes = self.chip.allocated(pages as u64, page_bytes as u64) / banks;
        let Some((start, length)) = self
            .free
            .iter()
            .find(|(_, length)| **length >= bytes)
            .map(|(start, length)| (*start, *length))
        else {
            let largest = self.free.values().max().copied().unwrap_or(0);
            return Err(refusal(
                abi::TTP_OUT_OF_MEMORY,
                format!(
                    "out of device memory: {spec} needs {} B of DRAM across {banks} banks, \
                    {bytes} B in each; a bank has {} B (allocated {} B, free {} B, largest free \
                    block {largest} B); \
                     use a smaller format (bfp8_b), more chips, or free tensors",
                    bytes * banks,
                    self.capacity,
                    self.allocated,
                    self.capacity - self.allocated,
                ),
            ));
        };
        self.free.remove(&start);
        if length > bytes {
            self.free.insert(start + bytes, length - bytes);
        }
        self.allocated += bytes;
        self.peak = self.peak.max(self.allocated);
        Ok(Block { start, bytes })
    }

    /// Frees a block and merges it with its free neighbours.
    pub fn release(&mut self, block: Block) {
        self.allocated -= block.bytes;
        let (mut start, mut bytes) = (block.start, block.bytes);
        if let Some((before, length)) = self.free.range(..start).next_back().map(|(a, b)| (*a, *b))
            && before + length == start
        {
            self.free.remove(&before);
            (start, bytes) = (before, length + bytes);
        }
        if let Some(length) = self.free.remove(&(start + bytes)) {
            bytes += length;
        }
        self.free.insert(start, bytes);
    }

    /// Memory statistics of one chip.
    pub fn stats(&self) -> abi::MemoryStats {
        let banks = self.chip.dram_banks;
        abi::MemoryStats {
            total: self.capacity * banks,
            allocated: self.allocated * banks,
            free: (self.capacity - self.allocated) * banks,
            largest_free: self.free.values().max().copied().unwrap_or(0) * banks,
            peak: self.peak * banks,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::format::{Format, Layout};
    use proptest::prelude::*;
    use tt_metal_sys::boards::{BLACKHOLE, WORMHOLE};

    fn tiles(count: usize) -> Spec {
        Spec::new([1, 1, 32, 32 * count], Format::Bf16, Layout::Tile).unwrap()
    }

    #[test]
    fn pages_go_round_the_banks() {
        let mut memory = Allocator::new(WORMHOLE, None, 0);
        // 13 tiles: one bank holds two, and all are filled in step.
        let first = memory.allocate(&tiles(13)).unwrap();
        assert_eq!(first.start, 1_920_032);
        assert_eq!(memory.stats().allocated, 2 * 2048 * 12);
        assert_eq!(memory.stats().total, 12 * 1_071_821_792);
        // Rows of 80 bytes: 96 with Wormhole's alignment, 128 with Blackhole's.
        let rows = Spec::new([1, 1, 24, 40], Format::Bf16, Layout::RowMajor).unwrap();
        for (chip, bytes) in [(WORMHOLE, 24 * 96), (BLACKHOLE, 24 * 128)] {
            let mut memory = Allocator::new(chip, None, 0);
            memory.allocate(&rows).unwrap();
            assert_eq!(memory.stats().allocated, bytes);
        }
    }

    #[test]
    fn fragmentation_is_real() {
        let mut memory = Allocator::new(WORMHOLE, Some(12 * 2048 * 4), 0);
        let blocks: Vec<Block> = (0..4).map(|_| memory.allocate(&tiles(12)).unwrap()).collect();
        memory.release(blocks[0]);
        memory.release(blocks[2]);
        let error = memory.allocate(&tiles(24)).unwrap_err();
        assert_eq!(error.status, abi::TTP_OUT_OF_MEMORY);
        assert!(error.text.contains("free 4096 B, largest free block 2048 B"), "{}", error.text);
        memory.release(blocks[1]);
        assert_eq!(memory.allocate(&tiles(36)).unwrap().start, blocks[0].start);
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_are_freed(
            steps in prop::collection::vec((any::<bool>(), 1usize..200), 1..80),
        ) {
            let mut memory = Allocator::new(WORMHOLE, Some(12 * 2048 * 64), 0);
            let mut live: Vec<Block> = Vec::new();
            for (give_back, size) in steps {
                if give_back && !live.is_empty() {
                    memory.release(live.swap_remove(size % live.len()));
                } else if let Ok(block) = memory.allocate(&tiles(size)) {
                    prop_assert!(live.iter().all(|other| !other.overlaps(block)));
                    live.push(block);
                }
            }
            live.into_iter().for_each(|block| memory.release(block));
            let stats = memory.stats();
            prop_assert_eq!((stats.allocated, stats.largest_free), (0, stats.total));
        }
    }
}
