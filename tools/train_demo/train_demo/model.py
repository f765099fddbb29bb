"""OpenVLA in PyTorch for training: DINOv2 and SigLIP towers, fused projector, Llama.

Module names are the checkpoint's tensor names, so `state_dict()` is the file's content. Tensors
that inference does not use (each tower's last block and final norm, SigLIP's attention pool) are
added at export, see `export.py`.

Shapes: B images, R instructions per image, P patches, L text positions per instruction (prompt
without BOS, then action tokens).
"""

from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

PATCH = 14
NORM_EPSILON = 1e-6
# timm's `mlp_ratio` of the two architectures; the width inside the MLP is floor(width * ratio).
MLP_RATIO = {"dino": 4.0, "siglip": 3.7362}
REGISTERS = 4
MEANS = [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]]
STDS = [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]]


@dataclass(frozen=True)
class TowerShape:
    """One vision tower. `depth` counts the last block, which is stored and never run."""

    embed_dim: int = 96
    depth: int = 5
    num_heads: int = 3


@dataclass(frozen=True)
class Shape:
    """Everything that sets the size of the model."""

    image_size: int = 112
    dino: TowerShape = field(default_factory=TowerShape)
    siglip: TowerShape = field(default_factory=TowerShape)
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 3
    num_attention_heads: int = 6
    rope_theta: float = 10000.0

    @property
    def patches(self):
        return (self.image_size // PATCH) ** 2

    @property
    def vision_size(self):
        return self.dino.embed_dim + self.siglip.embed_dim

    def as_dict(self):
        return asdict(self)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, rows, width = x.shape
        q, k, v = self.qkv(x).view(batch, rows, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, rows, width)
        )


class Mlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        # DINOv2 starts at 1e-5 for depth 40; a shallow tower that learns in an hour cannot wait for
        # that.
        self.scale_factor = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        return x * self.scale_factor


class Block(nn.Module):
    def __init__(self, width, heads, inner, layer_scale):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPSILON)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, NORM_EPSILON)
        self.mlp = Mlp(width, inner)
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


def patch_rows(pixels, proj):
    """Patch embeddings [B, P, width] by the convolution `proj` with a stride of its size.

    As one product: several times faster than the convolution on a CPU, forwards and backwards.
    """
    batch, channels, height, width = pixels.shape
    rows, columns = height // PATCH, width // PATCH
    x = pixels.view(batch, channels, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3, 5)
    return F.linear(x.reshape(batch, rows * columns, -1), proj.weight.flatten(1), proj.bias)


class PatchEmbed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, pixels):
        return patch_rows(pixels, self.proj)


class Tower(nn.Module):
    """The output is that of the second-to-last block, without the final norm.

    Therefore the last block does not exist here.
    """

    def __init__(self, shape, patches, kind):
        super().__init__()
        width, dino = shape.embed_dim, kind == "dino"
        self.prefix_tokens = 1 + REGISTERS if dino else 0
        if dino:
            self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.reg_token = nn.Parameter(torch.randn(1, REGISTERS, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, patches, width) * 0.02)
        self.patch_embed = PatchEmbed(width)
        inner = int(width * MLP_RATIO[kind])
        self.blocks = nn.ModuleList(
            Block(width, shape.num_heads, inner, dino) for _ in range(shape.depth - 1)
        )

    def forward(self, pixels):
        x = self.patch_embed(pixels) + self.pos_embed
        if self.prefix_tokens:
            prefix = torch.cat([self.cls_token, self.reg_token], 1)
            x = torch.cat([prefix.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, self.prefix_tokens :]


class VisionBackbone(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.featurizer = Tower(shape.dino, shape.patches, "dino")
        self.fused_featurizer = Tower(shape.siglip, shape.patches, "siglip")
        for index, (mean, std) in enumerate(zip(MEANS, STDS)):
            self.register_buffer(
                f"mean{index}", torch.tensor(mean)[:, None, None], persistent=False
            )
            self.register_buffer(f"std{index}", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, rgb):
        """Patch features [B, P, sum of widths] of images [B, 3, side, side] in 0..1."""
        dino = self.featurizer((rgb - self.mean0) / self.std0)
        return torch.cat([dino, self.fused_featurizer((rgb - self.mean1) / self.std1)], -1)


class Projector(nn.Module):
    def __init__(self, vision, hidden):
        super().__init__()
        self.fc1 = nn.Linear(vision, 4 * vision)
        self.fc2 = nn.Linear(4 * vision, hidden)
        self.fc3 = nn.Linear(hidden, hidden)

    def forward(self, x):
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + NORM_EPSILON))


class SelfAttention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(hidden, hidden, bias=False))


class GatedMlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def rotate(x, cos, sin):
    """RoPE in Hugging Face's order: pairs (i, i + d/2). `x` is [.., heads, rows, d]."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class DecoderLayer(nn.Module):
    def __init__(self, hidden, inner, heads):
        super().__init__()
        self.self_attn = SelfAttention(hidden, heads)
        self.mlp = GatedMlp(hidden, inner)
        self.input_layernorm = RmsNorm(hidden)
        self.post_attention_layernorm = RmsNorm(hidden)

    def forward(self, x, attend):
        a = self.self_attn
        h = self.input_layernorm(x)
        x = x + a.o_proj(attend(a.q_proj(h), a.k_proj(h), a.v_proj(h)))
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    def __init__(self, shape, vocabulary):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, shape.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(shape.hidden_size, shape.intermediate_size, shape.num_attention_heads)
            for _ in range(shape.num_hidden_layers)
        )
        self.norm = RmsNorm(shape.hidden_size)


class LanguageModel(nn.Module):
    def __init__(self, shape, vocabulary):
        super().__init__()
        self.model = LlamaModel(shape, vocabulary)
        self.lm_head = nn.Linear(shape.hidden_size, vocabulary, bias=False)


class OpenVla(nn.Module):
    def __init__(self, shape, vocabulary):
        super().__init__()
        self.shape = shape
        self.vision_backbone = VisionBackbone(shape)
        self.projector = Projector(shape.vision_size, shape.hidden_size)
        self.language_model = LanguageModel(shape, vocabulary)
        self.initialise()

    def initialise(self):
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=module.weight.flatten(1).shape[1] ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.language_model.model.embed_tokens.weight, std=0.5)
        nn.init.normal_(self.language_model.lm_head.weight, std=0.02)

    def project(self, rgb):
        """Patch embeddings [B, P, hidden] of images [B, 3, side, side] in 0..1."""
        return self.projector(self.vision_backbone(rgb))

    def hidden(self, patches, texts):
        """Final hidden states [B, R, L, hidden] at the text positions.

        `texts` [B, R, L] are ids after BOS: prompt, action tokens, any padding. The sequence is
        `[BOS, patches, text]`, causal. All instructions of an image share the states of BOS and
        patches, which depend on no later position and are computed once.
        """
        model, heads = self.language_model.model, self.shape.num_attention_heads
        batch, branches, length = texts.shape
        bos = model.embed_tokens(texts.new_ones(1))[None].expand(batch, -1, -1)
        prefix = torch.cat([bos, patches], 1)
        rows, hidden = prefix.shape[1:]
        x = torch.cat([prefix.flatten(0, 1), model.embed_tokens(texts).flatten(0, 2)])
        cut = batch * rows
        cos, sin = self.rotary(rows + length)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mask = torch.cat([torch.ones(length, rows, dtype=torch.bool), causal], 1)

        def split(x):
            before = x[:cut].view(batch, rows, heads, -1).transpose(1, 2)
            after = x[cut:].view(batch, branches, length, heads, -1).transpose(2, 3)
            return before, after

        def attend(q, k, v):
            (q, q_text), (k, k_text), (v, v_text) = split(q), split(k), split(v)
            q, k = (rotate(t, cos[:rows], sin[:rows]) for t in (q, k))
            q_text, k_text = (rotate(t, cos[rows:], sin[rows:]) for t in (q_text, k_text))
            before = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            k, v = (
                torch.cat([t[:, None].expand(-1, branches, -1, -1, -1), text], 3)
                for t, text in ((k, k_text), (v, v_text))
            )
            after = F.scaled_dot_product_attention(q_text, k, v, attn_mask=mask)
            before = before.transpose(1, 2).reshape(cut, hidden)
            return torch.cat([before, after.transpose(2, 3).reshape(-1, hidden)])

        for layer in model.layers:
            x = layer(x, attend)
        return model.norm(x[cut:]).view(batch, branches, length, hidden)

    def rotary(self, rows):
        dim = self.shape.hidden_size // self.shape.num_attention_heads
        frequency = 1.0 / self.shape.rope_theta ** (torch.arange(0, dim, 2).float() / dim)
        angle = torch.outer(torch.arange(rows).float(), frequency)
        return angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def head(self, states):
        return self.language_model.lm_head(states)

    @torch.no_grad()
    def generate(self, rgb, prompts, tokens=7):
        """Greedy tokens over the whole vocabulary, [B, tokens].

        `prompts` [B, L] are ids after BOS. The sequence is recomputed at every token, which for so
        few tokens is as fast as a KV cache.
        """
        patches, texts = self.project(rgb), prompts[:, None]
        for _ in range(tokens):
            best = self.head(self.hidden(patches, texts)[:, :, -1]).argmax(-1)
            texts = torch.cat([texts, best[..., None]], 2)
        return texts[:, 0, -tokens:]
