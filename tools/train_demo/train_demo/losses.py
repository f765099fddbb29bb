"""What is learnt from: action tokens, and auxiliary targets that are thrown away with their heads at export.

Finding a block's place relative to the gripper from scratch is the hard part. Action tokens alone teach it slowly; asked of every patch directly, it is
learnt in minutes, and the language model only has to look it up.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .vocabulary import ACTION_END, BINS, WORD_SLOTS

COLOURS = 4
# Lengths in the auxiliary targets are in units of this [m], so that they are about one.
UNIT = 0.1
# Width of the soft target around the right bin, in bins, per action dimension: neighbours are
# almost right, and the network is told so.
SPREAD = torch.tensor([2.5, 2.5, 2.5, 0.4, 0.4, 0.4, 0.4])


class Auxiliary(nn.Module):
    """Heads that only training has."""

    def __init__(self, hidden):
        super().__init__()
        self.patch = nn.Linear(hidden, COLOURS + 3)  # which block is here; from tool to block
        self.image = nn.Linear(hidden, 4)  # tool position, finger opening
        self.answer = nn.Linear(
            hidden, 6
        )  # from tool to the block that was named; the action's translation


def patch_loss(auxiliary, patches, batch):
    """Which block each patch shows, how it lies from the tool, and the tool itself."""
    grid = round(patches.shape[1] ** 0.5)
    centre = (torch.arange(grid).float() + 0.5) / grid
    place = torch.stack([centre.repeat(grid), centre.repeat_interleave(grid)], -1)
    away = (place[None, :, None] - batch["block_uv"][:, None]) * grid
    near = torch.exp(-away.pow(2).sum(-1) / (2 * 0.6**2))  # [B, P, blocks]
    there = torch.zeros(*near.shape[:2], COLOURS)
    there.scatter_(2, batch["colour"][:, None].expand(-1, near.shape[1], -1), near)
    found = auxiliary.patch(patches)
    seen = F.binary_cross_entropy_with_logits(found[..., :COLOURS], there)
    weight, nearest = near.max(-1)
    vector = ((batch["block"] - batch["tip"][:, None]) / UNIT).gather(
        1, nearest[..., None].expand(-1, -1, 3)
    )
    weight = weight * (weight > 0.2)
    error = F.smooth_l1_loss(found[..., COLOURS:], vector, reduction="none", beta=0.1).sum(-1)
    relative = (error * weight).sum() / weight.sum()
    target = torch.cat(
        [(batch["tip"] - torch.tensor([0.45, 0.0, 0.1])) / UNIT, batch["opening"][:, None]], -1
    )
    tool = F.smooth_l1_loss(auxiliary.image(patches.mean(1)), target, beta=0.1)
    return 3 * seen + relative + tool, relative


def soft_targets(normalized):
    """Probabilities over the action ids (ascending) around normalized values [.., 7]: [.., 7, 256]."""
    ids = torch.arange(BINS - 1, -1, -1).float()  # bin of each id
    place = ((normalized + 1) * (BINS - 1) / 2 - 0.5).clamp(0, BINS - 2)
    weight = torch.exp(-(ids - place[..., None]).pow(2) / (2 * SPREAD[:, None] ** 2))
    # Values at rest sit between two bins' centres or on one; narrow spreads must not vanish.
    return weight / weight.sum(-1, keepdim=True).clamp_min(1e-9)


def action_loss(logits, normalized):
    """Cross entropy over the whole vocabulary; also the mean distance in bins of the best id, per dimension."""
    log = logits.log_softmax(-1)[..., WORD_SLOTS:ACTION_END]
    loss = -(soft_targets(normalized) * log).sum(-1)
    with torch.no_grad():
        best = BINS - 1 - log.argmax(-1)
        place = ((normalized + 1) * (BINS - 1) / 2 - 0.5).clamp(0, BINS - 2)
        distance = (best - place).abs().flatten(0, -2).mean(0)
    return loss.flatten(0, -2).mean(0), distance


def answer_loss(auxiliary, state, vector, normalized):
    """From the state that chooses the first action token: the way to the named block, and the translation itself."""
    target = torch.cat([vector / UNIT, normalized[..., :3]], -1)
    return F.smooth_l1_loss(auxiliary.answer(state), target, beta=0.1)


def jitter(ids, random):
    """Teacher's tokens a few bins off at times, as the policy's own will be."""
    noise = np.rint(random.normal(0, 5, ids.shape)).astype(np.int64) * (
        random.random(ids.shape[:-1] + (1,)) < 0.5
    )
    noise[..., 3:] = 0
    return np.clip(ids + noise, WORD_SLOTS, ACTION_END - 1)
