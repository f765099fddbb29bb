"""A pi0 or pi0.5 checkpoint whose chunks are smooth, made from a golden kit with weights by hand.

Random weights give chunks whose steps are independent noise, in which no seam can be seen. Here
the velocity of an action row is `RATE * (x - mean of all rows)`: Euler's method moves every row to
the mean of the noise, so that a chunk is almost constant and two chunks are unrelated. Every other
weight is zero; images, text and state have no effect.

The layers are made linear: a constant in one dimension, large beside all others, makes an RMS norm
a division by a constant, and a bias makes pi0's SiLU the identity. The mean is attention with equal
weights: query and key have one large constant each, in the pair of dimensions that RoPE turns
slowest, and the prefix has none.
"""

import json
import pathlib
import shutil

import numpy

RATE = 2.5  # a row keeps (1 - RATE / 10)^10 = 6 % of its distance to the mean
USED = 7  # columns of x that become actions
CONSTANT = 100.0
SILU = 20.0  # silu(x + 20) is x + 20 within 4e-8
LOGIT = 20.0  # a row of the prefix has exp(-20) of an action row's weight


def weights(config, shapes):
    """The tensors that are not zero."""
    expert = config["tiny_overrides"]["gemma_300m"]
    width, dim, heads = expert["width"], expert["head_dim"], expert["num_heads"]
    out = {name: numpy.zeros(shape, numpy.float32) for name, shape in shapes.items()}
    at = lambda name: out[f"model.{name}"]
    layer = "paligemma_with_expert.gemma_expert.model.layers.0.self_attn"
    own = range(USED)
    scale = width**0.5 / CONSTANT  # of the norm
    last = dim // 2 - 1
    strength = (LOGIT * dim**0.5) ** 0.5 / width**0.5
    for i in own:
        at("action_in_proj.weight")[i, i] = 1.0
        at(f"{layer}.v_proj.weight")[i, i] = 1.0 / scale
        at(f"{layer}.o_proj.weight")[USED + i, i] = 1.0
        at("action_out_proj.weight")[i, i] = RATE / scale
        at("action_out_proj.weight")[i, USED + i] = -RATE / scale
    for head in range(heads):
        at(f"{layer}.q_proj.weight")[head * dim + last, -1] = strength
    at(f"{layer}.k_proj.weight")[last, -1] = strength
    if config["type"] == "pi0":
        for i in own:
            at("action_time_mlp_in.weight")[i, i] = 1.0
            at("action_time_mlp_in.bias")[i] = SILU
            at("action_time_mlp_out.weight")[i, i] = 1.0
            at("action_time_mlp_out.bias")[i] = -SILU
        at("action_time_mlp_out.bias")[-1] = CONSTANT
    else:
        at("action_in_proj.bias")[-1] = CONSTANT
        for name, tensor in out.items():
            if name.endswith("dense.bias"):
                tensor[2 * width :] = 1.0  # the gates; scales and shifts are 0
    return out


def write(kit, folder, **changes):
    """The kit's checkpoint folder with these weights, and these changes of its config.json."""
    source, folder = pathlib.Path(kit) / "ckpt", pathlib.Path(folder)
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in ("model.safetensors", "config.json"):
            shutil.copy(file, folder)
    config = json.loads((source / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with open(source / "model.safetensors", "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    tensors = weights(config, {name: entry["shape"] for name, entry in header.items()})
    end, entries = 0, {}
    for name, tensor in tensors.items():
        span = [end, end + tensor.nbytes]
        entries[name] = dict(dtype="F32", shape=list(tensor.shape), data_offsets=span)
        end += tensor.nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())
