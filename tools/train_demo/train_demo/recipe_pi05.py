"""What is trained as a small pi0.5: two cameras and the state, chunks of actions by flow matching.

Training for real-time chunking (arXiv 2512.05964): of half of the chunks the first steps, up to
`max_delay`, are an action prefix: without noise, at time 0, without loss. Unlike there it is not
the label's own but perturbed, and the label is what the expert does after it. With the label's own
prefix a model learns to extrapolate the prefix, and does not correct its errors from the images.
"""

import numpy as np
import torch

from . import chunk_demonstrations, pi05_export
from .chunk_recipe import (
    Auxiliary,
    Observations,
    answer_loss,
    at_another_time,
    errors,
    families,
    image_loss,
    named_loss,
    statistics,
)
from .ideal import perturbed_prefix, planned
from .losses import ACTION_WEIGHT
from .pi05_model import GemmaShape, Pi05, Pi05Shape, SiglipShape
from .pi05_policy import normalize, unnormalize
from .pi05_vocabulary import FIRST_BIN, Vocabulary, state_bins

SAMPLES = chunk_demonstrations.__name__
SHAPE = Pi05Shape()
SMALL = Pi05Shape(
    vision=SiglipShape(32, 2, 2, 64),
    vlm=GemmaShape(64, 2, 96, 2, 1, 32),
    expert=GemmaShape(64, 2, 96, 2, 1, 32),
)
# A step of the vision half alone takes a quarter of the time of a whole one.
DEFAULTS = dict(
    steps=5000,
    vision_steps=2200,
    action_steps=500,
    images=32,
    branches=2,
    shards=56,
    steps_per_shard=39,
    corrections=[3200, 4000],
    correction_shards=3,
    decay=0.3,
)
WEIGHTS = "model.safetensors"
NOISES = 3  # noise samples per instruction


class Recipe:
    base = None  # file of the weights that the training begins with
    base_statistics = None

    def __init__(self, small):
        self.shape = SMALL if small else SHAPE
        self.words = Vocabulary().table(self.shape.state)

    def begin_with(self, folder):
        """Begins with the weights and statistics of an exported checkpoint, of any size."""
        model, statistics = pi05_export.load(folder)
        self.base, self.shape, self.weights = folder / WEIGHTS, model.shape, model.state_dict()
        self.words = Vocabulary().table(self.shape.state)
        self.base_statistics = {
            feature: {name: values.tolist() for name, values in family.items()}
            for feature, family in statistics.items()
        }

    def build(self):
        model = Pi05(self.shape)
        if self.base:
            model.load_state_dict(self.weights)
        return model, Auxiliary(self.shape.vlm.width)

    statistics = staticmethod(statistics)

    def texts(self, seen, bins):
        """Prompt ids [B, R, T]."""
        ids = self.words[(seen.task, *seen.names())].copy()
        ids[..., -1 - self.shape.state : -1] = FIRST_BIN + bins[:, None].clip(0, 255)
        return ids

    def collate(self, picked, random, branches, stats, augment=True):
        """Tensors of a batch."""
        seen = Observations(picked, random, branches)
        batch = seen.batch(random if augment else None)
        state = normalize(seen.arrays["state"], families(stats, "observation.state"))
        if augment:
            state = at_another_time(state, 0.012, random)
        wide = (*seen.chosen.shape, NOISES)
        delay = random.integers(1, self.shape.max_delay + 1, wide) * (random.random(wide) < 0.5)
        # A chunk for each noise, as the action prefixes differ.
        chunk = seen.chunk[:, :, None].repeat(NOISES, 2)
        for b, r, d in np.argwhere(delay > 0):
            if scene := seen.scene(b, r):
                chunk[b, r, d] = planned(scene, perturbed_prefix(scene, delay[b, r, d], random))
        family = families(stats, "action")
        first = normalize(seen.chunk[:, :, 0], family)[..., [0, 1, 2, 6]]
        noise = random.standard_normal(chunk.shape, dtype=np.float32)
        time = random.beta(1.5, 1.0, wide) * 0.999 + 0.001
        return batch | {
            "texts": torch.from_numpy(self.texts(seen, state_bins(state))),
            "first": torch.from_numpy(first).float(),
            "chunk": torch.from_numpy(normalize(chunk, family)).float(),
            "noise": torch.from_numpy(noise),
            "time": torch.from_numpy(time).float(),
            "delay": torch.from_numpy(delay),
        }

    def freeze(self, model, auxiliary):
        """Leaves the parameters that the stage "actions" trains."""
        auxiliary.requires_grad_(False)
        model.paligemma.vision_tower.requires_grad_(False)

    def losses(self, model, auxiliary, batch, stage):
        """Loss and metrics of a batch."""
        branches = batch["texts"].shape[1]
        prefix = lambda seen: model.prefix(
            seen.repeat_interleave(branches, 0), batch["texts"].flatten(0, 1)
        )
        seen = model.see(batch["rgb"])
        if stage == "actions":
            flow = flow_loss(model, prefix(seen)[0], batch)
            return (flow * ACTION_WEIGHT).mean(0).sum(), {"flow": flow.mean(0).sum().item()}
        patch, relative = image_loss(auxiliary, seen, batch)
        figures = {"patch": patch.item(), "relative": relative}
        if stage == "vision":
            return patch, figures
        cache, states = prefix(seen)
        pointed = named_loss(auxiliary.named(states), batch, model.patches)
        answer = answer_loss(auxiliary, states[:, -1], batch)
        flow = flow_loss(model, cache, batch)
        figures |= {"flow": flow.mean(0).sum().item(), "answer": answer.item()}
        figures |= {"named": pointed.item()}
        actions = (flow * ACTION_WEIGHT).mean(0).sum()
        return patch + 4 * actions + 5 * answer + 20 * pointed, figures

    @torch.no_grad()
    def check(self, model, shard, rows, stats):
        """Errors of sampled chunks on held-out layouts, in mm: of five steps together.

        The first five, and of chunks with an action prefix those after it.
        """
        picked, random = [(shard, row) for row in rows], np.random.default_rng(0)
        batch = self.collate(picked, random, 4, stats, augment=False)
        rgb = batch["rgb"].repeat_interleave(4, 0)
        clean, noise = (batch[name][:, :, 0].flatten(0, 1) for name in ("chunk", "noise"))
        delay = batch["delay"][:, :, 0].flatten()
        chunks = model.sample(rgb, batch["texts"].flatten(0, 1), noise, clean, delay).numpy()
        family = families(stats, "action")
        error = unnormalize(chunks, family) - unnormalize(clean.numpy(), family)
        error = np.stack([row[d : d + 5] for row, d in zip(error, delay)])
        groups = {"": (delay == 0).numpy(), " after a prefix": (delay > 0).numpy()}
        return errors(error, batch["task"].flatten().numpy(), groups)

    def export(self, model, stats, folder, provenance=None):
        pi05_export.export(model, stats, folder, chunk_demonstrations.EXECUTE, provenance)


def flow_loss(model, cache, batch):
    """Squared errors of the velocity [.., A], mean over the steps that have a loss."""
    clean = batch["chunk"]  # [B, R, D, K, A]
    steps = torch.arange(clean.shape[-2])
    given = steps < batch["delay"][..., None]  # [B, R, D, K]
    time = batch["time"][..., None] * ~given
    x = time[..., None] * batch["noise"] + (1 - time[..., None]) * clean
    velocity = model.velocity(cache, x.flatten(0, 2), time.flatten(0, 2))
    error = (velocity - (batch["noise"] - clean).flatten(0, 2)).pow(2)
    free = (~given).flatten(0, 2)[..., None].float()
    return (error * free).sum(1) / free.sum(1)
