//! Precision policies of the CPU: a number format of the linear layers of each role.
//!
//! A policy is a YAML file (`config/precision/cpu_int8.yaml`); three are built in under their
//! names.

use serde::Deserialize;

use crate::backend::WeightRole;
use crate::backend::precision::{PrecisionError, read_file};

/// The built-in policy `int8`.
const INT8: &str = include_str!("../../../../../config/precision/cpu_int8.yaml");

/// Number format of linear layers on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuFormat {
    /// float32 arithmetic; weights keep their exact values.
    #[default]
    F32,
    /// bf16 weights, activations rounded to bf16, float32 sums.
    Bf16,
    /// int8 weights with a factor per output, activations quantised to int8 row by row, exact sums.
    Int8,
}

impl CpuFormat {
    /// Its name in policies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// Precision policy of the CPU. Norms, softmax, attention, embeddings, KV cache and the residual
/// stream are float32 in all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuPrecision {
    /// Its name, for reports.
    pub name: String,
    /// Towers.
    pub vision: CpuFormat,
    /// Projector.
    pub projector: CpuFormat,
    /// Query, key, value and output projections.
    pub attention: CpuFormat,
    /// Gate, up and down projections.
    pub mlp: CpuFormat,
    /// Output head.
    pub head: CpuFormat,
}

/// A policy's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    weights: Weights,
}

/// Its formats by role.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weights {
    vision: CpuFormat,
    projector: CpuFormat,
    attention: CpuFormat,
    mlp: CpuFormat,
    head: CpuFormat,
}

impl CpuPrecision {
    /// Names of the built-in policies.
    pub const BUILT_IN: [&str; 3] = ["f32", "bf16", "int8"];

    /// A built-in policy by its name, or one from a YAML file.
    ///
    /// # Errors
    /// When there is no such policy or its text is not one; one line.
    pub fn load(name_or_file: &str) -> Result<Self, PrecisionError> {
        match name_or_file {
            "f32" => Ok(Self::uniform(CpuFormat::F32)),
            "bf16" => Ok(Self::uniform(CpuFormat::Bf16)),
            "int8" => Self::parse("int8", INT8),
            other => match read_file(other)? {
                Some(text) => Self::parse(other, &text),
                None => Err(PrecisionError::Unknown(other.to_owned())),
            },
        }
    }

    /// Parses a policy's YAML text.
    ///
    /// # Errors
    /// When the text is not a format for each role.
    pub fn parse(name: &str, text: &str) -> Result<Self, PrecisionError> {
        let mut options = serde_saphyr::Options::default();
        options.with_snippet = false; // one line
        let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let problem = error.to_string().replace(char::is_control, " ");
            PrecisionError::Cpu { name: name.to_owned(), problem }
        })?;
        let Weights { vision, projector, attention, mlp, head } = file.weights;
        Ok(Self { name: name.to_owned(), vision, projector, attention, mlp, head })
    }

    /// All linear layers in one format.
    #[must_use]
    pub fn uniform(format: CpuFormat) -> Self {
        let name = format.name().to_owned();
        Self {
            name,
            vision: format,
            projector: format,
            attention: format,
            mlp: format,
            head: format,
        }
    }

    /// Format of a role's linear layers. An embedding table is not multiplied: it stays as stored.
    #[must_use]
    pub fn of(&self, role: WeightRole) -> CpuFormat {
        match role {
            WeightRole::Vision => self.vision,
            WeightRole::Projector => self.projector,
            WeightRole::Attention => self.attention,
            WeightRole::Mlp => self.mlp,
            WeightRole::Embedding => CpuFormat::F32,
            WeightRole::Head => self.head,
        }
    }

    /// Format of the patch embedding: 1 % of a tower's work, and the first rounding of all.
    pub(super) fn of_pixels(&self) -> CpuFormat {
        match self.vision {
            CpuFormat::Int8 => CpuFormat::Bf16,
            other => other,
        }
    }

    /// In words, for logs: one format, or those of the roles.
    pub(super) fn in_words(&self) -> String {
        let roles = [
            ("vision", self.vision),
            ("projector", self.projector),
            ("attention", self.attention),
            ("mlp", self.mlp),
            ("head", self.head),
        ];
        let [(_, first), ..] = roles;
        if roles.iter().all(|(_, format)| *format == first) {
            return match first {
                CpuFormat::F32 => "f32 arithmetic".into(),
                other => format!("{} products", other.name()),
            };
        }
        let words = roles.map(|(role, format)| format!("{role} {}", format.name()));
        format!("products: {}", words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn built_in_policies_are_complete() {
        for name in CpuPrecision::BUILT_IN {
            assert_eq!(CpuPrecision::load(name).unwrap().name, name);
        }
        let int8 = CpuPrecision::load("int8").unwrap();
        assert_eq!((int8.mlp, int8.head), (CpuFormat::Int8, CpuFormat::Bf16));
        assert_eq!(int8.of(WeightRole::Embedding), CpuFormat::F32);
        assert!(int8.in_words().contains("head bf16"), "{}", int8.in_words());
        assert_eq!(CpuPrecision::load("bf16").unwrap().in_words(), "bf16 products");
        assert_eq!(CpuPrecision::default().in_words(), "f32 arithmetic");
    }

    #[test]
    fn invalid_text_is_refused_in_one_line() {
        let refused = |text: &str, part: &str| {
            let error = CpuPrecision::parse("mine.yaml", text).unwrap_err().to_string();
            assert!(!error.contains('\n') && error.contains(part), "{error}");
            assert!(error.contains("mine.yaml") && error.contains("cpu_int8.yaml"), "{error}");
        };
        refused(&INT8.replace("mlp: int8", "mlp: int4"), "int4");
        refused(&INT8.replace("mlp: int8", "mpl: int8"), "mpl");
        refused(&INT8.replace("  mlp: int8\n", ""), "mlp");
        refused("", "");
        refused("weights: [a, &b c, *b]", "");
        // A policy of a mesh.
        refused(include_str!("../../../../../config/precision/mixed.yaml"), "");
        assert!(matches!(CpuPrecision::load("fp8"), Err(PrecisionError::Unknown(_))));
        assert!(matches!(CpuPrecision::load("none.yaml"), Err(PrecisionError::File { .. })));
    }
}
