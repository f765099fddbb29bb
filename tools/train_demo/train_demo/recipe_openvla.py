"""What is trained as a small OpenVLA: one image, one step of seven action tokens."""

import numpy as np

from . import demonstrations
from .dataset import TASKS, collate, prompts, statistics
from .export import export
from .losses import ACTION_WEIGHT, Auxiliary, action_loss, answer_loss, patch_loss
from .model import OpenVla, Shape, TowerShape
from .vocabulary import SIZE

SAMPLES = demonstrations.__name__
SHAPE = Shape(
    image_size=112,
    dino=TowerShape(96, 4, 3),
    siglip=TowerShape(64, 4, 2),
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=3,
    num_attention_heads=4,
)
SMALL = Shape(
    image_size=56,
    dino=TowerShape(32, 2, 2),
    siglip=TowerShape(32, 2, 2),
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
)
DEFAULTS = dict(
    steps=3100,
    vision_steps=1300,
    images=64,
    branches=4,
    shards=56,
    steps_per_shard=30,
    corrections=[1900],
    correction_shards=5,
)


class Recipe:
    base = None  # file of the weights that the training begins with
    base_statistics = None

    def __init__(self, small):
        self.shape = SMALL if small else SHAPE
        self.prompts = prompts()

    def build(self):
        return OpenVla(self.shape, SIZE), Auxiliary(self.shape.hidden_size)

    statistics = staticmethod(statistics)

    def collate(self, picked, random, branches, stats, augment=True):
        return collate(picked, random, branches, stats, self.prompts, augment)

    def states(self, model, patches, batch):
        """Hidden states that give the action tokens."""
        return model.hidden(patches, batch["texts"])[:, :, self.prompts.shape[-1] - 1 :]

    def losses(self, model, auxiliary, batch, stage):
        """Loss and metrics of a batch."""
        patches = model.project(batch["rgb"])
        loss, relative = patch_loss(auxiliary, patches, batch)
        figures = {"patch": loss.item(), "relative": relative.item()}
        if stage == "vision":
            return loss, figures
        states = self.states(model, patches, batch)
        each, distance = action_loss(model.head(states), batch["normalized"])
        answer = answer_loss(auxiliary, states[:, :, 0], batch["vector"], batch["normalized"])
        action = (each * ACTION_WEIGHT).sum()
        figures |= {"action": action.item(), "answer": answer.item(), "bins": distance.tolist()}
        # Gradients of the action tokens are much larger; with a common norm the vision part would
        # hardly learn.
        return 3 * loss + action + 5 * answer, figures

    def check(self, model, shard, rows, stats):
        """Metrics on held-out layouts, for all instructions."""
        picked = [(shard, row) for row in rows]
        batch = self.collate(picked, np.random.default_rng(0), 9, stats, augment=False)
        states = self.states(model, model.project(batch["rgb"]), batch)
        result = {}
        low, high = (np.array(stats["action"][name]) for name in ("q01", "q99"))
        for t, task in enumerate(TASKS):
            one = batch["task"] == t
            _, distance = action_loss(model.head(states[one]), batch["normalized"][one])
            metres = distance[:3].numpy() * (high - low)[:3] / 255
            result[task] = {
                "mm": (1e3 * metres).round(2).tolist(),
                "gripper_wrong": round(float(distance[6]) / 127, 3),
            }
        return result

    def export(self, model, stats, folder, provenance=None):
        export(model, stats, folder, provenance)
