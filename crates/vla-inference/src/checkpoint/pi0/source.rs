//! Where a checkpoint is, and what its files do not say.

use std::path::PathBuf;

use super::mapping::ActionMapping;

/// How an image becomes the tower's input. The three codes in use agree at the tower's own size
/// only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Resize {
    /// LeRobot: bilinear in float32 without antialiasing, padded.
    TorchBilinearPad,
    /// openpi's client: Pillow's bilinear on bytes, with antialiasing, padded.
    PilBilinearPad,
}

/// How pi0.5's prompt holds the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum StateTokens {
    /// One number per dimension of the state.
    Exact,
    /// Padded with normalised zeros to the model's width, as LeRobot did until about 0.4.
    Padded,
    /// No state, and the prompt of pi0 (openpi's `discrete_state_input=False`).
    None,
}

impl std::str::FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "torch_bilinear_pad" => Ok(Self::TorchBilinearPad),
            "pil_bilinear_pad" => Ok(Self::PilBilinearPad),
            other => Err(format!(
                "resize is '{other}'; use torch_bilinear_pad (LeRobot) or pil_bilinear_pad (openpi)"
            )),
        }
    }
}

impl std::str::FromStr for StateTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exact" => Ok(Self::Exact),
            "padded" => Ok(Self::Padded),
            "none" => Ok(Self::None),
            other => Err(format!("state_tokens is '{other}'; use exact, padded or none")),
        }
    }
}

/// Where a checkpoint is, and what its files do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pi0Source {
    /// The folder.
    pub folder: PathBuf,
    /// A tokenizer file, or a folder with one; `None` searches the checkpoint's folder and beside
    /// it.
    pub tokenizer: Option<PathBuf>,
    /// A norm_stats.json that replaces the checkpoint's statistics, or gives a base checkpoint
    /// some.
    pub statistics: Option<PathBuf>,
    /// Resizing, where it is not that of the code that wrote the folder.
    pub resize: Option<Resize>,
    /// State in the prompt of pi0.5; openpi's files do not say.
    pub state_tokens: Option<StateTokens>,
    /// Steps of a chunk, for openpi's files without `action_horizon`.
    pub horizon: Option<usize>,
    /// What the action's numbers are; openpi's files do not say, LeRobot's do.
    pub actions: Option<ActionMapping>,
}
