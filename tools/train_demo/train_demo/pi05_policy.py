"""An exported small pi0.5 as a policy in PyTorch, for demonstrations and evaluation without ROS."""

import numpy as np
import torch
import torch.nn.functional as F

from . import pi05_export
from .pi05_vocabulary import Vocabulary, state_bins


def normalize(values, family):
    """By quantiles as LeRobot: q01 to q99 become -1 to 1; nothing is clipped."""
    low, high = family["q01"], family["q99"]
    return 2 * (values - low) / (high - low) - 1


def unnormalize(values, family):
    low, high = family["q01"], family["q99"]
    return (values + 1) / 2 * (high - low) + low


def rgb_of(pictures, side):
    """Images [B, C, 3, side, side] in 0..1 of uint8 ones, of that size or twice it.

    At half size as LeRobot's bilinear resize does it. `pictures`: B times those of the cameras.
    """
    rgb = torch.from_numpy(np.stack([np.stack(cameras) for cameras in pictures]))
    rgb = rgb.permute(0, 1, 4, 2, 3).float() / 255
    if rgb.shape[-1] == side:
        return rgb
    if rgb.shape[-2:] != (2 * side, 2 * side):
        raise ValueError(f"pictures: {tuple(rgb.shape[-2:])} is not twice {side} pixels")
    return F.avg_pool2d(rgb.flatten(0, 1), 2).unflatten(0, rgb.shape[:2])


class Pi05Policy:
    real_time_chunking = True

    def __init__(self, folder):
        self.model, self.statistics = pi05_export.load(folder)
        text = (folder / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
        self.vocabulary = Vocabulary(text)
        self.noise = torch.Generator().manual_seed(0)

    def sampled(self, pictures, states, instructions, noise=None, given=None):
        """Normalised chunks [n, K, A].

        `pictures`: n times the cameras' images, uint8, of the model's size or twice that.
        `states` [n, 4]: tool [m] and opening. All prompts must have the same number of tokens.
        `given`: the action prefix of each chunk [its delay, 7], as `act` returns actions.
        """
        shape = self.model.shape
        rgb = rgb_of(pictures, shape.image_size)
        bins = state_bins(normalize(states, self.statistics["observation.state"]))
        ids = [self.vocabulary.prompt_ids(*pair) for pair in zip(instructions, bins)]
        if noise is None:
            noise = torch.randn(len(ids), shape.chunk, shape.action, generator=self.noise)
        clean, delay = noise.clone(), torch.zeros(len(ids), dtype=torch.int64)
        for row, steps in enumerate(given or []):
            delay[row] = len(steps)
            if len(steps):
                steps = normalize(steps, self.statistics["action"])
                clean[row, : len(steps)] = torch.from_numpy(steps).float()
        return self.model.sample(rgb, torch.tensor(ids), noise, clean, delay).numpy()

    def act(self, pictures, states, instructions, noise=None, given=None):
        """Chunks of actions [K, 7] in m and rad per step, and the gripper."""
        sampled = self.sampled(pictures, states, instructions, noise, given)
        return list(unnormalize(sampled, self.statistics["action"]))
