//! Precision policies: a number format and a math fidelity per weight role, and the formats of
//! activations, KV cache and collectives.
//!
//! A policy is a YAML file (`config/precision/`); three are built in under their names.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::WeightRole;

/// Largest policy file, bytes.
const MAX_BYTES: u64 = 64 << 10;

/// A number format of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NumberFormat {
    /// IEEE single precision.
    F32,
    /// bfloat16: the upper half of a float32.
    Bf16,
    /// Block float: 16 neighbours of a row share an exponent; sign and 7 magnitude bits each.
    Bfp8B,
    /// Block float like [`NumberFormat::Bfp8B`], with 3 magnitude bits.
    Bfp4B,
}

impl NumberFormat {
    /// Bytes per element of a 32x32 tile, shared exponents included.
    #[must_use]
    pub fn bytes(self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::Bf16 => 2.0,
            Self::Bfp8B => 1.0625,
            Self::Bfp4B => 0.5625,
        }
    }

    /// Its name in policies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Bfp8B => "bfp8_b",
            Self::Bfp4B => "bfp4_b",
        }
    }
}

/// Math fidelity: the passes of a matmul, and thereby the mantissa bits of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MathFidelity {
    /// One pass: 5 bits of the weights, 7 of the activations.
    LoFi,
    /// Two: all of the weights, 7 bits of the activations.
    HiFi2,
    /// Three: all but the lowest bits of both.
    HiFi3,
    /// Four: exact products of bf16.
    HiFi4,
}

impl MathFidelity {
    /// Passes over the operands; time grows with them.
    #[must_use]
    pub fn passes(self) -> u32 {
        match self {
            Self::LoFi => 1,
            Self::HiFi2 => 2,
            Self::HiFi3 => 3,
            Self::HiFi4 => 4,
        }
    }

    /// Its name in policies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LoFi => "lofi",
            Self::HiFi2 => "hifi2",
            Self::HiFi3 => "hifi3",
            Self::HiFi4 => "hifi4",
        }
    }
}

/// Precision of the weights of one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightPrecision {
    /// Format in device memory.
    pub format: NumberFormat,
    /// Math fidelity of its matmuls.
    pub fidelity: MathFidelity,
}

/// A precision policy of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrecisionPolicy {
    /// Its name, for reports.
    pub name: String,
    /// Towers.
    pub vision: WeightPrecision,
    /// Projector.
    pub projector: WeightPrecision,
    /// Query, key, value and output projections.
    pub attention: WeightPrecision,
    /// Gate, up and down projections.
    pub mlp: WeightPrecision,
    /// Output head; its logits are always float32.
    pub head: WeightPrecision,
    /// Residual stream.
    pub stream: NumberFormat,
    /// Inside the MLPs.
    pub hidden: NumberFormat,
    /// Fidelity of the products inside attention.
    pub attention_math: MathFidelity,
    /// Keys and values.
    pub cache: NumberFormat,
    /// Partial sums of an all-reduce.
    pub collectives: NumberFormat,
    /// Accumulate in float32; otherwise the running sum is rounded to bf16 every 16 products.
    pub fp32_accumulation: bool,
    /// Shard towers and projector over the chips instead of replicating them.
    pub split_vision: bool,
}

/// An invalid policy; one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrecisionError {
    /// Neither a shipped name nor a file.
    #[error(
        "precision '{0}' is not known; on a mesh use bf16, mixed, bfp8 or a YAML file, on the CPU \
        f32, bf16, int8 or a YAML file"
    )]
    Unknown(String),
    /// The file cannot be read.
    #[error("precision file {}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// All problems of the file.
    #[error(
        "precision '{name}': {}; see config/precision/mixed.yaml for a complete one",
        problems.join("; ")
    )]
    Invalid {
        /// Name or file.
        name: String,
        /// Each problem.
        problems: Vec<String>,
    },
    /// A file that is no policy of the CPU.
    #[error("precision '{name}': {problem}; see config/precision/cpu_int8.yaml for a complete one")]
    Cpu {
        /// Name or file.
        name: String,
        /// What is wrong and where.
        problem: String,
    },
}

/// Text of a policy file; `None` when the name is not that of a YAML file.
///
/// # Errors
/// When the file is too large or cannot be read.
pub(crate) fn read_file(name: &str) -> Result<Option<String>, PrecisionError> {
    let path = Path::new(name);
    if !path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
        return Ok(None);
    }
    let failed = |reason: String| PrecisionError::File { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_BYTES {
        return Err(failed(format!("{size} bytes; a policy has at most {MAX_BYTES}")));
    }
    std::fs::read_to_string(path).map(Some).map_err(|error| failed(error.to_string()))
}

/// Built-in policies by name.
const SHIPPED: [(&str, &str); 3] = [
    ("bf16", include_str!("../../../../config/precision/bf16.yaml")),
    ("mixed", include_str!("../../../../config/precision/mixed.yaml")),
    ("bfp8", include_str!("../../../../config/precision/bfp8.yaml")),
];

impl PrecisionPolicy {
    /// Names of the built-in policies.
    #[must_use]
    pub fn shipped() -> [&'static str; 3] {
        SHIPPED.map(|(name, _)| name)
    }

    /// A built-in policy by its name, or one from a YAML file.
    ///
    /// # Errors
    /// When there is no such policy; lists every problem of its text.
    pub fn load(name_or_file: &str) -> Result<Self, PrecisionError> {
        if let Some((name, text)) = SHIPPED.iter().find(|(name, _)| *name == name_or_file) {
            return Self::parse(name, text);
        }
        match read_file(name_or_file)? {
            Some(text) => Self::parse(name_or_file, &text),
            None => Err(PrecisionError::Unknown(name_or_file.to_owned())),
        }
    }

    /// Parses a policy's YAML text.
    ///
    /// # Errors
    /// Lists every problem of the text.
    pub fn parse(name: &str, text: &str) -> Result<Self, PrecisionError> {
        let invalid = |problems| PrecisionError::Invalid { name: name.to_owned(), problems };
        let mut options = serde_saphyr::Options::default();
        options.with_snippet = false; // one line
        let value: Value = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| invalid(vec![error.to_string().replace('\n', " ")]))?;
        let Value::Mapping(mapping) = value else {
            return Err(invalid(vec!["not a mapping of names to values".into()]));
        };
        let mut reader = Reader { problems: Vec::new() };
        let policy = reader.policy(name, &mapping);
        if reader.problems.is_empty() { Ok(policy) } else { Err(invalid(reader.problems)) }
    }

    /// Precision of a role's weights.
    #[must_use]
    pub fn weight(&self, role: WeightRole) -> WeightPrecision {
        match role {
            WeightRole::Vision => self.vision,
            WeightRole::Projector => self.projector,
            WeightRole::Attention => self.attention,
            WeightRole::Mlp => self.mlp,
            // TT-NN's embedding reads bf16 rows only.
            WeightRole::Embedding => {
                WeightPrecision { format: NumberFormat::Bf16, fidelity: MathFidelity::HiFi4 }
            }
            WeightRole::Head => self.head,
        }
    }
}

type Mapping = BTreeMap<String, Value>;

/// A YAML value, as far as a policy has such.
#[derive(Clone)]
enum Value {
    Bool(bool),
    String(String),
    Mapping(Mapping),
    /// What no policy has, as text.
    Other(String),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Other(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Other(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Other(value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other("empty".into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other("a list".into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut mapping = Mapping::new();
        while let Some((key, value)) = entries.next_entry()? {
            mapping.insert(key, value);
        }
        Ok(Value::Mapping(mapping))
    }
}

/// Reads a mapping and notes every problem.
struct Reader {
    problems: Vec<String>,
}

use NumberFormat::{Bf16, Bfp4B, Bfp8B, F32};

impl Reader {
    fn policy(&mut self, name: &str, root: &Mapping) -> PrecisionPolicy {
        self.only(
            root,
            "",
            &[
                "weights",
                "activations",
                "attention_math",
                "cache",
                "collectives",
                "fp32_accumulation",
                "vision",
            ],
        );
        let weights = self.section(root, "weights");
        let roles = ["vision", "projector", "attention", "mlp", "embedding", "head"];
        self.only(&weights, "weights.", &roles);
        let activations = self.section(root, "activations");
        self.only(&activations, "activations.", &["stream", "hidden"]);
        let embedding = self.mapping_at(&weights, "embedding", "weights.");
        self.only(&embedding, "weights.embedding.", &["format"]);
        self.format(&embedding, "weights.embedding.", "format", &[Bf16]);
        let mut weight = |role| self.weight(&weights, role);
        let [vision, projector, attention, mlp, head] =
            ["vision", "projector", "attention", "mlp", "head"].map(&mut weight);
        PrecisionPolicy {
            name: name.to_owned(),
            vision,
            projector,
            attention,
            mlp,
            head,
            stream: self.format(&activations, "activations.", "stream", &[F32, Bf16]),
            hidden: self.format(&activations, "activations.", "hidden", &[F32, Bf16, Bfp8B]),
            attention_math: self.fidelity(root, "", "attention_math"),
            cache: self.format(root, "", "cache", &[Bf16, Bfp8B]),
            collectives: self.format(root, "", "collectives", &[F32, Bf16, Bfp8B]),
            fp32_accumulation: self.flag(root, "fp32_accumulation"),
            split_vision: self.choice(root, "", "vision", &["replicated", "split"]) == 1,
        }
    }

    fn weight(&mut self, weights: &Mapping, role: &str) -> WeightPrecision {
        let entry = self.mapping_at(weights, role, "weights.");
        let place = format!("weights.{role}.");
        self.only(&entry, &place, &["format", "fidelity"]);
        WeightPrecision {
            format: self.format(&entry, &place, "format", &[F32, Bf16, Bfp8B, Bfp4B]),
            fidelity: self.fidelity(&entry, &place, "fidelity"),
        }
    }

    fn only(&mut self, mapping: &Mapping, place: &str, known: &[&str]) {
        for key in mapping.keys() {
            let key = shortened(key);
            if !known.contains(&key.as_str()) {
                self.problems
                    .push(format!("{place}{key} is not known (known: {})", known.join(", ")));
            }
        }
    }

    fn section(&mut self, root: &Mapping, key: &str) -> Mapping {
        self.mapping_at(root, key, "")
    }

    fn mapping_at(&mut self, mapping: &Mapping, key: &str, place: &str) -> Mapping {
        match mapping.get(key) {
            Some(Value::Mapping(inner)) => inner.clone(),
            Some(_) => {
                self.problems.push(format!("{place}{key} is not a mapping"));
                Mapping::new()
            }
            None => {
                self.problems.push(format!("{place}{key} is missing"));
                Mapping::new()
            }
        }
    }

    /// Index of the value among the names; 0 after a problem.
    fn choice(&mut self, mapping: &Mapping, place: &str, key: &str, names: &[&str]) -> usize {
        let text = match mapping.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(Value::Mapping(_)) => "a mapping".into(),
            Some(Value::Other(text)) => text.clone(),
            // An entry that is missing as a whole was named already.
            None if mapping.is_empty() && !place.is_empty() => return 0,
            None => {
                self.problems.push(format!("{place}{key} is missing"));
                return 0;
            }
        };
        names.iter().position(|name| *name == text).unwrap_or_else(|| {
            self.problems.push(format!(
                "{place}{key} is '{}', not one of {}",
                shortened(&text),
                names.join(", ")
            ));
            0
        })
    }

    fn format(
        &mut self,
        mapping: &Mapping,
        place: &str,
        key: &str,
        formats: &[NumberFormat],
    ) -> NumberFormat {
        let names: Vec<&str> = formats.iter().map(|format| format.name()).collect();
        let index = self.choice(mapping, place, key, &names);
        formats.get(index).copied().unwrap_or(Bf16)
    }

    fn fidelity(&mut self, mapping: &Mapping, place: &str, key: &str) -> MathFidelity {
        const ALL: [MathFidelity; 4] =
            [MathFidelity::LoFi, MathFidelity::HiFi2, MathFidelity::HiFi3, MathFidelity::HiFi4];
        let index = self.choice(mapping, place, key, &ALL.map(MathFidelity::name));
        ALL.get(index).copied().unwrap_or(MathFidelity::HiFi4)
    }

    fn flag(&mut self, mapping: &Mapping, key: &str) -> bool {
        match mapping.get(key) {
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.problems.push(format!("{key} is neither true nor false"));
                true
            }
            None => {
                self.problems.push(format!("{key} is missing"));
                true
            }
        }
    }
}

/// A text of the user, shortened to fit one line.
fn shortened(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn built_in_policies_are_complete() {
        let [bf16, mixed, bfp8] =
            PrecisionPolicy::shipped().map(|name| PrecisionPolicy::load(name).unwrap());
        for role in [WeightRole::Vision, WeightRole::Attention, WeightRole::Mlp, WeightRole::Head] {
            assert_eq!(bf16.weight(role).format, Bf16);
            assert_eq!(bf16.weight(role).fidelity, MathFidelity::HiFi4);
        }
        assert_eq!(
            (mixed.mlp.format, mixed.attention.format, mixed.head.format),
            (Bfp8B, Bf16, Bf16)
        );
        assert_eq!((bfp8.mlp.format, bfp8.attention.format, bfp8.cache), (Bfp8B, Bfp8B, Bfp8B));
        assert!(
            [bf16, mixed, bfp8]
                .iter()
                .all(|policy| policy.fp32_accumulation && policy.head.format == Bf16)
        );
    }

    #[test]
    fn every_problem_is_named() {
        let text = include_str!("../../../../config/precision/mixed.yaml")
            .replace(
                "mlp: { format: bfp8_b, fidelity: hifi2 }",
                "mlp: { format: fp8, fidelity: 2 }",
            )
            .replace("cache: bf16", "cash: bf16")
            .replace("fp32_accumulation: true", "fp32_accumulation: maybe");
        let Err(PrecisionError::Invalid { problems, .. }) = PrecisionPolicy::parse("mine", &text)
        else {
            unreachable!("it was refused")
        };
        for wanted in [
            "weights.mlp.format is 'fp8', not one of f32, bf16, bfp8_b, bfp4_b",
            "weights.mlp.fidelity is",
            "cash is not known",
            "cache is missing",
            "fp32_accumulation is neither",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(wanted)),
                "{wanted}: {problems:#?}"
            );
        }
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }

    #[test]
    fn invalid_text_is_refused_in_one_line() {
        for text in ["", "[]", "weights: 3", "weights: {mlp: {format: [1]}}", "\u{0}", "a: &a [*a]"]
        {
            let error = PrecisionPolicy::parse("x", text).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(matches!(PrecisionPolicy::load("fp8"), Err(PrecisionError::Unknown(_))));
        assert!(matches!(PrecisionPolicy::load("none.yaml"), Err(PrecisionError::File { .. })));
    }
}
