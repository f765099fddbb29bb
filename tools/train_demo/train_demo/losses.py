"""Losses: action tokens, and auxiliary targets whose heads are not exported.

The position of a block relative to the gripper is the hardest to learn. From action tokens alone it
is learnt slowly; as a target of every patch it is learnt in minutes, and the language model only
has to select it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .vocabulary import ACTION_END, BINS, WORD_SLOTS

COLOURS = 4
# Unit of length in the auxiliary targets [m], so that values are about one.
UNIT = 0.1
# Of each column of an action in its loss.
ACTION_WEIGHT = torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.7])
# Width of the soft target around the right bin per action dimension, in bins: neighbouring bins are
# almost correct.
SPREAD = torch.tensor([2.5, 2.5, 2.5, 0.4, 0.4, 0.4, 0.4])


class Auxiliary(nn.Module):
    """Heads that exist during training only."""

    def __init__(self, hidden):
        super().__init__()
        self.patch = nn.Linear(hidden, COLOURS + 3)  # which block is here; from tool to block
        self.image = nn.Linear(hidden, 4)  # tool position, finger opening
        self.answer = nn.Linear(
            hidden, 6
        )  # from tool to the block that was named; the action's translation


def nearness(patches, uv, kinds):
    """How near each thing is to the middle of each patch, 1 there, [B, patches, n].

    `uv` [B, n, 2] in 0..1 of the image, `kinds` [B, n] (-1: not there).
    """
    grid = round(patches**0.5)
    centre = (torch.arange(grid).float() + 0.5) / grid
    place = torch.stack([centre.repeat(grid), centre.repeat_interleave(grid)], -1)
    away = (place[None, :, None] - uv[:, None]) * grid
    return torch.exp(-away.pow(2).sum(-1) / (2 * 0.6**2)) * (kinds >= 0)[:, None]


def located(found, uv, kinds, vectors, classes):
    """Losses of what is in each patch, and of its position from the tool.

    `found` [B, P, classes + 3] of the patches; `uv` [B, n, 2], `kinds` [B, n] (-1: not there) and
    `vectors` [B, n, 3] of the things.
    """
    near = nearness(found.shape[1], uv, kinds)
    there = torch.zeros(*near.shape[:2], classes)
    kinds = kinds.clamp_min(0)[:, None].expand(-1, near.shape[1], -1)
    there.scatter_reduce_(2, kinds, near, "amax")
    seen = F.binary_cross_entropy_with_logits(found[..., :classes], there)
    weight, nearest = near.max(-1)
    vector = (vectors / UNIT).gather(1, nearest[..., None].expand(-1, -1, 3))
    weight = weight * (weight > 0.2)
    error = F.smooth_l1_loss(found[..., classes:], vector, reduction="none", beta=0.1).sum(-1)
    return seen, (error * weight).sum() / weight.sum().clamp_min(1e-6)


def tool_target(tip, opening):
    """Position of the tool from the middle of its workspace, and finger opening, [B, 4]."""
    return torch.cat([(tip - torch.tensor([0.45, 0.0, 0.1])) / UNIT, opening], -1)


def patch_loss(auxiliary, patches, batch):
    """Loss of the block in each patch, its position from the tool, and the tool's position."""
    vectors = batch["block"] - batch["tip"][:, None]
    found = auxiliary.patch(patches)
    seen, relative = located(found, batch["block_uv"], batch["colour"], vectors, COLOURS)
    target = tool_target(batch["tip"], batch["opening"][:, None])
    tool = F.smooth_l1_loss(auxiliary.image(patches.mean(1)), target, beta=0.1)
    return 3 * seen + relative + tool, relative


def soft_targets(normalized):
    """Target probabilities of the action ids (ascending), [.., 7, 256], for normalized [.., 7]."""
    ids = torch.arange(BINS - 1, -1, -1).float()  # bin of each id
    place = ((normalized + 1) * (BINS - 1) / 2 - 0.5).clamp(0, BINS - 2)
    weight = torch.exp(-(ids - place[..., None]).pow(2) / (2 * SPREAD[:, None] ** 2))
    # Zero is between two bin centres or on one; a narrow distribution must not vanish there.
    return weight / weight.sum(-1, keepdim=True).clamp_min(1e-9)


def action_loss(logits, normalized):
    """Cross entropy over the whole vocabulary, and the argmax's mean distance in bins [7]."""
    log = logits.log_softmax(-1)[..., WORD_SLOTS:ACTION_END]
    loss = -(soft_targets(normalized) * log).sum(-1)
    with torch.no_grad():
        best = BINS - 1 - log.argmax(-1)
        place = ((normalized + 1) * (BINS - 1) / 2 - 0.5).clamp(0, BINS - 2)
        distance = (best - place).abs().flatten(0, -2).mean(0)
    return loss.flatten(0, -2).mean(0), distance


def answer_loss(auxiliary, state, vector, normalized):
    """Loss of the named block's position and of the translation, from the first action's state."""
    target = torch.cat([vector / UNIT, normalized[..., :3]], -1)
    return F.smooth_l1_loss(auxiliary.answer(state), target, beta=0.1)


def jitter(ids, random):
    """Input tokens that are sometimes a few bins off, like the policy's own."""
    noise = np.rint(random.normal(0, 5, ids.shape)).astype(np.int64) * (
        random.random(ids.shape[:-1] + (1,)) < 0.5
    )
    noise[..., 3:] = 0
    return np.clip(ids + noise, WORD_SLOTS, ACTION_END - 1)
