"""pi0.5 in PyTorch for training: SigLIP tower, Gemma prefix, action expert with adaptive norms.

Module names are LeRobot's tensor names without the leading "model.", so `state_dict()` is the
file's content but for tensors that inference does not use (see `pi05_export.py`).

Shapes: B observations, C cameras, R instructions per observation, P patches per camera, T text
tokens, D noise samples per instruction, K steps of a chunk, A columns of an action.
"""

import math
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from .model import PATCH, patch_rows, rotate

EPSILON = 1e-6
PERIODS = 0.004, 4.0  # shortest and longest of the time embedding, LeRobot's defaults


@dataclass(frozen=True)
class GemmaShape:
    width: int = 128
    depth: int = 3
    mlp_dim: int = 352
    num_heads: int = 4
    num_kv_heads: int = 1
    head_dim: int = 32


@dataclass(frozen=True)
class SiglipShape:
    hidden_size: int = 96
    num_hidden_layers: int = 3
    num_attention_heads: int = 3
    intermediate_size: int = 256


@dataclass(frozen=True)
class Pi05Shape:
    """Everything that sets the size of the model. `max_delay`: of real-time chunking [steps]."""

    image_size: int = 112
    cameras: tuple = ("image", "wrist_image")
    vision: SiglipShape = field(default_factory=SiglipShape)
    vlm: GemmaShape = field(default_factory=GemmaShape)
    expert: GemmaShape = field(default_factory=GemmaShape)
    chunk: int = 16
    action: int = 7
    state: int = 4
    vocabulary: int = 320
    max_delay: int = 8

    def as_dict(self):
        return asdict(self)


class Names(nn.Module):
    """A level of the tensor names."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class VisionAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(width, width))

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class VisionLayer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width = shape.hidden_size
        self.layer_norm1 = nn.LayerNorm(width, EPSILON)
        self.self_attn = VisionAttention(width, shape.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = Names(
            fc1=nn.Linear(width, shape.intermediate_size),
            fc2=nn.Linear(shape.intermediate_size, width),
        )

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.mlp.fc1(self.layer_norm2(x))
        return x + self.mlp.fc2(F.gelu(hidden, approximate="tanh"))


class VisionModel(nn.Module):
    def __init__(self, shape, patches):
        super().__init__()
        width = shape.hidden_size
        self.embeddings = Names(
            patch_embedding=nn.Conv2d(3, width, PATCH, PATCH),
            position_embedding=nn.Embedding(patches, width),
        )
        self.encoder = Names(
            layers=nn.ModuleList(VisionLayer(shape) for _ in range(shape.num_hidden_layers))
        )
        self.post_layernorm = nn.LayerNorm(width, EPSILON)

    def forward(self, pixels):
        x = patch_rows(pixels, self.embeddings.patch_embedding)
        x = x + self.embeddings.position_embedding.weight
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x, _=None):
        return normalized(x) * (1.0 + self.weight), None


class AdaptiveNorm(nn.Module):
    """Scale and shift of the rows, and the gate of their branch, from the time."""

    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)

    def forward(self, x, time):
        scale, shift, gate = self.dense(time).chunk(3, -1)
        return normalized(x) * (1.0 + scale) + shift, gate


def normalized(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON)


class GemmaLayer(nn.Module):
    def __init__(self, shape, norm):
        super().__init__()
        width, inner = shape.width, shape.num_heads * shape.head_dim
        linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
        self.heads, self.dim = shape.num_heads, shape.head_dim
        self.self_attn = Names(
            q_proj=linear(width, inner),
            k_proj=linear(width, shape.head_dim),
            v_proj=linear(width, shape.head_dim),
            o_proj=linear(inner, width),
        )
        self.mlp = Names(
            gate_proj=linear(width, shape.mlp_dim),
            up_proj=linear(width, shape.mlp_dim),
            down_proj=linear(shape.mlp_dim, width),
        )
        self.input_layernorm, self.post_attention_layernorm = norm(width), norm(width)

    def keys(self, x, table, time=None):
        """The normed rows, the gate of their branch, keys and values, each [.., 1, rows, dim]."""
        h, gate = self.input_layernorm(x, time)
        k, v = self.self_attn.k_proj(h)[..., None, :, :], self.self_attn.v_proj(h)[..., None, :, :]
        return h, gate, (rotate(k, *table), v)

    def forward(self, x, table, before=None, time=None):
        """The output [N, rows, width], and keys and values of these rows alone."""
        h, gate, own = self.keys(x, table, time)
        k, v = own if before is None else (torch.cat(pair, -2) for pair in zip(before, own))
        q = self.self_attn.q_proj(h).unflatten(-1, (self.heads, self.dim)).transpose(1, 2)
        k, v = (t.expand(-1, self.heads, -1, -1) for t in (k, v))
        h = F.scaled_dot_product_attention(rotate(q, *table), k, v).transpose(1, 2).flatten(2)
        h = self.self_attn.o_proj(h)
        x = x + (h if gate is None else h * gate)
        h, gate = self.post_attention_layernorm(x, time)
        gelu = F.gelu(self.mlp.gate_proj(h), approximate="tanh")
        h = self.mlp.down_proj(gelu * self.mlp.up_proj(h))
        return x + (h if gate is None else h * gate), own


def gemma(shape, norm, rows=None):
    layers = nn.ModuleList(GemmaLayer(shape, norm) for _ in range(shape.depth))
    table = {} if rows is None else {"embed_tokens": nn.Embedding(rows, shape.width)}
    return Names(**table, layers=layers, norm=norm(shape.width))


class Pi05(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        width, patches = shape.expert.width, (shape.image_size // PATCH) ** 2
        self.patches = patches
        self.paligemma_with_expert = Names(
            paligemma=Names(
                model=Names(
                    vision_tower=Names(vision_model=VisionModel(shape.vision, patches)),
                    multi_modal_projector=Names(
                        linear=nn.Linear(shape.vision.hidden_size, shape.vlm.width)
                    ),
                    language_model=gemma(shape.vlm, RmsNorm, shape.vocabulary),
                )
            ),
            gemma_expert=Names(model=gemma(shape.expert, AdaptiveNorm)),
        )
        self.action_in_proj = nn.Linear(shape.action, width)
        self.action_out_proj = nn.Linear(width, shape.action)
        self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)
        self.initialise()

    @property
    def paligemma(self):
        return self.paligemma_with_expert.paligemma.model

    @property
    def expert(self):
        return self.paligemma_with_expert.gemma_expert.model

    def initialise(self):
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=module.weight.flatten(1).shape[1] ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, AdaptiveNorm):
                # openpi starts with closed gates and a trained language model; from random weights
                # that wastes the first hundreds of steps.
                nn.init.normal_(module.dense.weight, std=0.02)
                width = module.dense.weight.shape[1]
                nn.init.ones_(module.dense.bias[2 * width :])
        nn.init.normal_(self.paligemma.language_model.embed_tokens.weight, std=0.05)
        vision = self.paligemma.vision_tower.vision_model
        nn.init.normal_(vision.embeddings.position_embedding.weight, std=0.02)
        nn.init.normal_(self.action_out_proj.weight, std=0.02)

    def rotary(self, positions):
        """cos and sin [rows, dim] of RoPE for the positions."""
        half = self.shape.vlm.head_dim // 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = positions.float()[:, None] * frequency
        return angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def see(self, rgb):
        """Image tokens [B, C, P, width] of images [B, C, 3, side, side] in 0..1."""
        features = self.paligemma.vision_tower.vision_model(rgb.flatten(0, 1) * 2 - 1)
        return self.paligemma.multi_modal_projector.linear(features).unflatten(0, rgb.shape[:2])

    def prefix(self, seen, texts):
        """Keys and values of each layer, and the input of the last one, [N, tokens, width].

        `seen` [N, C, P, width], `texts` [N, T]: ids with BOS. Every token attends to all others.
        """
        model = self.paligemma.language_model
        text = model.embed_tokens(texts) * math.sqrt(self.shape.vlm.width)
        x, cache = torch.cat([seen.flatten(1, 2), text], 1), []
        table = self.rotary(torch.arange(x.shape[1]))
        for layer in model.layers[:-1]:
            x, stored = layer(x, table)
            cache.append(stored)
        cache.append(model.layers[-1].keys(x, table)[2])
        return cache, x

    def velocity(self, cache, x, time):
        """Velocity [N * D, K, A] of `x` at `time` [N * D, K]; `cache` is of N prefixes."""
        count, rows = len(x) // len(cache[0][0]), x.shape[1]
        start = cache[0][0].shape[-2]
        table = self.rotary(torch.arange(start, start + rows))
        h = self.action_in_proj(x)
        condition = F.silu(self.time_mlp_in(self.embedded(time)))
        condition = F.silu(self.time_mlp_out(condition))
        for layer, stored in zip(self.expert.layers, cache):
            before = [t.repeat_interleave(count, 0) for t in stored]
            h, _ = layer(h, table, before, condition)
        return self.action_out_proj(self.expert.norm(h, condition)[0])

    def embedded(self, time):
        half, (low, high) = self.shape.expert.width // 2, PERIODS
        fraction = torch.linspace(0.0, 1.0, half, dtype=torch.float64)
        angle = 2.0 * math.pi * time[..., None].double() / (low * (high / low) ** fraction)
        return torch.cat([angle.sin(), angle.cos()], -1).float()

    @torch.no_grad()
    def sample(self, rgb, texts, noise, clean, delay, steps=10):
        """Normalised chunks [N, K, A] by Euler steps from `noise` at time 1 to 0.

        The action prefix of chunk n, `delay[n]` steps, is that of `clean` [N, K, A], at time 0.
        """
        cache, _ = self.prefix(self.see(rgb), texts)
        given = torch.arange(noise.shape[1]) < delay[:, None]
        x = torch.where(given[..., None], clean, noise)
        for step in range(steps):
            time = torch.full(x.shape[:2], 1.0 - step / steps) * ~given
            velocity = self.velocity(cache, x, time) * ~given[..., None]
            x = x - velocity / steps
        return x
