#!/usr/bin/env python3
"""OpenVLA-OFT's chunk in plain PyTorch: an independent implementation for comparison.

Towers and Llama weights as pytorch_reference.py, run once with attention in both directions; the
state's projector and the regression head from the folder's .pt files. Every camera sees one
picture of 224 x 224 pixels and the state is zero, as `openvla bench` has it.

    python oft_reference.py --checkpoint DIR --image FILE --ids 1,512,29871 [--repeats 3]
    python oft_reference.py --checkpoint DIR --from BASE    makes DIR of OpenVLA's folder, with
                                                            random heads

Prints one JSON object. Needs torch, numpy, pillow, safetensors and tokenizers.
"""

import argparse
import collections
import json
import os
import resource
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pytorch_reference import LLAMA, TOWERS, Llama, Tower, load

STATISTICS = Path(__file__).parents[2] / "tests/data/oft_tiny/ckpt/dataset_statistics.json"
KEY = "libero_spatial_no_noops"
CAMERAS, CHUNK, ACTION, STOP, EPSILON = 2, 8, 7, 2, 1e-8


def write(folder, base):
    """Links the base's files, and saves heads with weights that keep activations near 1."""
    folder.mkdir(parents=True)
    for file in base.iterdir():
        if file.name != "dataset_statistics.json":
            os.link(file, folder / file.name)
    shutil.copy(STATISTICS, folder)
    hidden = json.loads((base / "config.json").read_text())["text_config"]["hidden_size"]
    torch.manual_seed(1)
    head, projector = collections.OrderedDict(), collections.OrderedDict()

    def linear(place, name, rows, columns):
        place[f"module.{name}.weight"] = (torch.randn(rows, columns) / columns**0.5).bfloat16()
        place[f"module.{name}.bias"] = (0.02 * torch.randn(rows)).bfloat16()

    def norm(place, name, width):
        place[f"module.{name}.weight"] = (1 + 0.05 * torch.randn(width)).bfloat16()
        place[f"module.{name}.bias"] = (0.02 * torch.randn(width)).bfloat16()

    norm(head, "model.layer_norm1", ACTION * hidden)
    linear(head, "model.fc1", hidden, ACTION * hidden)
    for block in range(2):
        norm(head, f"model.mlp_resnet_blocks.{block}.ffn.0", hidden)
        linear(head, f"model.mlp_resnet_blocks.{block}.ffn.1", hidden, hidden)
    norm(head, "model.layer_norm2", hidden)
    linear(head, "model.fc2", ACTION, hidden)
    state = len(json.loads(STATISTICS.read_text())[KEY]["proprio"]["mean"])
    linear(projector, "fc1", hidden, state)
    linear(projector, "fc2", hidden, hidden)
    torch.save(head, folder / "action_head--1_checkpoint.pt")
    torch.save(projector, folder / "proprio_projector--1_checkpoint.pt")


def component(folder, name, dtype):
    (file,) = folder.glob(f"{name}--*.pt")
    tensors = torch.load(file, weights_only=True, map_location="cpu")
    return {key.removeprefix("module."): tensor.to(dtype) for key, tensor in tensors.items()}


class Bidirectional(Llama):
    """Llama without a mask: the final norm's output at some rows."""

    def answers(self, x, read):
        rows = x.shape[1]
        weight = lambda layer, name: self.w[f"language_model.model.{layer}.{name}.weight"]
        for index in range(self.spec["num_hidden_layers"]):
            layer = f"layers.{index}"
            h = self.norm(x, f"{layer}.input_layernorm")
            q, k, v = (
                F.linear(h, weight(layer, f"self_attn.{name}_proj"))
                .view(1, rows, self.heads, -1)
                .transpose(1, 2)
                for name in "qkv"
            )
            h = F.scaled_dot_product_attention(self.rotate(q, 0), self.rotate(k, 0), v)
            h = h.transpose(1, 2).reshape(1, rows, -1)
            x = x + F.linear(h, weight(layer, "self_attn.o_proj"))
            h = self.norm(x, f"{layer}.post_attention_layernorm")
            gate = F.silu(F.linear(h, weight(layer, "mlp.gate_proj")))
            up = F.linear(h, weight(layer, "mlp.up_proj"))
            x = x + F.linear(gate * up, weight(layer, "mlp.down_proj"))
        return self.norm(x[:, read], "norm")


def regression(w, x):
    norm = lambda x, name: F.layer_norm(
        x, x.shape[-1:], w[f"model.{name}.weight"], w[f"model.{name}.bias"], 1e-5
    )
    linear = lambda x, name: F.linear(x, w[f"model.{name}.weight"], w[f"model.{name}.bias"])
    x = F.relu(linear(norm(x, "layer_norm1"), "fc1"))
    for block in range(2):
        at = f"mlp_resnet_blocks.{block}.ffn"
        x = x + F.relu(linear(norm(x, f"{at}.0"), f"{at}.1"))
    return linear(norm(x, "layer_norm2"), "fc2")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--from", dest="base", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--ids", help="token ids of the prompt: 1,512,29871")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    if arguments.base:
        return write(arguments.checkpoint, arguments.base)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    folder, dtype = arguments.checkpoint, getattr(torch, arguments.dtype)
    config = json.loads((folder / "config.json").read_text())
    pixels_config = json.loads((folder / "preprocessor_config.json").read_text())
    spec = {**LLAMA, **{key: value for key, value in config["text_config"].items() if key in LLAMA}}
    weights = load(folder, dtype)
    overrides = config.get("tiny_timm_overrides") or [{}] * len(config["timm_model_ids"])
    towers = [
        Tower(weights, f"vision_backbone.{name}", {**TOWERS[timm_id], **override})
        for name, timm_id, override in zip(
            ["featurizer", "fused_featurizer"], config["timm_model_ids"], overrides
        )
    ]
    head = component(folder, "action_head", dtype)
    projector = component(folder, "proprio_projector", dtype)
    bounds = json.loads((folder / "dataset_statistics.json").read_text())[KEY]["proprio"]
    low, high = (np.array(bounds[name]) for name in ("q01", "q99"))
    state = np.where(bounds.get("mask", True), -2.0 * low / (high - low + EPSILON) - 1.0, 0.0)
    state = torch.from_numpy(np.clip(state, -1, 1).astype(np.float32)).to(dtype)
    ids = [int(text) for text in arguments.ids.split(",")]
    answers, times = CHUNK * ACTION, {}
    linear = lambda x, w, name: F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])
    for run in range(arguments.warm_up + arguments.repeats):
        laps, last = {}, time.perf_counter()

        def lap(name):
            nonlocal last
            now = time.perf_counter()
            laps[name], last = (now - last) * 1e3, now

        picture = np.asarray(Image.open(arguments.image).convert("RGB"))
        assert picture.shape == (224, 224, 3), "give a picture of 224 x 224 pixels"
        rgb = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
        inputs = [
            ((rgb - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None].to(
                dtype
            )
            for mean, std in zip(pixels_config["means"], pixels_config["stds"])
        ]
        lap("preprocess")
        views = [
            torch.cat([tower(pixels) for tower, pixels in zip(towers, inputs)], -1)
            for _ in range(CAMERAS)
        ]
        lap("vision")
        x = torch.cat(views, 1)
        for index, activation in ((1, F.gelu), (2, F.gelu), (3, lambda x: x)):
            x = activation(linear(x, weights, f"projector.fc{index}"))
        lap("projector")
        table = weights["language_model.model.embed_tokens.weight"]
        text = table[torch.tensor([*ids, STOP])][None]
        row = linear(F.gelu(linear(state[None, None], projector, "fc1")), projector, "fc2")
        zeros = torch.zeros(1, answers, text.shape[-1], dtype=dtype)
        x = torch.cat([text[:, :1], x, row, text[:, 1:-1], zeros, text[:, -1:]], 1)
        start = x.shape[1] - answers - 2
        llama = Bidirectional(weights, spec, x.shape[1])
        hidden = llama.answers(x, slice(start, start + answers))
        lap("prefill")
        normalized = regression(head, hidden.reshape(CHUNK, -1)).float()
        lap("head")
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
                "normalized": normalized.tolist(),
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "milliseconds": {name: statistics.median(values) for name, values in times.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
