#!/usr/bin/env python3
"""OpenVLA's forward pass in plain PyTorch: an independent implementation for comparison.

Written from the papers and the checkpoint's shapes (timm's ViT, Prismatic's projector, Llama 2 with
`scaled_dot_product_attention`), not from the official repository. Reads the same folder as
`openvla`. Prints one JSON object: per-stage medians in milliseconds and the tokens.

    python pytorch_reference.py --checkpoint DIR --image FILE [--instruction TEXT] [--repeats 5]
        [--threads 2] [--dtype float32|bfloat16|int8]

int8 is PyTorch's dynamic quantisation: int8 weights per output, activations quantised per call, in
every linear layer but the output head; everything else float32.

Needs torch, numpy, pillow, safetensors and tokenizers.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer

EMPTY_WORD = 29871
TOWERS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": dict(embed_dim=1024, depth=24, num_heads=16),
    "vit_so400m_patch14_siglip_224": dict(embed_dim=1152, depth=27, num_heads=16),
}
LLAMA = dict(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
)


def load(folder, dtype):
    weights = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            for name in file.keys():
                weights[name] = file.get_tensor(name).to(dtype)
    return weights


class Int8Weight:
    """A weight packed for dynamic quantisation, as torch.ao.nn.quantized.dynamic.Linear has it."""

    def __init__(self, weight, bias=None):
        scales = weight.abs().amax(1).clamp(min=1e-12).double() / 127
        zeros = torch.zeros_like(scales, dtype=torch.int64)
        quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantised, bias)


def linear(x, weight, bias=None):
    if isinstance(weight, Int8Weight):
        return torch.ops.quantized.linear_dynamic(x, weight.packed)
    return F.linear(x, weight, bias)


def quantised(weights):
    """Matrices of linear layers as `Int8Weight`, with their bias."""
    kept = ("embed_tokens.weight", "lm_head.weight", "pos_embed", "patch_embed.proj.weight")
    for name, weight in list(weights.items()):
        if weight.dim() == 2 and not name.endswith(kept):
            weights[name] = Int8Weight(weight, weights.get(name.removesuffix("weight") + "bias"))
    return weights


class Tower:
    def __init__(self, weights, prefix, spec):
        self.w = {
            name[len(prefix) + 1 :]: tensor
            for name, tensor in weights.items()
            if name.startswith(prefix + ".")
        }
        self.heads, self.blocks = spec["num_heads"], spec["depth"] - 1

    def __call__(self, pixels):
        w = self.w
        x = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14)
        x = x.flatten(2).transpose(1, 2) + w["pos_embed"]
        prefix = [w[name] for name in ("cls_token", "reg_token") if name in w]
        x = torch.cat([*prefix, x], 1)
        for index in range(self.blocks):
            x = self.block(x, f"blocks.{index}.")
        return x[:, sum(token.shape[1] for token in prefix) :]

    def block(self, x, at):
        w = self.w
        rows, width = x.shape[1:]
        h = F.layer_norm(x, (width,), w[at + "norm1.weight"], w[at + "norm1.bias"], 1e-6)
        qkv = linear(h, w[at + "attn.qkv.weight"], w[at + "attn.qkv.bias"])
        q, k, v = qkv.view(1, rows, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, rows, width)
        h = linear(h, w[at + "attn.proj.weight"], w[at + "attn.proj.bias"])
        x = x + h * w.get(at + "ls1.scale_factor", 1)
        h = F.layer_norm(x, (width,), w[at + "norm2.weight"], w[at + "norm2.bias"], 1e-6)
        h = linear(
            F.gelu(linear(h, w[at + "mlp.fc1.weight"], w[at + "mlp.fc1.bias"])),
            w[at + "mlp.fc2.weight"],
            w[at + "mlp.fc2.bias"],
        )
        return x + h * w.get(at + "ls2.scale_factor", 1)


class Llama:
    def __init__(self, weights, spec, capacity):
        self.w, self.spec = weights, spec
        self.heads, self.width = spec["num_attention_heads"], spec["hidden_size"]
        dim = self.width // self.heads
        frequency = 1.0 / spec["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim)
        angle = torch.outer(torch.arange(capacity).float(), frequency)
        dtype = weights["language_model.lm_head.weight"].dtype
        self.cos, self.sin = angle.cos().repeat(1, 2).to(dtype), angle.sin().repeat(1, 2).to(dtype)
        self.cache = [None] * spec["num_hidden_layers"]

    def norm(self, x, name):
        # In float32 whatever the weights are, as transformers does it.
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.spec["rms_norm_eps"])
        return self.w[f"language_model.model.{name}.weight"] * wide.to(x.dtype)

    def rotate(self, x, position):
        half = x.shape[-1] // 2
        cos, sin = (table[position : position + x.shape[2]] for table in (self.cos, self.sin))
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def __call__(self, x, position):
        rows = x.shape[1]
        for index in range(self.spec["num_hidden_layers"]):
            layer = f"layers.{index}"
            project = lambda x, name: linear(
                x, self.w[f"language_model.model.{layer}.{name}.weight"]
            )
            h = self.norm(x, f"{layer}.input_layernorm")
            q, k, v = (
                project(h, f"self_attn.{name}_proj").view(1, rows, self.heads, -1).transpose(1, 2)
                for name in "qkv"
            )
            q, k = self.rotate(q, position), self.rotate(k, position)
            if position:
                k, v = (torch.cat([old, new], 2) for old, new in zip(self.cache[index], (k, v)))
            self.cache[index] = (k, v)
            h = F.scaled_dot_product_attention(q, k, v, is_causal=rows > 1)
            x = x + project(h.transpose(1, 2).reshape(1, rows, -1), "self_attn.o_proj")
            h = self.norm(x, f"{layer}.post_attention_layernorm")
            x = x + project(
                F.silu(project(h, "mlp.gate_proj")) * project(h, "mlp.up_proj"), "mlp.down_proj"
            )
        # Kinder than the official code, which runs the head on every position.
        return linear(self.norm(x[:, -1:], "norm"), self.w["language_model.lm_head.weight"])[
            0, -1
        ].float()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--instruction", default="pick up the block")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8"], default="float32")
    parser.add_argument(
        "--actions-only", action="store_true", help="choose among the 256 action tokens only"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    int8 = arguments.dtype == "int8"
    dtype = torch.float32 if int8 else getattr(torch, arguments.dtype)
    config = json.loads((arguments.checkpoint / "config.json").read_text())
    pixels_config = json.loads((arguments.checkpoint / "preprocessor_config.json").read_text())
    spec = {**LLAMA, **{key: value for key, value in config["text_config"].items() if key in LLAMA}}
    overrides = config.get("tiny_timm_overrides") or [{}] * len(config["timm_model_ids"])
    weights = load(arguments.checkpoint, dtype)
    weights = quantised(weights) if int8 else weights
    names = ["vision_backbone.featurizer", "vision_backbone.fused_featurizer"]
    towers = [
        Tower(weights, name, {**TOWERS[timm_id], **override})
        for name, timm_id, override in zip(names, config["timm_model_ids"], overrides)
    ]
    tokenizer = Tokenizer.from_file(str(arguments.checkpoint / "tokenizer.json"))
    end = config["text_config"].get("vocab_size", 32064) - config.get("pad_to_multiple_of", 64)
    allowed = slice(end - 256, end) if arguments.actions_only else slice(0, None)
    times, tokens = {}, []
    for run in range(arguments.warm_up + arguments.repeats):
        laps, last = {}, time.perf_counter()

        def lap(name):
            nonlocal last
            now = time.perf_counter()
            laps[name], last = (now - last) * 1e3, now

        image = Image.open(arguments.image).convert("RGB").resize((224, 224), Image.BICUBIC)
        rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        inputs = [
            ((rgb - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None].to(
                dtype
            )
            for mean, std in zip(pixels_config["means"], pixels_config["stds"])
        ]
        ids = tokenizer.encode(
            f"In: What action should the robot take to {arguments.instruction.lower()}?\nOut:"
        ).ids
        ids = ids if ids[-1] == EMPTY_WORD else [*ids, EMPTY_WORD]
        lap("preprocess")
        features = torch.cat([tower(pixels) for tower, pixels in zip(towers, inputs)], -1)
        lap("vision")
        x = features
        for index, activation in ((1, F.gelu), (2, F.gelu), (3, lambda x: x)):
            x = activation(
                linear(
                    x, weights[f"projector.fc{index}.weight"], weights[f"projector.fc{index}.bias"]
                )
            )
        lap("projector")
        table = weights["language_model.model.embed_tokens.weight"]
        text = table[torch.tensor(ids)][None]
        llama = Llama(weights, spec, 2048)
        logits = llama(torch.cat([text[:, :1], x, text[:, 1:]], 1), 0)
        position, tokens = 256 + len(ids), []
        for step in range(7):
            tokens.append(int(logits[allowed].argmax()) + (allowed.start or 0))
            if step == 0:
                lap("prefill")
            if step < 6:
                logits = llama(table[tokens[-1]][None, None], position)
                position += 1
        lap("decode")
        laps["total"] = sum(laps.values())
        if run >= arguments.warm_up:
            for name, value in laps.items():
                times.setdefault(name, []).append(value)
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "dtype": arguments.dtype,
                "threads": torch.get_num_threads(),
                "token_ids": tokens,
                "milliseconds": {name: statistics.median(values) for name, values in times.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
