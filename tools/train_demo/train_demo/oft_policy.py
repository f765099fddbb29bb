"""An exported small OpenVLA-OFT as a policy in PyTorch, for demonstrations and evaluation."""

import numpy as np
import torch

from . import oft_export
from .pi05_policy import rgb_of
from .vocabulary import Vocabulary


def normalize_state(values, family):
    """By quantiles as OpenVLA-OFT, clipped to -1..1."""
    low, high = (np.asarray(family[name]) for name in ("q01", "q99"))
    return np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1)


def normalize_action(values, family):
    """By quantiles as OpenVLA's data pipeline, clipped, where the mask is true."""
    low, high, mask = (np.asarray(family[name]) for name in ("q01", "q99", "mask"))
    return np.where(mask, np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1), values)


def unnormalize_action(values, family):
    low, high, mask = (np.asarray(family[name]) for name in ("q01", "q99", "mask"))
    return np.where(mask, 0.5 * (values + 1) * (high - low + 1e-8) + low, values)


class OftPolicy:
    real_time_chunking = False

    def __init__(self, folder):
        self.model, self.statistics = oft_export.load(folder)
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self.vocabulary = Vocabulary(text)

    @torch.no_grad()
    def act(self, pictures, states, instructions):
        """Chunks of actions [K, 7] in m and rad per step, and the gripper.

        Arguments as `Pi05Policy.sampled`.
        """
        rgb = rgb_of(pictures, self.model.shape.image_size)
        state = normalize_state(states, self.statistics["proprio"])
        ids = torch.tensor([self.vocabulary.prompt_ids(text)[1:] for text in instructions])
        chunks, _ = self.model.answer(self.model.see(rgb), ids, torch.from_numpy(state).float())
        return list(unnormalize_action(chunks.numpy(), self.statistics["action"]))
