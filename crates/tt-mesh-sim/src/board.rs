//! The boards that can be simulated: those of the ABI, by their facts.

use tt_metal_sys::boards::{self, BoardFacts};

use crate::error::{Result, invalid};

/// From the ABI's number.
pub fn from_abi(id: u32) -> Result<&'static BoardFacts> {
    boards::board(id).ok_or_else(|| {
        let last = boards::BOARDS.len();
        invalid(format!("board {id} is none of TTP_BOARD_*, which are 1 to {last}"))
    })
}
