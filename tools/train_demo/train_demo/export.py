"""Exports a trained model as a Hugging Face OpenVLA folder.

Config, preprocessor, tokenizer, statistics, and bfloat16 weights in safetensors.
"""

import json
import shutil

import torch
from safetensors.torch import save_file

from .model import MEANS, MLP_RATIO, STDS
from .vocabulary import ACTION_END, BINS, PADDING, SIZE, tokenizer_json

KEY = "tabletop"
DINO, SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"


def unused_tensors(shape):
    """Tensors of OpenVLA's checkpoints that inference does not use: zeros, which compress well."""
    for prefix, tower, kind in (
        ("featurizer", shape.dino, "dino"),
        ("fused_featurizer", shape.siglip, "siglip"),
    ):
        width, inner, at = (
            tower.embed_dim,
            int(tower.embed_dim * MLP_RATIO[kind]),
            f"vision_backbone.{prefix}.",
        )
        block, pool = f"{at}blocks.{tower.depth - 1}.", f"{at}attn_pool."

        def linear(name, outputs, inputs):
            yield f"{name}.weight", (outputs, inputs)
            yield f"{name}.bias", (outputs,)

        def norm(name):
            yield f"{name}.weight", (width,)
            yield f"{name}.bias", (width,)

        yield from norm(block + "norm1")
        yield from linear(block + "attn.qkv", 3 * width, width)
        yield from linear(block + "attn.proj", width, width)
        yield from norm(block + "norm2")
        yield from linear(block + "mlp.fc1", inner, width)
        yield from linear(block + "mlp.fc2", width, inner)
        yield from norm(at + "norm")
        if kind == "dino":
            yield block + "ls1.scale_factor", (width,)
            yield block + "ls2.scale_factor", (width,)
        else:
            yield pool + "latent", (1, 1, width)
            yield from linear(pool + "q", width, width)
            yield from linear(pool + "kv", 2 * width, width)
            yield from linear(pool + "proj", width, width)
            yield from norm(pool + "norm")
            yield from linear(pool + "mlp.fc1", inner, width)
            yield from linear(pool + "mlp.fc2", width, inner)


def tensors(model):
    """The state dict of the checkpoint, bfloat16."""
    state = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name.split(".")[0] in ("vision_backbone", "projector", "language_model")
    }
    for name, size in unused_tensors(model.shape):
        if name in state:
            raise ValueError(f"{name} is trained although inference never reads it")
        state[name] = torch.zeros(size, dtype=torch.bfloat16)
    return state


def config(shape, statistics):
    overrides = [
        {"embed_dim": t.embed_dim, "depth": t.depth, "num_heads": t.num_heads}
        for t in (shape.dino, shape.siglip)
    ]
    return {
        "arch_specifier": "no-align+fused-gelu-mlp",
        "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {
            "AutoConfig": "configuration_prismatic.OpenVLAConfig",
            "AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction",
        },
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [shape.image_size] * 2,
        "llm_backbone_id": "llama2-7b-pure",
        "llm_max_length": 2048,
        "model_type": "openvla",
        "n_action_bins": BINS,
        "norm_stats": statistics,
        "output_projector_states": False,
        "pad_to_multiple_of": PADDING,
        "pad_token_id": ACTION_END,
        "text_config": {
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "model_type": "llama",
            "num_attention_heads": shape.num_attention_heads,
            "num_hidden_layers": shape.num_hidden_layers,
            "num_key_value_heads": shape.num_attention_heads,
            "pad_token_id": ACTION_END,
            "rope_theta": shape.rope_theta,
            "torch_dtype": "bfloat16",
            "vocab_size": SIZE,
        },
        "timm_model_ids": [DINO, SIGLIP],
        "timm_override_act_layers": [None, None],
        "tiny_timm_overrides": overrides,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_fused_vision_backbone": True,
        "vision_backbone_id": "dinosiglip-vit-so-224px",
    }


def preprocessor(side):
    size = [side, side]
    return {
        "auto_map": {
            "AutoImageProcessor": "processing_prismatic.PrismaticImageProcessor",
            "AutoProcessor": "processing_prismatic.PrismaticProcessor",
        },
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, *size]] * 2,
        "interpolations": ["bicubic"] * 2,
        "means": MEANS,
        "processor_class": "PrismaticProcessor",
        "stds": STDS,
        "tvf_crop_params": [{"output_size": size}] * 2,
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        "tvf_normalize_params": [
            {"inplace": False, "mean": mean, "std": std} for mean, std in zip(MEANS, STDS)
        ],
        "tvf_resize_params": [
            {"antialias": True, "interpolation": 3, "max_size": None, "size": size}
        ]
        * 2,
        "use_fused_vision_backbone": True,
    }


def export(model, statistics, folder, provenance=None, more=lambda new: None):
    """Writes the folder atomically and replaces an older one.

    `provenance` is written to training.json, which no program reads; `more(new)` adds files.
    """
    state, statistics = tensors(model), {KEY: statistics}
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<PAD>"}
    files = {
        "config.json": config(model.shape, statistics),
        "dataset_statistics.json": statistics,
        "preprocessor_config.json": preprocessor(model.shape.image_size),
        "processor_config.json": {
            "auto_map": {"AutoProcessor": "processing_prismatic.PrismaticProcessor"},
            "processor_class": "PrismaticProcessor",
        },
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "PrismaticProcessor",
            "model_max_length": 2048,
            "padding_side": "right",
        },
        "special_tokens_map.json": special,
        "added_tokens.json": {"<PAD>": ACTION_END},
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": ACTION_END,
            "transformers_version": "4.40.1",
        },
    }
    if provenance is not None:
        files["training.json"] = provenance
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name, content in files.items():
        (new / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    save_file(state, new / "model.safetensors", metadata={"format": "pt"})
    more(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
