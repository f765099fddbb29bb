//! The ABI's constants as enums.

use tt_metal_sys as abi;

macro_rules! numbers {
    ($( $(#[$doc:meta])* $name:ident {
        $( $(#[$vdoc:meta])* $variant:ident = $value:path, $text:literal; )*
    } )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $( $(#[$vdoc])* $variant ),* }

        impl $name {
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
        /// One chip.
        N150 = abi::TTP_BOARD_N150, "n150";
        /// Two chips.
        N300 = abi::TTP_BOARD_N300, "n300";
        /// Eight chips in a ring (four N300).
        T3k = abi::TTP_BOARD_T3K, "t3k";
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
    /// Number of chips.
    pub fn chips(self) -> usize {
        match self {
            Self::N150 => 1,
            Self::N300 => 2,
            Self::T3k => 8,
        }
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
