"""What is trained as a small OpenVLA-OFT: two cameras and the state, chunks by L1 regression.

As the published ones are fine-tuned from OpenVLA, this one is from the small OpenVLA of this
repository, which knows one camera and single steps.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from . import chunk_demonstrations, oft_export, recipe_openvla
from .chunk_recipe import (
    Auxiliary,
    Observations,
    answer_loss,
    at_another_time,
    errors,
    image_loss,
    named_loss,
    statistics,
)
from .instructions import prompt_table
from .losses import ACTION_WEIGHT
from .oft_model import Oft, OftShape
from .oft_policy import normalize_action, normalize_state, unnormalize_action
from .vocabulary import SIZE, UNKNOWN, Vocabulary

BASE = Path(__file__).resolve().parents[3] / "models" / "tabletop" / "model.safetensors"
SAMPLES = chunk_demonstrations.__name__
SHAPE = OftShape(**vars(recipe_openvla.SHAPE))
# The demonstrations' pictures are half of the scene's.
SMALL = OftShape(**vars(recipe_openvla.SMALL) | {"image_size": SHAPE.image_size})
DEFAULTS = dict(
    steps=2600,
    vision_steps=500,
    images=24,
    branches=2,
    shards=56,
    steps_per_shard=15,
    corrections=[1300, 1800],
    correction_shards=2,
    decay=0.35,
)


class Recipe:
    base_statistics = None

    def __init__(self, small):
        self.shape = SMALL if small else SHAPE
        vocabulary = Vocabulary()
        self.words = prompt_table(lambda text: vocabulary.prompt_ids(text)[1:], UNKNOWN)
        self.base = None if small else BASE

    def build(self):
        model = Oft(self.shape, SIZE)
        if self.base:
            stored, own = load_file(self.base), model.state_dict()
            # Of its own are only the parts that OpenVLA does not have.
            for name in own:
                if name.split(".")[0] not in oft_export.PARTS:
                    own[name] = stored[name].float()
            model.load_state_dict(own)
        return model, Auxiliary(self.shape.hidden_size)

    statistics = staticmethod(statistics)

    def collate(self, picked, random, branches, stats, augment=True):
        """Tensors of a batch."""
        seen, stats = Observations(picked, random, branches), oft_export.entry(stats)
        batch = seen.batch(random if augment else None)
        state = seen.arrays["state"]
        if augment:
            state = at_another_time(state, [0.002, 0.002, 0.002, 0.006], random)
        chunk = normalize_action(seen.chunk[:, :, : self.shape.chunk], stats["action"])
        return batch | {
            "texts": torch.from_numpy(self.words[(seen.task, *seen.names())]),
            "numbers": torch.from_numpy(normalize_state(state, stats["proprio"])).float(),
            "first": torch.from_numpy(chunk[:, :, 0, [0, 1, 2, 6]]).float(),
            "chunk": torch.from_numpy(chunk).float(),
        }

    def answers(self, model, batch, seen):
        """Normalised chunks of every instruction, and their states."""
        branches = batch["texts"].shape[1]
        seen, numbers = (t.repeat_interleave(branches, 0) for t in (seen, batch["numbers"]))
        return model.answer(seen, batch["texts"].flatten(0, 1), numbers)

    def losses(self, model, auxiliary, batch, stage):
        """Loss and metrics of a batch."""
        seen = model.see(batch["rgb"])
        patch, relative = image_loss(auxiliary, seen, batch)
        figures = {"patch": patch.item(), "relative": relative}
        if stage == "vision":
            return patch, figures
        chunks, states = self.answers(model, batch, seen)
        patches = model.shape.patches
        pointed = named_loss(auxiliary.named(states[:, 1:]), batch, patches)
        # The last row of the text is the first that is read for the actions.
        first = 1 + len(model.shape.cameras) * patches + batch["texts"].shape[2]
        answer = answer_loss(auxiliary, states[:, first], batch)
        each = F.l1_loss(chunks, batch["chunk"].flatten(0, 1), reduction="none").mean((0, 1))
        figures |= {"l1": each.sum().item(), "answer": answer.item(), "named": pointed.item()}
        return patch + 8 * (each * ACTION_WEIGHT).sum() + 5 * answer + 20 * pointed, figures

    @torch.no_grad()
    def check(self, model, shard, rows, stats):
        """Errors of chunks on held-out layouts: of the first five steps together, in mm."""
        picked, random = [(shard, row) for row in rows], np.random.default_rng(0)
        batch = self.collate(picked, random, 4, stats, augment=False)
        chunks, _ = self.answers(model, batch, model.see(batch["rgb"]))
        family, wanted = oft_export.entry(stats)["action"], batch["chunk"].flatten(0, 1)
        made, wanted = (unnormalize_action(t.numpy(), family) for t in (chunks, wanted))
        error = made - wanted
        tasks = batch["task"].flatten().numpy()
        return errors(error[:, :5], tasks, {"": np.ones(len(error), bool)})

    def export(self, model, stats, folder, provenance=None):
        oft_export.export(model, stats, folder, provenance)
