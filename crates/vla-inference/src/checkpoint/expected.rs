//! The tensors that an OpenVLA checkpoint of a given configuration must hold, in the order of the
//! PyTorch state dict.

use super::config::OpenVlaConfig;
use super::llama_config::LlamaConfig;
use super::tower_config::{TowerConfig, TowerFamily};

/// One tensor of the state dict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape that the configuration implies.
    pub shape: Vec<usize>,
    /// Whether inference reads it. It does not read each tower's last block and final norm, and
    /// SigLIP's attention pool.
    pub used: bool,
}

impl ExpectedTensor {
    /// Number of elements.
    pub fn parameters(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

impl OpenVlaConfig {
    /// Every tensor of the checkpoint, in state-dict order: 982 for openvla-7b.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let mut list = List::default();
        for tower in &self.towers {
            list.tower(tower);
        }
        let mut inputs = self.projector.vision_size;
        for (i, &outputs) in self.projector.layers.iter().enumerate() {
            list.linear(&format!("projector.fc{}", i + 1), outputs, inputs);
            inputs = outputs;
        }
        list.llama("language_model", &self.llama);
        list.tensors
    }
}

#[derive(Default)]
struct List {
    tensors: Vec<ExpectedTensor>,
    unused: bool,
}

impl List {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.tensors.push(ExpectedTensor { name, shape: shape.to_vec(), used: !self.unused });
    }

    /// Weight and bias of a linear layer.
    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(format!("{name}.weight"), &[outputs, inputs]);
        self.add(format!("{name}.bias"), &[outputs]);
    }

    /// Weight and bias of a layer norm.
    fn norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.weight"), &[width]);
        self.add(format!("{name}.bias"), &[width]);
    }

    fn mlp(&mut self, name: &str, width: usize, hidden: usize) {
        self.linear(&format!("{name}.fc1"), hidden, width);
        self.linear(&format!("{name}.fc2"), width, hidden);
    }

    fn tower(&mut self, tower: &TowerConfig) {
        let (prefix, width) = (tower.prefix, tower.embed_dim);
        if tower.prefix_tokens > 0 {
            self.add(format!("{prefix}.cls_token"), &[1, 1, width]);
            self.add(format!("{prefix}.reg_token"), &[1, tower.prefix_tokens - 1, width]);
        }
        self.add(format!("{prefix}.pos_embed"), &[1, tower.patches(), width]);
        self.add(
            format!("{prefix}.patch_embed.proj.weight"),
            &[width, 3, tower.patch_size, tower.patch_size],
        );
        self.add(format!("{prefix}.patch_embed.proj.bias"), &[width]);
        for i in 0..tower.depth {
            self.unused = i >= tower.used_blocks();
            self.block(&format!("{prefix}.blocks.{i}"), tower);
        }
        self.unused = true;
        self.norm(&format!("{prefix}.norm"), width);
        if tower.family == TowerFamily::Siglip {
            let pool = format!("{prefix}.attn_pool");
            self.add(format!("{pool}.latent"), &[1, 1, width]);
            self.linear(&format!("{pool}.q"), width, width);
            self.linear(&format!("{pool}.kv"), 2 * width, width);
            self.linear(&format!("{pool}.proj"), width, width);
            self.norm(&format!("{pool}.norm"), width);
            self.mlp(&format!("{pool}.mlp"), width, tower.mlp_hidden);
        }
        self.unused = false;
    }

    fn block(&mut self, name: &str, tower: &TowerConfig) {
        let width = tower.embed_dim;
        self.norm(&format!("{name}.norm1"), width);
        self.linear(&format!("{name}.attn.qkv"), 3 * width, width);
        self.linear(&format!("{name}.attn.proj"), width, width);
        if tower.layer_scale() {
            self.add(format!("{name}.ls1.scale_factor"), &[width]);
        }
        self.norm(&format!("{name}.norm2"), width);
        self.mlp(&format!("{name}.mlp"), width, tower.mlp_hidden);
        if tower.layer_scale() {
            self.add(format!("{name}.ls2.scale_factor"), &[width]);
        }
    }

    fn llama(&mut self, prefix: &str, llama: &LlamaConfig) {
        let (hidden, kv, inner) = (llama.hidden_size, llama.kv_size(), llama.intermediate_size);
        self.add(format!("{prefix}.model.embed_tokens.weight"), &[llama.vocab_size, hidden]);
        for i in 0..llama.num_hidden_layers {
            let layer = format!("{prefix}.model.layers.{i}");
            self.add(format!("{layer}.self_attn.q_proj.weight"), &[hidden, hidden]);
            self.add(format!("{layer}.self_attn.k_proj.weight"), &[kv, hidden]);
            self.add(format!("{layer}.self_attn.v_proj.weight"), &[kv, hidden]);
            self.add(format!("{layer}.self_attn.o_proj.weight"), &[hidden, hidden]);
            self.add(format!("{layer}.mlp.gate_proj.weight"), &[inner, hidden]);
            self.add(format!("{layer}.mlp.up_proj.weight"), &[inner, hidden]);
            self.add(format!("{layer}.mlp.down_proj.weight"), &[hidden, inner]);
            self.add(format!("{layer}.input_layernorm.weight"), &[hidden]);
            self.add(format!("{layer}.post_attention_layernorm.weight"), &[hidden]);
        }
        self.add(format!("{prefix}.model.norm.weight"), &[hidden]);
        self.add(format!("{prefix}.lm_head.weight"), &[llama.vocab_size, hidden]);
    }
}
