//! Facts of the boards and their chips, from tt-metal 191d0eed. The simulator is built from them,
//! `openvla plan` predicts with them, and a provider on silicon answers with its own.

use crate::{
    TTP_ARCH_BLACKHOLE, TTP_ARCH_WORMHOLE, TTP_BOARD_LOUDBOX, TTP_BOARD_N150, TTP_BOARD_N300,
    TTP_BOARD_P150, TTP_BOARD_P300, TTP_BOARD_QUIETBOX, TTP_BOARD_T3K,
};

/// A kind of chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// `TTP_ARCH_*`.
    pub architecture: u32,
    /// Name for messages.
    pub name: &'static str,
    /// DRAM banks.
    pub dram_banks: u64,
    /// Bytes of a bank, with what TT-NN reserves in it.
    pub dram_bank_bytes: u64,
    /// Address of the first tensor in a bank.
    pub dram_base: u64,
    /// Pages in DRAM start at multiples of this; reads need the same remainder in L1.
    pub dram_alignment: u64,
    /// Bytes of L1 of a core.
    pub l1_bytes: u64,
}

/// Bytes of every bank for the device profiler: 1 000 programs, 6 markers of 8 bytes, 5 processors,
/// for this many cores a bank (`get_dram_profiler_size` in `wh_hal.cpp` and `bh_hal.cpp`). A build
/// by `build_metal.sh` reserves them; PyPI's wheel and `--disable-profiler` do not, and have as
/// much more. What fits here fits both.
const fn profiler_bytes(cores_per_bank: u64) -> u64 {
    1000 * 6 * 8 * 5 * cores_per_bank
}

/// Wormhole: 12 banks of 1 GiB (`soc_descriptors/wormhole_b0_80_arch.yaml`); 96 cores with a
/// profiler over 12 banks, and an address for barriers.
pub const WORMHOLE: Chip = Chip {
    architecture: TTP_ARCH_WORMHOLE,
    name: "Wormhole",
    dram_banks: 12,
    dram_bank_bytes: 1 << 30,
    dram_base: 32 + profiler_bytes(8),
    dram_alignment: 32,
    l1_bytes: 1464 * 1024,
};

/// Blackhole: 8 banks (`soc_descriptors/blackhole_140_arch.yaml`); 154 cores with a profiler over 8
/// banks, and an address for barriers.
pub const BLACKHOLE: Chip = Chip {
    architecture: TTP_ARCH_BLACKHOLE,
    name: "Blackhole",
    dram_banks: 8,
    dram_bank_bytes: 4_278_190_080,
    dram_base: 64 + profiler_bytes(20),
    dram_alignment: 64,
    l1_bytes: 1536 * 1024,
};

impl Chip {
    /// Bytes of a bank that tensors and traces share.
    pub const fn usable_bank_bytes(&self) -> u64 {
        (self.dram_bank_bytes - self.dram_base) / self.dram_alignment * self.dram_alignment
    }

    /// Bytes that pages of a tensor take in DRAM: they go round the banks, each bank reserves as
    /// many as the fullest, and every page starts at an alignment.
    pub const fn allocated(&self, pages: u64, page_bytes: u64) -> u64 {
        pages.div_ceil(self.dram_banks)
            * page_bytes.next_multiple_of(self.dram_alignment)
            * self.dram_banks
    }
}

/// Bytes that one operation takes in a trace, about: 36 to 38 MB for the some 2 300 programs of
/// Llama-3.1-8B's traces on an N300 (tt-inference-server #1842, `demo/trace_region_config.py`).
pub const TRACE_BYTES_PER_OPERATION: u64 = 16 << 10;

/// A board, or several in one machine, as the mesh that TT-NN opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoardFacts {
    /// `TTP_BOARD_*`.
    pub id: u32,
    /// Name, as in `tt:n300`.
    pub name: &'static str,
    /// Chips, in one row.
    pub chips: u32,
    /// Whether the last chip is connected to the first.
    pub ring: bool,
    /// Ethernet links that collectives use between neighbours (`models/tt_transformers/tt/ccl.py`).
    pub links: u32,
    /// Columns and rows of compute cores, with the dispatch that the shim chooses
    /// (`core_descriptors`: Ethernet dispatch leaves 8x8 on Wormhole; on Blackhole a column of the
    /// 14 of a P150 or the 12 of a P300's chip dispatches).
    pub grid: (u32, u32),
    /// Bytes of every bank for the traces of a 7B model: TT-NN takes the region from each bank, and
    /// compares with it the sum of all traces. tt_transformers reserves 25, 38 and 50 MB for
    /// Llama-3.1-8B on N150, N300 and T3K, and 80 to 90 MB on Blackhole
    /// (`demo/trace_region_config.py`); ours are some 2 500 operations of about 16 KiB each.
    pub trace_region_bytes: u64,
    /// Its chips.
    pub chip: Chip,
}

const fn wormhole(id: u32, name: &'static str, chips: u32, trace_mib: u64) -> BoardFacts {
    BoardFacts {
        id,
        name,
        chips,
        ring: chips > 2,
        links: if chips > 1 { 1 } else { 0 },
        grid: (8, 8),
        trace_region_bytes: trace_mib << 20,
        chip: WORMHOLE,
    }
}

const fn blackhole(id: u32, name: &'static str, chips: u32, columns: u32) -> BoardFacts {
    BoardFacts {
        id,
        name,
        chips,
        ring: chips > 2,
        links: if chips > 1 { 2 } else { 0 },
        grid: (columns, 10),
        // 2 % of a bank.
        trace_region_bytes: 96 << 20,
        chip: BLACKHOLE,
    }
}

/// All boards. A QuietBox is four P150 or, since 2026, two P300: the smaller grid is assumed.
pub const BOARDS: [BoardFacts; 7] = [
    wormhole(TTP_BOARD_N150, "n150", 1, 48),
    wormhole(TTP_BOARD_N300, "n300", 2, 48),
    wormhole(TTP_BOARD_T3K, "t3k", 8, 96),
    blackhole(TTP_BOARD_P150, "p150", 1, 13),
    blackhole(TTP_BOARD_P300, "p300", 2, 11),
    blackhole(TTP_BOARD_QUIETBOX, "quietbox", 4, 11),
    blackhole(TTP_BOARD_LOUDBOX, "loudbox", 8, 13),
];

/// The board of a `TTP_BOARD_*`.
pub fn board(id: u32) -> Option<&'static BoardFacts> {
    BOARDS.iter().find(|board| board.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What TT-NN's allocator reports for a build with the profiler, which is the default one.
    #[test]
    fn banks_are_those_of_a_default_build() {
        assert_eq!(WORMHOLE.usable_bank_bytes(), 1_071_821_792);
        assert_eq!(BLACKHOLE.usable_bank_bytes(), 4_273_390_016);
        // Without it, as in PyPI's wheel: only the address for barriers is missing.
        assert_eq!(WORMHOLE.usable_bank_bytes() + profiler_bytes(8), 1_073_741_792);
        assert_eq!(BLACKHOLE.usable_bank_bytes() + profiler_bytes(20), 4_278_190_016);
    }

    #[test]
    fn a_board_is_found_by_its_number() {
        for facts in &BOARDS {
            assert_eq!(board(facts.id), Some(facts));
            assert_eq!(facts.ring, facts.chips > 2);
            assert_eq!(facts.links == 0, facts.chips == 1);
        }
        assert_eq!((board(0), board(8)), (None, None));
    }
}
