"""Shards of demonstrations in memory, batches by step number, and the action statistics."""

import bisect
import time

import numpy as np
import torch

from .demonstrations import FIELDS, TASKS
from .instructions import prompt_table
from .losses import jitter
from .vocabulary import UNKNOWN, Vocabulary, action_ids, normalize

TASK_WEIGHT = {"touch": 0.36, "push": 0.32, "pick": 0.32}


def statistics(shards):
    """`dataset_statistics.json` of the expert's actions in these shards."""
    actions = np.concatenate([shard["action"].reshape(-1, 7) for shard in shards]).astype(
        np.float64
    )
    low, high = np.percentile(actions, [1, 99], axis=0)
    # The tool never rotates: a range around zero makes its tokens decode to exactly zero.
    low[3:6], high[3:6] = -0.05, 0.05
    summary = {
        "mean": actions.mean(0),
        "std": actions.std(0),
        "min": actions.min(0),
        "max": actions.max(0),
        "q01": low,
        "q99": high,
    }
    return {
        "action": {
            **{name: value.tolist() for name, value in summary.items()},
            "mask": [True] * 6 + [False],
        },
        "num_transitions": len(actions),
        "num_trajectories": sum(len(shard["tip"]) for shard in shards),
    }


def prompts():
    """Prompt ids without BOS of every task and colour, [tasks, colours, tokens]."""
    vocabulary = Vocabulary()
    table = prompt_table(lambda text: vocabulary.prompt_ids(text)[1:], UNKNOWN)
    return table[: len(TASKS), :, 0]


class Demonstrations:
    """Demonstrations, loaded as their shards are made.

    The number of shards that a step draws from depends on the step alone, so that a rerun has the
    same batches.
    """

    def __init__(self, schedule):
        """`schedule`: (first step that draws from a shard, its path), ascending."""
        self.steps, self.paths = zip(*schedule)
        self.shards, self.pools = [], []

    def load(self, count, patience=1800.0):
        """The first `count` shards, waiting for those still being made."""
        while len(self.shards) < count:
            path, begin = self.paths[len(self.shards)], time.monotonic()
            while not path.exists():
                if time.monotonic() - begin > patience or (
                    self.pools and not any([pool.alive() for pool in self.pools])
                ):
                    if path.exists():
                        break
                    raise TimeoutError(
                        f"{path} was not made within {time.monotonic() - begin:.0f} s; the error"
                        " of the process that makes it is above"
                    )
                time.sleep(0.5)
            with np.load(path) as file:
                self.shards.append(dict(file))
        return self.shards[:count]

    def available(self, step):
        return bisect.bisect_right(self.steps, step)

    def pick(self, seed, images, corrected=None):
        """(shard, row) of a batch, and the generator for the rest of its random choices.

        `seed`: of the run, the step and the process. `corrected`: share of corrections (DAgger), by
        default that of their shards.
        """
        random = np.random.default_rng(seed)
        shards = self.load(self.available(seed[1]))
        chosen, rows = random.integers(len(shards), size=images), random.random(images)
        if corrected is not None:
            theirs = [k for k in range(len(shards)) if "corrections" in self.paths[k].name]
            if theirs:
                chosen = np.where(
                    random.random(images) < corrected, random.choice(theirs, images), chosen
                )
        count = lambda shard: len(next(iter(shard.values())))
        return [(shards[s], int(r * count(shards[s]))) for s, r in zip(chosen, rows)], random


def collate(picked, random, branches, stats, prompts, augment=True):
    """Tensors of a batch.

    Every image is used with `branches` (task, block) pairs, the block nearest to the tool more
    often.
    """
    arrays = {name: np.stack([shard[name][row] for shard, row in picked]) for name in FIELDS}
    batch = {
        name: torch.from_numpy(arrays[name])
        for name in ("colour", "block", "block_uv", "tip", "opening")
    }
    batch["rgb"] = photometric(arrays["image"], random if augment else None)
    away = np.linalg.norm(arrays["block"][..., :2] - arrays["tip"][:, None, :2], axis=-1)
    blocks = away.shape[1]
    weight = 1.0 + 2.0 * (np.arange(blocks) == away.argmin(1)[:, None])
    weight = np.array([TASK_WEIGHT[task] for task in TASKS])[None, :, None] * weight[:, None]
    # Gumbel top-k: sampling of pairs without replacement for each image.
    keys = np.log(weight).reshape(len(picked), -1) + random.gumbel(
        size=(len(picked), weight[0].size)
    )
    pairs = np.argsort(-keys, 1)[:, :branches]
    task, block = pairs // blocks, pairs % blocks
    image = np.arange(len(picked))[:, None]
    normalized = normalize(arrays["action"][image, task, block], stats["action"])
    ids = action_ids(normalized)
    words = prompts[task, arrays["colour"][image, block]]
    fed = jitter(ids, random) if augment else ids
    batch["texts"] = torch.from_numpy(np.concatenate([words, fed[..., :-1]], -1))
    batch["normalized"] = torch.from_numpy(normalized).float()
    batch["vector"] = torch.from_numpy(arrays["block"][image, block] - arrays["tip"][:, None])
    batch["task"] = torch.from_numpy(task)
    return batch


def photometric(images, random):
    """Images as [B, 3, side, side] in 0..1.

    With `random` (a generator), each has a random exposure, contrast and white balance.
    """
    rgb = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    if random is None:
        return rgb
    count = len(images)
    gain = torch.from_numpy(
        random.uniform(0.8, 1.2, (count, 1, 1, 1)) * random.uniform(0.93, 1.07, (count, 3, 1, 1))
    ).float()
    shift = torch.from_numpy(random.uniform(-0.06, 0.06, (count, 1, 1, 1))).float()
    rgb = rgb * gain + shift
    noise = torch.from_numpy(
        random.standard_normal((1, 3, *rgb.shape[2:]), dtype=np.float32) * 0.01
    )
    return (rgb + noise).clamp_(0, 1)
