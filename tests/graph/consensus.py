"""A pi0 or pi0.5 checkpoint whose chunks are smooth, made from a golden kit with weights by hand.

Random weights give chunks whose steps are independent noise, in which no seam can be seen. Here
the velocity of an action row at time t is `(x - mean of all rows) / t`: Euler's method moves every
row to the mean of the noise, so that a chunk is constant and two chunks are unrelated. Every other
weight is zero in effect; images, text and state have none.

How layers become linear: an RMS norm divides by a constant where one dimension is large beside all
others, and SiLU is the identity behind a large bias. The mean is attention with equal weights:
query and key have one large constant each, in the pair of dimensions that RoPE turns slowest, and
the prefix has none. The factor 1 / t is a norm again: in pi0 the last one divides by a dimension
that is proportional to t, in pi0.5 its scale depends on the time anyway.
"""

import json
import pathlib
import shutil

import numpy

STEPS = 10
USED = 7  # columns of x that become actions
LARGE, TIMES = 1e5, 1e3  # the constant dimension; factor of t in pi0's other one
SILU = 20.0  # silu(x + 20) is x + 20 within 4e-8
LOGIT = 20.0  # a row of the prefix has exp(-20) of an action row's weight


def fitted(config, width, wanted):
    """Weights of the time's embedding that give `wanted` at the time of every Euler step."""
    times = (1.0 - numpy.arange(STEPS) / STEPS).astype(numpy.float32).astype(float)
    low, high = config["min_period"], config["max_period"]
    periods = low * (high / low) ** numpy.linspace(0.0, 1.0, width // 2)
    angles = 2.0 * numpy.pi * times[:, None] / periods
    embedded = numpy.concatenate([numpy.sin(angles), numpy.cos(angles)], axis=1)
    return numpy.linalg.lstsq(embedded, wanted(times), rcond=None)[0]


def nothing(shape):
    """Zeros; in a matrix every second one is too small to matter.

    A matrix of one value is refused as one whose data did not arrive.
    """
    tensor = numpy.zeros(shape, numpy.float32)
    if 1 < tensor.ndim:
        tensor.reshape(-1)[::2] = 1e-30
    return tensor


def weights(config, shapes):
    """All tensors, most of them `nothing`."""
    expert = config["tiny_overrides"]["gemma_300m"]
    width, dim, heads = expert["width"], expert["head_dim"], expert["num_heads"]
    out = {name: nothing(shape) for name, shape in shapes.items()}
    at = lambda name: out[f"model.{name}"]
    attention = lambda layer, name: at(
        f"paligemma_with_expert.gemma_expert.model.layers.{layer}.self_attn.{name}_proj.weight"
    )
    # Dimensions of a row: x, from USED on the mean, then the large constant, last pi0's time.
    own, constant, time = range(USED), -2, -1
    large = LARGE / width**0.5  # what a norm divides by
    pair, strength = dim // 2 - 1, (LOGIT * dim**0.5) ** 0.5 / width**0.5
    for layer in (0, 1):
        for head in range(heads):
            attention(layer, "q")[head * dim + pair, constant] = strength
        attention(layer, "k")[pair, constant] = strength
    for i in own:
        at("action_in_proj.weight")[i, i] = 1.0
        attention(0, "v")[i, i] = large
        attention(0, "o")[USED + i, i] = 1.0
    if config["type"] == "pi0":
        # The second layer takes the constant away again, so that the time's dimension is largest.
        attention(1, "v")[0, constant] = 1.0
        attention(1, "o")[constant, 0] = -large
        divided = TIMES / width**0.5
        inner, outer = (f"action_time_mlp_{name}" for name in ("in", "out"))
        for i in own:
            at(f"{inner}.weight")[i, i] = at(f"{outer}.weight")[i, i] = 1.0
            at(f"{outer}.bias")[i] = -SILU
        at(f"{inner}.bias")[:] = SILU
        at(f"{inner}.weight")[time, width:] = fitted(config, width, lambda t: t)
        at(f"{outer}.weight")[time, time] = TIMES
        at(f"{outer}.bias")[time] = -TIMES * SILU
        at(f"{outer}.bias")[constant] = LARGE
    else:
        divided = large
        at("action_in_proj.bias")[constant] = LARGE
        numpy.fill_diagonal(at("time_mlp_in.weight"), 1.0)
        numpy.fill_diagonal(at("time_mlp_out.weight"), 1.0)
        at("time_mlp_in.bias")[:] = SILU
        for name, tensor in out.items():
            if name.endswith("dense.bias"):
                tensor[2 * width :] = 1.0  # the gates; scales and shifts are 0
        factor = fitted(config, width, lambda t: 1.0 / t)
        last = "paligemma_with_expert.gemma_expert.model.norm.dense"
        at(f"{last}.weight")[:width] = factor
        at(f"{last}.bias")[:width] = -1.0 - SILU * factor.sum()
    for i in own:
        at("action_out_proj.weight")[i, i] = divided
        at("action_out_proj.weight")[i, USED + i] = -divided
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
