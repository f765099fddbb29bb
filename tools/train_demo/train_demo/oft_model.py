"""OpenVLA-OFT in PyTorch for training: OpenVLA's network answers a chunk in one pass.

Kim, Finn, Liang, "Fine-Tuning Vision-Language-Action Models: Optimizing Speed and Success" (2025),
with the L1 regression head and the state as a row of the input. Module names are the checkpoint's
tensor names; `action_head` and `proprio_projector` are files of their own, see `oft_export.py`.

Shapes: B observations, C cameras, P patches per camera, R instructions per observation, T text
tokens after BOS, K steps of a chunk, A columns of an action.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .model import OpenVla, Shape, rotate

STOP = 2  # id of </s>, the last row


@dataclass(frozen=True)
class OftShape(Shape):
    """Everything that sets the size of the model."""

    cameras: tuple = ("image", "wrist_image")
    chunk: int = 8
    action: int = 7
    state: int = 4


class ResidualBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x):
        return x + self.ffn(x)


class ResidualMlp(nn.Module):
    def __init__(self, inputs, width, outputs):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(2))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, outputs)

    def forward(self, x):
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class ActionHead(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.steps = shape.chunk
        self.model = ResidualMlp(shape.action * shape.hidden_size, shape.hidden_size, shape.action)

    def forward(self, states):
        """Normalised chunks [N, K, A] of the final states [N, K * A, hidden]."""
        return self.model(states.unflatten(1, (self.steps, -1)).flatten(2))


class ProprioProjector(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.fc1 = nn.Linear(shape.state, shape.hidden_size)
        self.fc2 = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, state):
        return self.fc2(F.gelu(self.fc1(state)))


class Oft(OpenVla):
    def __init__(self, shape, vocabulary):
        super().__init__(shape, vocabulary)
        self.action_head, self.proprio_projector = ActionHead(shape), ProprioProjector(shape)
        for module in (*self.action_head.modules(), *self.proprio_projector.modules()):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.weight.shape[1] ** -0.5)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.action_head.model.fc2.weight, std=0.02)

    def see(self, rgb):
        """Patch embeddings [B, C, P, hidden] of images [B, C, 3, side, side] in 0..1."""
        return self.project(rgb.flatten(0, 1)).unflatten(0, rgb.shape[:2])

    def answer(self, seen, texts, state):
        """Normalised chunks [N, K, A], and the input of the last layer [N, rows, hidden].

        `seen` [N, C, P, hidden], `texts` [N, T] after BOS, `state` [N, numbers], normalised. The
        rows are BOS, patches, state, text, zeros for the actions, </s>; every row attends to all.
        """
        model, heads, shape = self.language_model.model, self.shape.num_attention_heads, self.shape
        bos, stop = (
            model.embed_tokens(texts.new_full((len(texts), 1), token)) for token in (1, STOP)
        )
        patches, proprio = seen.flatten(1, 2), self.proprio_projector(state)[:, None]
        slots = shape.chunk * shape.action
        zeros = patches.new_zeros(len(texts), slots, shape.hidden_size)
        x = torch.cat([bos, patches, proprio, model.embed_tokens(texts), zeros, stop], 1)
        cos, sin = self.rotary(x.shape[1])

        def attend(q, k, v):
            q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
            out = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
            return out.transpose(1, 2).flatten(2)

        for layer in model.layers:
            before, x = x, layer(x, attend)
        # Read from the last row of the text on, as the official code does.
        first = 1 + patches.shape[1] + texts.shape[1]
        return self.action_head(model.norm(x[:, first : first + slots])), before
