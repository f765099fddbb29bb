//! Entry points of the fuzz targets for checkpoint files. `tests/fuzz_smoke.rs` includes this file
//! and drives the same functions with seeded mutations on stable Rust.
//!
//! Beyond not panicking: accepted input must satisfy the invariants of its type, and a refusal must
//! be one line. Each function returns whether it accepted its input, so that a test can require
//! both outcomes.

use std::path::Path;

use vla_inference::checkpoint::{
    CheckpointError, NormStats, OpenVlaConfig, PreprocessorConfig, SpecialTokens, Tokenizer,
    WeightIndex, header_length, parse_header, parse_torch, parse_torch_pickle,
};
use vla_inference::policy::Instruction;

/// Longest error line, bytes: excerpts of foreign text are cut.
const LONGEST_LINE: usize = 65_536;

fn check_line(error: &CheckpointError) -> bool {
    check_text(&error.to_string())
}

/// Refused, in one line.
pub fn check_text(line: &str) -> bool {
    assert!(line.len() <= LONGEST_LINE, "an error of {} bytes", line.len());
    assert!(
        !line.chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}'),
        "not one line: {line:?}"
    );
    false
}

/// The bytes as a whole safetensors file.
pub fn fuzz_safetensors_header(bytes: &[u8]) -> bool {
    let entries = match parse_header(bytes) {
        Err(problem) => return check_text(&problem.to_string()),
        Ok(entries) => entries,
    };
    let mut end = 8 + header_length(bytes).expect("it was just accepted");
    // A second reading of the same JSON, by neither our visitor nor the safetensors crate.
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..end]).expect("accepted JSON");
    let mut listed = json.as_object().expect("accepted an object").clone();
    listed.remove("__metadata__");
    assert_eq!(listed.len(), entries.len());
    let start = end;
    for entry in &entries {
        assert_eq!(entry.range.start, end, "{} overlaps or leaves a hole", entry.name);
        end = entry.range.end;
        let bits = entry.shape.iter().product::<usize>() * entry.dtype.bitsize();
        assert_eq!(entry.range.len() * 8, bits);
        let expected = serde_json::json!({
            "dtype": entry.dtype.to_string(),
            "shape": entry.shape,
            "data_offsets": [entry.range.start - start, entry.range.end - start],
        });
        assert_eq!(listed[&entry.name], expected);
    }
    assert_eq!(end, bytes.len());
    true
}

/// The bytes as a whole `.pt` file.
pub fn fuzz_torch_file(bytes: &[u8]) -> bool {
    let entries = match parse_torch(bytes) {
        Err(problem) => return check_text(&problem.to_string()),
        Ok(entries) => entries,
    };
    for pair in entries.windows(2) {
        assert!(pair[0].name < pair[1].name, "names out of order or twice");
    }
    for entry in &entries {
        let elements = entry.shape.iter().product::<usize>();
        assert_eq!(entry.range.len() * 8, elements * entry.dtype.bitsize());
        assert!(entry.range.end <= bytes.len(), "{} leaves the file", entry.name);
    }
    true
}

/// The bytes as the pickle in a `.pt` file.
pub fn fuzz_torch_pickle(bytes: &[u8]) -> bool {
    match parse_torch_pickle(bytes) {
        Err(problem) => check_text(&problem.to_string()),
        Ok(tensors) => {
            // Each needs more than a name's bytes: nothing is made out of nothing.
            assert!(tensors.len() * 4 <= bytes.len());
            assert!(
                tensors.iter().all(|(name, shape)| name.len() < bytes.len() && shape.len() < 9)
            );
            true
        }
    }
}

/// The bytes as model.safetensors.index.json.
pub fn fuzz_index_json(bytes: &[u8]) -> bool {
    match WeightIndex::from_json(Path::new("model.safetensors.index.json"), bytes) {
        Err(error) => check_line(&error),
        Ok(index) => {
            for file in index.files() {
                let path = Path::new("folder").join(file);
                assert_eq!(path.parent(), Some(Path::new("folder")), "{file:?} leaves the folder");
                assert_ne!(path.file_name(), None);
            }
            true
        }
    }
}

/// The bytes as config.json: the model and its statistics.
pub fn fuzz_config_json(bytes: &[u8]) -> bool {
    let path = Path::new("config.json");
    let accepted = match OpenVlaConfig::from_json(path, bytes) {
        Err(error) => check_line(&error),
        Ok(config) => {
            let llama = &config.llama;
            assert_eq!(llama.head_dim * llama.num_attention_heads, llama.hidden_size);
            assert!(
                llama.head_dim % 2 == 0
                    && llama.num_attention_heads % llama.num_key_value_heads == 0
            );
            assert!(llama.rope_theta.is_finite() && llama.rms_norm_eps > 0.0);
            assert!(
                config.action_token_end <= llama.vocab_size
                    && config.action_bins < config.action_token_end
            );
            assert!(config.patches() > 0 && config.patches() < llama.max_position_embeddings);
            for tower in &config.towers {
                assert!(
                    tower.head_dim() * tower.num_heads == tower.embed_dim
                        && tower.used_blocks() >= 1
                        && tower.mlp_hidden > 0
                );
            }
            // Bounded dimensions: their products are far from overflowing.
            let parameters: u64 =
                config.expected_tensors().iter().map(|tensor| tensor.parameters()).sum();
            assert!(parameters > 0);
            true
        }
    };
    match NormStats::from_config_json(path, bytes) {
        Err(error) => check_line(&error),
        Ok(stats) => accepted && check_stats(&stats),
    }
}

/// The bytes as dataset_statistics.json.
pub fn fuzz_statistics_json(bytes: &[u8]) -> bool {
    match NormStats::from_statistics_json(Path::new("dataset_statistics.json"), bytes) {
        Err(error) => check_line(&error),
        Ok(stats) => check_stats(&stats),
    }
}

fn check_stats(stats: &NormStats) -> bool {
    for (key, entry) in stats.entries() {
        match entry {
            Err(error) => drop(check_line(error)),
            Ok(stats) => {
                assert!(
                    stats.dim() > 0
                        && stats.q99.len() == stats.dim()
                        && stats.mask.len() == stats.dim()
                );
                assert!(
                    stats
                        .q01
                        .iter()
                        .zip(&stats.q99)
                        .all(|(a, b)| a.is_finite() && b.is_finite() && a <= b)
                );
            }
        }
        assert!(key.is_empty() || stats.select(Some(key)).is_ok() == entry.is_ok());
    }
    for absent in [None, Some("no such key, surely")] {
        if let Err(error) = stats.select(absent) {
            check_line(&error);
        }
    }
    true
}

/// The bytes as preprocessor_config.json.
pub fn fuzz_preprocessor_json(bytes: &[u8]) -> bool {
    match PreprocessorConfig::from_json(Path::new("preprocessor_config.json"), bytes) {
        Err(error) => check_line(&error),
        Ok(preprocessor) => check_preprocessor(&preprocessor),
    }
}

fn check_preprocessor(preprocessor: &PreprocessorConfig) -> bool {
    assert!(matches!(preprocessor.towers.len(), 1 | 2));
    for tower in &preprocessor.towers {
        assert!(tower.size > 0 && tower.std.iter().all(|value| *value > 0.0));
        assert!(tower.mean.iter().all(|value| value.is_finite()));
    }
    true
}

/// The bytes as processor_config.json, in which transformers 5 keeps the preprocessing.
pub fn fuzz_processor_json(bytes: &[u8]) -> bool {
    match PreprocessorConfig::from_processor_json(Path::new("processor_config.json"), bytes) {
        Err(error) => check_line(&error),
        Ok(None) => false,
        Ok(Some(preprocessor)) => check_preprocessor(&preprocessor),
    }
}

/// The bytes as tokenizer_config.json.
pub fn fuzz_tokenizer_config_json(bytes: &[u8]) -> bool {
    match SpecialTokens::from_json(Path::new("tokenizer_config.json"), bytes) {
        Err(error) => check_line(&error),
        Ok(tokens) => {
            for token in [tokens.bos, tokens.eos].iter().flatten() {
                assert!(!token.is_empty() && token.len() <= bytes.len());
            }
            true
        }
    }
}

/// The bytes as an instruction.
pub fn fuzz_instruction(bytes: &[u8]) -> bool {
    match Instruction::read(&String::from_utf8_lossy(bytes)) {
        Err(error) => check_text(&error.to_string()),
        Ok((instruction, remarks)) => {
            let given = instruction.as_given();
            assert!(!given.is_empty() && given.trim() == given);
            assert!(!given.chars().any(char::is_control));
            let question = "what action should the robot take to";
            assert!(!given.to_ascii_lowercase().contains(question), "{given:?}");
            assert_eq!(Instruction::new(given).as_ref(), Ok(&instruction), "not idempotent");
            for remark in remarks {
                check_text(&remark.to_string());
            }
            true
        }
    }
}

/// The bytes as tokenizer.json, and a text through it.
pub fn fuzz_tokenizer_json(bytes: &[u8]) -> bool {
    match Tokenizer::from_json(Path::new("tokenizer.json"), bytes) {
        Err(error) => check_line(&error),
        Ok(tokenizer) => {
            if let Err(error) = tokenizer.encode("pick up the café 🍎\n</s>") {
                check_line(&error);
            }
            assert!(
                tokenizer
                    .encode(&"x".repeat(vla_inference::checkpoint::MAX_TEXT_BYTES + 1))
                    .is_err()
            );
            true
        }
    }
}
