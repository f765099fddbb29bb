//! The language model's half of config.json: `text_config`, with the defaults of Hugging Face's
//! `LlamaConfig` filled in.

use serde_json::{Value, json};

use super::error::CheckpointError;
use super::fields::{Fields, shown};

/// Shape and constants of a Llama decoder.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LlamaConfig {
    /// Rows of the embedding and of the LM head, padding included (32064 in OpenVLA).
    pub vocab_size: usize,
    /// Width of the residual stream (4096).
    pub hidden_size: usize,
    /// Width inside the gated MLP (11008).
    pub intermediate_size: usize,
    /// Decoder layers (32).
    pub num_hidden_layers: usize,
    /// Query heads (32).
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads` (32).
    pub num_key_value_heads: usize,
    /// Width of one head, `hidden_size / num_attention_heads`, even (128).
    pub head_dim: usize,
    /// Epsilon inside the root of RMSNorm (1e-6).
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies (10000).
    pub rope_theta: f64,
    /// Longest sequence, positions (2048).
    pub max_position_embeddings: usize,
}

const REFUSED: &str =
    "this changes the arithmetic and is not implemented; use a checkpoint without it";

impl LlamaConfig {
    /// Reads `text_config`. An absent field has `LlamaConfig`'s default (transformers 4.40), which
    /// is what the published OpenVLA checkpoints rely on; a present one wins.
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self, CheckpointError> {
        refuse_unknown_arithmetic(fields)?;
        let hidden_size = fields.size("hidden_size", 4096, 8, 65_536)?;
        let heads = fields.size("num_attention_heads", 32, 1, 1024)?;
        let kv_heads = fields.size("num_key_value_heads", heads, 1, 1024)?;
        let config = Self {
            vocab_size: fields.size("vocab_size", 32_000, 2, 1 << 20)?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", 11_008, 8, 1 << 19)?,
            num_hidden_layers: fields.size("num_hidden_layers", 32, 1, 512)?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: hidden_size / heads,
            rms_norm_eps: fields.number("rms_norm_eps", 1e-6, 1e-12, 1e-2)?,
            rope_theta: rope_theta(fields)?,
            max_position_embeddings: fields.size("max_position_embeddings", 2048, 1, 1 << 20)?,
        };
        if !hidden_size.is_multiple_of(heads) {
            return Err(fields.error(
                "num_attention_heads",
                heads,
                format!("must divide hidden_size {hidden_size}; correct one of the two"),
            ));
        }
        if !config.head_dim.is_multiple_of(2) {
            let remedy = format!(
                "makes heads {} wide, and rotary embedding needs an even width; correct \
                hidden_size {hidden_size} or the heads",
                config.head_dim
            );
            return Err(fields.error("num_attention_heads", heads, remedy));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(fields.error(
                "num_key_value_heads",
                kv_heads,
                format!("must divide num_attention_heads {heads}; correct one of the two"),
            ));
        }
        let head_dim = fields.size("head_dim", config.head_dim, 1, 65_536)?;
        if head_dim != config.head_dim {
            let remedy = format!(
                "only hidden_size / num_attention_heads = {} is implemented; use a checkpoint \
                with that head width",
                config.head_dim
            );
            return Err(fields.error("head_dim", head_dim, remedy));
        }
        Ok(config)
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// Refuses what other models of the Llama family do and this implementation does not.
fn refuse_unknown_arithmetic(fields: &Fields<'_>) -> Result<(), CheckpointError> {
    fields.only(
        "model_type",
        &json!("llama"),
        "only Llama language models are implemented; use an OpenVLA checkpoint on Llama or Vicuna",
    )?;
    fields.only("hidden_act", &json!("silu"), REFUSED)?;
    fields.only("attention_bias", &json!(false), REFUSED)?;
    fields.only("mlp_bias", &json!(false), REFUSED)?;
    fields.only(
        "tie_word_embeddings",
        &json!(false),
        "a head tied to the embedding is not implemented for OpenVLA; save the checkpoint untied",
    )?;
    fields.only("rope_scaling", &Value::Null, REFUSED)?;
    fields.only("sliding_window", &Value::Null, REFUSED)?;
    fields.only("partial_rotary_factor", &json!(1.0), REFUSED)?;
    fields.only(
        "quantization_config",
        &Value::Null,
        "quantised weights are not read; use the bfloat16 checkpoint",
    )?;
    // Splits each product into slices that are summed: the same arithmetic up to rounding, but only
    // 1 has been verified.
    fields.only("pretraining_tp", &json!(1), REFUSED)
}

/// `rope_theta`, or the same inside transformers 5's `rope_parameters`.
fn rope_theta(fields: &Fields<'_>) -> Result<f64, CheckpointError> {
    let plain = fields.number("rope_theta", 10_000.0, 1.0, 1e12)?;
    let Some(parameters) = fields.object("rope_parameters")? else { return Ok(plain) };
    let prefix = format!("{}rope_parameters.", fields.prefix);
    let inner = Fields::new(fields.path, &prefix, parameters);
    for (name, value) in parameters {
        match name.as_str() {
            "rope_theta" => {}
            "rope_type" | "type" => inner.only(name, &json!("default"), REFUSED)?,
            _ if value.is_null() => {}
            _ => return Err(inner.error(name, shown(value), REFUSED)),
        }
    }
    inner.number("rope_theta", plain, 1.0, 1e12)
}
