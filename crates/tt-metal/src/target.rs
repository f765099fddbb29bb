//! Device names and the search for the provider library of a device.

use std::path::PathBuf;
use std::str::FromStr;

use tt_metal_sys::Provider;

use crate::{Board, Error, Result};

/// Kind of provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderKind {
    /// Simulated chips.
    Simulated,
    /// TT-NN on silicon.
    Silicon,
}

/// A device name such as `sim:n300` or `tt:t3k`: kind of provider and board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Kind of provider.
    pub provider: ProviderKind,
    /// Board.
    pub board: Board,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Target { text: text.into(), known: Self::names() };
        let (provider, board) = text.split_once(':').ok_or_else(bad)?;
        let provider = match provider {
            "sim" => ProviderKind::Simulated,
            "tt" => ProviderKind::Silicon,
            _ => return Err(bad()),
        };
        let board = Board::named(board).ok_or_else(bad)?;
        Ok(Self { provider, board })
    }
}

impl Target {
    /// All names, for messages.
    pub fn names() -> String {
        format!("{}, {}", Board::names("sim:"), Board::names("tt:"))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let provider = match self.provider {
            ProviderKind::Simulated => "sim",
            ProviderKind::Silicon => "tt",
        };
        write!(f, "{provider}:{}", self.board)
    }
}

impl ProviderKind {
    /// Kind, file, remedy and variable, for searching and for the error text.
    fn facts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Simulated => (
                "simulated",
                "libtt_mesh_sim.so",
                "run `cargo build -p tt-mesh-sim`",
                "TT_MESH_SIM_LIBRARY",
            ),
            Self::Silicon => (
                "silicon",
                "libtt_provider_ttnn.so",
                "build crates/tt-metal-sys/shim where tt-metal is installed",
                "TT_PROVIDER_LIBRARY",
            ),
        }
    }
}

/// Loads the provider named in `TT_MESH_SIM_LIBRARY` / `TT_PROVIDER_LIBRARY`, or the one beside the
/// program, in its `deps` folder (cargo) or in `../lib`, `../openvla_tt` beside it (installed).
pub fn find_provider(kind: ProviderKind) -> Result<Provider> {
    let (name, file, remedy, variable) = kind.facts();
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return Ok(Provider::open(&PathBuf::from(path))?);
    }
    let program = std::env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from));
    let folders: Vec<PathBuf> = program.map_or_else(Vec::new, |folder| {
        vec![
            folder.clone(),
            folder.join("deps"),
            folder.join("../deps"),
            folder.join("../lib"),
            folder.join("../../lib"),
        ]
    });
    match folders.iter().map(|folder| folder.join(file)).find(|path| path.is_file()) {
        Some(path) => Ok(Provider::open(&path)?),
        None => {
            let places = folders
                .iter()
                .map(|folder| folder.display().to_string())
                .collect::<Vec<_>>()
                .join(", ");
            Err(Error::NoProvider { kind: name, file, places, remedy, variable })
        }
    }
}
