#!/usr/bin/env python3
"""pi0's and pi0.5's chunk in plain PyTorch: an independent implementation for comparison.

Written from the papers and the checkpoint's shapes, not from LeRobot's code. Kinder to PyTorch than
LeRobot: cameras without an image and padding are left out instead of masked, the language model's
last layer stops at keys and values, and pi0's state row is computed once. Reads the same folder as
`openvla`; every camera sees one picture of 224 x 224 pixels, the state is zero, the noise is that
of `openvla bench` with the same seed. Prints one JSON object.

    python pi0_reference.py --checkpoint DIR --image FILE --ids 2,5,7 --seed N [--repeats 3]
        [--steps 10] [--threads 2] [--dtype float32]

Needs torch, numpy, pillow and safetensors.
"""

import argparse
import json
import math
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

VLM = "paligemma_with_expert.paligemma.model.language_model"
EXPERT = "paligemma_with_expert.gemma_expert.model"
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model"
PROJECTOR = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear"
SIZES = dict(
    gemma_2b=dict(depth=18, num_heads=8, head_dim=256),
    gemma_300m=dict(depth=18, num_heads=8, head_dim=256),
    vision=dict(num_hidden_layers=27, num_attention_heads=16, patch_size=14),
)
UNUSED = ("lm_head.weight", f"{EXPERT}.embed_tokens.weight")


def noise(seed, count):
    """SplitMix64 and the Box-Muller transform, as crates/vla-inference/src/policy/pi0/noise.rs."""
    state, mask = seed, (1 << 64) - 1

    def uniform():
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return (((z ^ (z >> 31)) >> 11) + 1) / 2.0**53

    values = []
    while len(values) < count:
        radius = math.sqrt(-2.0 * math.log(uniform()))
        angle = 2.0 * math.pi * uniform()
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(values[:count], np.float32)


def load(folder, dtype):
    """Linear layers in `dtype`, vectors in float32, the table of tokens as it is stored; one tensor
    at a time."""
    weights = {}
    for shard in sorted(folder.glob("*.safetensors")):
        if not shard.name.startswith("model"):
            continue
        with safe_open(shard, "pt") as file:
            for name in file.keys():
                if not name.endswith(UNUSED):
                    tensor = file.get_tensor(name)
                    wide = dtype if tensor.dim() > 1 else torch.float32
                    wide = tensor.dtype if name.endswith("embed_tokens.weight") else wide
                    weights[name.removeprefix("model.")] = tensor.to(wide)
    return weights


class Model:
    def __init__(self, folder, dtype):
        self.config = json.loads((folder / "config.json").read_text())
        overrides = self.config.get("tiny_overrides", {})
        self.vlm, self.expert, self.vision = (
            {**SIZES[name], **overrides.get(name, {})}
            for name in ("gemma_2b", "gemma_300m", "vision")
        )
        self.w, self.dtype = load(folder, dtype), dtype
        self.pi05 = "time_mlp_in.weight" in self.w
        self.rows, self.columns = self.config["chunk_size"], self.config["max_action_dim"]

    def linear(self, x, name):
        weight, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        return F.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))

    # -- vision

    def image(self, pixels):
        w, spec = self.w, self.vision
        patches = w[f"{VISION}.embeddings.patch_embedding.weight"]
        bias = w[f"{VISION}.embeddings.patch_embedding.bias"].to(patches.dtype)
        x = F.conv2d(pixels.to(patches.dtype), patches, bias, stride=spec["patch_size"])
        x = x.flatten(2).transpose(1, 2)[0] + w[f"{VISION}.embeddings.position_embedding.weight"]
        for index in range(spec["num_hidden_layers"]):
            at = f"{VISION}.encoder.layers.{index}"
            h = self.layer_norm(x, f"{at}.layer_norm1")
            q, k, v = (
                self.linear(h, f"{at}.self_attn.{name}_proj")
                .view(x.shape[0], spec["num_attention_heads"], -1)
                .transpose(0, 1)[None]
                for name in "qkv"
            )
            h = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).reshape(x.shape)
            x = x + self.linear(h, f"{at}.self_attn.out_proj")
            h = self.linear(self.layer_norm(x, f"{at}.layer_norm2"), f"{at}.mlp.fc1")
            x = x + self.linear(F.gelu(h, approximate="tanh"), f"{at}.mlp.fc2")
        return self.linear(self.layer_norm(x, f"{VISION}.post_layernorm"), PROJECTOR)

    def layer_norm(self, x, name):
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return F.layer_norm(x.float(), weight.shape, weight, bias, 1e-6).to(x.dtype)

    # -- language model and expert

    def norm(self, x, name, cond=None):
        """The scaled rows and, with `cond`, the gate of their branch."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        if cond is None:
            return (wide * (1.0 + self.w[f"{name}.weight"])).to(x.dtype), None
        scale, shift, gate = self.linear(cond, f"{name}.dense").float().chunk(3, -1)
        return (wide * (1.0 + scale) + shift).to(x.dtype), gate.to(x.dtype)

    def rotate(self, x, position):
        half = x.shape[-1] // 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = torch.arange(position, position + x.shape[-2]).float()[:, None] * frequency
        cos, sin = (table.repeat(1, 2).to(x.dtype) for table in (angle.cos(), angle.sin()))
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def layer(self, x, at, spec, before, position, cond=None, keys_only=False):
        """The layer's output, and keys and values of `before` and the new rows."""
        rows, heads, dim = x.shape[0], spec["num_heads"], spec["head_dim"]
        h, gate = self.norm(x, f"{at}.input_layernorm", cond)
        k = self.linear(h, f"{at}.self_attn.k_proj").view(1, rows, dim)
        v = self.linear(h, f"{at}.self_attn.v_proj").view(1, rows, dim)
        k = self.rotate(k, position)
        if before is not None:
            k, v = torch.cat([before[0], k], 1), torch.cat([before[1], v], 1)
        if keys_only:
            return None, (k, v)
        q = self.linear(h, f"{at}.self_attn.q_proj").view(rows, heads, dim).transpose(0, 1)
        h = F.scaled_dot_product_attention(
            self.rotate(q, position)[None],
            k[None].expand(-1, heads, -1, -1),
            v[None].expand(-1, heads, -1, -1),
        )
        h = self.linear(h[0].transpose(0, 1).reshape(rows, -1), f"{at}.self_attn.o_proj")
        x = x + (h if gate is None else h * gate)
        h, gate = self.norm(x, f"{at}.post_attention_layernorm", cond)
        gelu = F.gelu(self.linear(h, f"{at}.mlp.gate_proj"), approximate="tanh")
        h = self.linear(gelu * self.linear(h, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
        return x + (h if gate is None else h * gate), (k, v)

    def prefix(self, images, ids, state):
        table = self.w[f"{VLM}.embed_tokens.weight"]
        text = table[torch.tensor(ids)].to(self.dtype) * math.sqrt(table.shape[1])
        x, cache = torch.cat([*images, text]), []
        for index in range(self.vlm["depth"]):
            last = index + 1 == self.vlm["depth"]
            at = f"{VLM}.layers.{index}"
            x, stored = self.layer(x, at, self.vlm, None, 0, keys_only=last)
            cache.append(stored)
        if not self.pi05:
            row = self.linear(state[None], "state_proj").to(self.dtype)
            _, cache = self.suffix(row, cache)
        return cache

    def suffix(self, x, cache, cond=None):
        """Rows through the expert behind `cache`: the output, and the longer cache."""
        position, longer = cache[0][0].shape[1], []
        for index, before in enumerate(cache):
            at = f"{EXPERT}.layers.{index}"
            x, stored = self.layer(x, at, self.expert, before, position, cond)
            longer.append(stored)
        return self.norm(x, f"{EXPERT}.norm", cond)[0], longer

    # -- actions

    def embedded(self, at):
        half = self.w["action_in_proj.weight"].shape[0] // 2
        low, high = self.config["min_period"], self.config["max_period"]
        fraction = torch.linspace(0.0, 1.0, half, dtype=torch.float64)
        angle = 2.0 * math.pi * float(np.float32(at)) / (low * (high / low) ** fraction)
        return torch.cat([angle.sin(), angle.cos()]).float()[None]

    def velocity(self, cache, x, at):
        cond, embedded = None, self.embedded(at)
        actions = self.linear(x, "action_in_proj")
        if self.pi05:
            cond = F.silu(self.linear(embedded, "time_mlp_in"))
            cond = F.silu(self.linear(cond, "time_mlp_out"))
        else:
            embedded = embedded.to(actions.dtype).expand(self.rows, -1)
            actions = self.linear(torch.cat([actions, embedded], 1), "action_time_mlp_in")
            actions = self.linear(F.silu(actions), "action_time_mlp_out")
        out, _ = self.suffix(actions, cache, cond)
        return self.linear(out, "action_out_proj").float()


def normalized_zero_state(folder, config):
    """A state of zeros after the folder's normalisation."""
    (size,) = config["input_features"]["observation.state"]["shape"]
    state = torch.zeros(config["max_state_dim"])
    files = [path for path in folder.glob("policy_preprocessor_step_*normalizer*.safetensors")]
    with safe_open(files[0], "pt") as file:
        stat = lambda name: file.get_tensor(f"observation.state.{name}").float()
        if config["normalization_mapping"]["STATE"] == "MEAN_STD":
            state[:size] = -stat("mean") / (stat("std") + 1e-8)
        else:
            low, high = stat("q01"), stat("q99")
            state[:size] = -2.0 * low / (high - low) - 1.0
    return state


def arguments_of(text):
    """The arguments, checked, of a program with the documentation `text`; sets the threads."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--ids", required=True, help="token ids of the prompt: 2,5,7")
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def main():
    arguments = arguments_of(__doc__)
    torch.set_grad_enabled(False)
    model = Model(arguments.checkpoint, getattr(torch, arguments.dtype))
    state = normalized_zero_state(arguments.checkpoint, model.config)
    ids = [int(text) for text in arguments.ids.split(",")]
    times = {}
    for run in range(arguments.warm_up + arguments.repeats):
        laps, last = {}, time.perf_counter()

        def lap(name):
            nonlocal last
            now = time.perf_counter()
            laps[name], last = (now - last) * 1e3, now

        picture = np.asarray(Image.open(arguments.image).convert("RGB"))
        assert picture.shape == (224, 224, 3), "give a picture of 224 x 224 pixels"
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        lap("preprocess")
        images = [model.image(pixels) for _ in range(arguments.cameras)]
        lap("vision")
        cache = model.prefix(images, ids, state)
        lap("prefix")
        x = torch.from_numpy(noise(arguments.seed, model.rows * model.columns))
        x = x.view(model.rows, model.columns)
        for step in range(arguments.steps):
            at = 1.0 + step * (-1.0 / arguments.steps)
            x = x + np.float32(-1.0 / arguments.steps) * model.velocity(cache, x, at)
        lap("denoise")
        laps["total"] = sum(laps.values())
        if run >= arguments.warm_up:
            for name, value in laps.items():
                times.setdefault(name, []).append(value)
    (width,) = model.config["output_features"]["action"]["shape"]
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "dtype": arguments.dtype,
                "threads": torch.get_num_threads(),
                "normalized": x[:, :width].tolist(),
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "milliseconds": {name: statistics.median(values) for name, values in times.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
