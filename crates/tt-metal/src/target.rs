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

/// Environment variable with the path of a provider library, simulated or for silicon.
pub const PROVIDER_VARIABLE: &str = "OPENVLA_TT_PROVIDER";

impl ProviderKind {
    /// Kind, file and remedy, for searching and for the error text.
    fn facts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Simulated => {
                ("simulated", "libtt_mesh_sim.so", "run `cargo build -p tt-mesh-sim`")
            }
            Self::Silicon => (
                "silicon",
                "libtt_provider_ttnn.so",
                "build crates/tt-metal-sys/shim where tt-metal is installed (docs/silicon.md)",
            ),
        }
    }
}

/// The provider library: the one named in [`PROVIDER_VARIABLE`], or the one beside the program, in
/// its `deps` folder (cargo) or in `../lib`, `../../lib` (installed). It is not loaded.
pub fn find_provider_library(kind: ProviderKind) -> Result<PathBuf> {
    let (name, file, remedy) = kind.facts();
    if let Some(path) = std::env::var_os(PROVIDER_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
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
    let found = folders.iter().map(|folder| folder.join(file)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let places = folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        Error::NoProvider { kind: name, file, places, remedy, variable: PROVIDER_VARIABLE }
    })
}

/// Loads the library of [`find_provider_library`].
pub fn find_provider(kind: ProviderKind) -> Result<Provider> {
    let path = find_provider_library(kind)?;
    let named = std::env::var_os(PROVIDER_VARIABLE).is_some_and(|path| !path.is_empty());
    Provider::open(&path).map_err(|source| match named {
        true => Error::NamedProvider { variable: PROVIDER_VARIABLE, source },
        false => Error::from(source),
    })
}
