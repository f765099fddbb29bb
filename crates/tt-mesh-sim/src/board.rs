//! The three boards.

use tt_metal_sys as abi;

use crate::error::{Result, invalid};

/// A mesh of Wormhole chips as TT-NN opens it with Ethernet dispatch.
#[derive(Debug, Clone, Copy)]
pub struct Board {
    /// `TTP_BOARD_*`.
    pub id: u32,
    /// Chips in a row.
    pub columns: u32,
    /// Whether the last chip is connected to the first.
    pub ring: bool,
}

/// Compute cores of a chip with Ethernet dispatch: all of 8x8.
pub const GRID: (u32, u32) = (8, 8);
/// L1 of a core in bytes.
pub const L1_BYTES: u64 = 1_499_136;

impl Board {
    /// From the ABI's number.
    pub fn from_abi(id: u32) -> Result<Self> {
        match id {
            abi::TTP_BOARD_N150 => Ok(Self { id, columns: 1, ring: false }),
            abi::TTP_BOARD_N300 => Ok(Self { id, columns: 2, ring: false }),
            abi::TTP_BOARD_T3K => Ok(Self { id, columns: 8, ring: true }),
            other => Err(invalid(format!(
                "board {other} is none of TTP_BOARD_N150, TTP_BOARD_N300, TTP_BOARD_T3K"
            ))),
        }
    }
}
