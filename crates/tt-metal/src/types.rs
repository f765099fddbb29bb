//! The ABI's constants as enums.

use tt_metal_sys as abi;
use tt_metal_sys::boards::{self, BoardFacts};

macro_rules! numbers {
    ($( $(#[$doc:meta])* $name:ident {
        $( $(#[$vdoc:meta])* $variant:ident = $value:path, $text:literal; )*
    } )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $( $(#[$vdoc])* $variant ),* }

        impl $name {
            /// All of them, in the ABI's order.
            pub const ALL: &[Self] = &[$( Self::$variant ),*];

            #[allow(dead_code)] // not every type travels in both directions
            pub(crate) fn to_abi(self) -> u32 {
                match self { $( Self::$variant => $value ),* }
            }

            #[allow(dead_code)]
            pub(crate) fn from_abi(value: u32) -> Option<Self> {
                match value { $( $value => Some(Self::$variant), )* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $( Self::$variant => $text ),* })
            }
        }
    )*};
}

numbers! {
    /// A board.
    Board {
        /// One Wormhole chip.
        N150 = abi::TTP_BOARD_N150, "n150";
        /// Two Wormhole chips.
        N300 = abi::TTP_BOARD_N300, "n300";
        /// Eight Wormhole chips in a ring (four N300).
        T3k = abi::TTP_BOARD_T3K, "t3k";
        /// One Blackhole chip.
        P150 = abi::TTP_BOARD_P150, "p150";
        /// Two Blackhole chips.
        P300 = abi::TTP_BOARD_P300, "p300";
        /// Four Blackhole chips in a ring (four P150 or two P300).
        QuietBox = abi::TTP_BOARD_QUIETBOX, "quietbox";
        /// Eight Blackhole chips in a ring (eight P150).
        LoudBox = abi::TTP_BOARD_LOUDBOX, "loudbox";
    }
    /// A number format of device memory.
    Format {
        /// IEEE single.
        F32 = abi::TTP_FORMAT_F32, "f32";
        /// bfloat16.
        Bf16 = abi::TTP_FORMAT_BF16, "bf16";
        /// Block float: 16 neighbours share an exponent; sign and 7 magnitude bits each. 8.5 bits
        /// an element.
        Bfp8B = abi::TTP_FORMAT_BFP8_B, "bfp8_b";
        /// Block float with 3 magnitude bits. 4.5 bits an element.
        Bfp4B = abi::TTP_FORMAT_BFP4_B, "bfp4_b";
        /// Unsigned words: ids.
        U32 = abi::TTP_FORMAT_U32, "u32";
        /// Signed words: positions.
        I32 = abi::TTP_FORMAT_I32, "i32";
        /// Bytes: camera images.
        U8 = abi::TTP_FORMAT_U8, "u8";
    }
    /// Order of the elements in device memory.
    Layout {
        /// Rows one after another.
        RowMajor = abi::TTP_LAYOUT_ROW_MAJOR, "row-major";
        /// 32x32 tiles of four 16x16 faces.
        Tile = abi::TTP_LAYOUT_TILE, "tile";
    }
    /// Math fidelity: passes of a matmul, and thereby mantissa bits of weights and activations
    /// used.
    Fidelity {
        /// 5 bits of the weights, 7 of the activations.
        LoFi = abi::TTP_LOFI, "LoFi";
        /// All of the weights, 7 bits of the activations.
        HiFi2 = abi::TTP_HIFI2, "HiFi2";
        /// All but the lowest bits of both.
        HiFi3 = abi::TTP_HIFI3, "HiFi3";
        /// Exact products of bf16.
        HiFi4 = abi::TTP_HIFI4, "HiFi4";
    }
    /// A function of one value.
    Activation {
        /// x.
        None = abi::TTP_ACT_NONE, "none";
        /// x/2 (1 + erf(x/sqrt 2)).
        Gelu = abi::TTP_ACT_GELU, "gelu";
        /// x sigmoid(x).
        Silu = abi::TTP_ACT_SILU, "silu";
        /// max(x, 0).
        Relu = abi::TTP_ACT_RELU, "relu";
        /// GELU by its tanh approximation.
        GeluTanh = abi::TTP_ACT_GELU_TANH, "gelu_tanh";
    }
    /// An operation on two values.
    Combine {
        /// a + b.
        Add = abi::TTP_ADD, "add";
        /// a - b.
        Sub = abi::TTP_SUB, "sub";
        /// a b.
        Mul = abi::TTP_MUL, "mul";
    }
    /// Pairs of a head's elements that a rotary embedding rotates.
    RopeOrder {
        /// i and i + d/2: Hugging Face checkpoints as they are. On the device d must be a multiple
        /// of 64.
        Half = abi::TTP_ROPE_HALF, "half";
        /// 2i and 2i + 1: query and key weights must be permuted. d must be a multiple of 32.
        Pairs = abi::TTP_ROPE_PAIRS, "pairs";
    }
}

impl Board {
    /// What is known of it without opening it.
    pub fn facts(self) -> &'static BoardFacts {
        // Every variant is one of the ABI's boards, which a test checks.
        boards::board(self.to_abi()).unwrap_or(&boards::BOARDS[0])
    }

    /// Number of chips.
    pub fn chips(self) -> usize {
        self.facts().chips as usize
    }

    /// Whether the last chip is connected to the first.
    pub fn ring(self) -> bool {
        self.facts().ring
    }

    /// The board of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|board| board.to_string() == name)
    }

    /// All names, for messages: `n150, n300, ...`, each behind `prefix`.
    pub fn names(prefix: &str) -> String {
        let names: Vec<String> = Self::ALL.iter().map(|board| format!("{prefix}{board}")).collect();
        names.join(", ")
    }
}

impl Format {
    /// Bytes of a row-major element; `None` for block formats, which exist only in tiles.
    pub fn element_bytes(self) -> Option<usize> {
        match self {
            Self::F32 | Self::U32 | Self::I32 => Some(4),
            Self::Bf16 => Some(2),
            Self::U8 => Some(1),
            Self::Bfp8B | Self::Bfp4B => None,
        }
    }

    /// Bytes of a 32x32 tile.
    pub fn tile_bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 | Self::I32 => 4096,
            Self::Bf16 => 2048,
            Self::Bfp8B => 1088,
            Self::Bfp4B => 576,
            Self::U8 => 1024,
        }
    }
}

/// Arithmetic of an operation. Always explicit: TT-NN defaults to LoFi and a bf16 destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compute {
    /// Passes of a matmul.
    pub fidelity: Fidelity,
    /// Accumulate in float32; otherwise the running sum is rounded to bf16 every 16 products.
    pub fp32_dest: bool,
    /// Fast approximate functions (exp, gelu).
    pub approximate: bool,
}

impl Default for Compute {
    /// Exact products of bf16, float32 sums, exact functions.
    fn default() -> Self {
        Self { fidelity: Fidelity::HiFi4, fp32_dest: true, approximate: false }
    }
}

impl Compute {
    /// Two passes with float32 sums: all of the weights, 7 significant bits of the activations.
    /// Half the time of HiFi4.
    pub const HIFI2: Self = Self { fidelity: Fidelity::HiFi2, fp32_dest: true, approximate: false };

    pub(crate) fn to_abi(self) -> abi::Compute {
        abi::Compute {
            fidelity: self.fidelity.to_abi(),
            fp32_dest: u32::from(self.fp32_dest),
            approx: u32::from(self.approximate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_has_its_own_facts() {
        for board in Board::ALL {
            assert_eq!(board.facts().id, board.to_abi());
            assert_eq!(board.facts().name, board.to_string());
            assert_eq!(Board::named(&board.to_string()), Some(*board));
        }
        assert_eq!(Board::ALL.len(), boards::BOARDS.len());
        assert_eq!(Board::named("N300"), None);
    }
}
