"""What is trained as a small pi0.5: two cameras and the state, chunks of actions by flow matching.

Training for real-time chunking (arXiv 2512.05964): of half of the chunks the first steps, up to
`max_delay`, are given without noise at time 0 and have no loss.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import chunk_demonstrations, pi05_export
from .dataset import photometric
from .losses import UNIT, located, nearness, tool_target
from .pi05_model import GemmaShape, Pi05, Pi05Shape, SiglipShape
from .pi05_policy import normalize, unnormalize
from .pi05_vocabulary import BOWLS, COLOURS, FIRST_BIN, TASKS, Vocabulary, state_bins

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
    images=32,
    branches=2,
    shards=56,
    steps_per_shard=39,
    corrections=[3200, 4000],
    correction_shards=3,
    decay=0.3,
)
TASK_WEIGHT = {"touch": 0.25, "push": 0.2, "pick": 0.25, "place": 0.3}
COMBINATIONS = [(task, k, 0) for task in TASKS[:3] for k in range(3)]
COMBINATIONS += [("place", k, b + 1) for k in range(3) for b in range(len(BOWLS))]
ACTION_WEIGHT = torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.7])
NOISES = 2  # noise samples per instruction
THINGS = len(COLOURS) + len(BOWLS)
# The tool never rotates: a narrow range around zero.
STILL = 0.005


class Auxiliary(nn.Module):
    """Heads that exist during training only."""

    def __init__(self, width):
        super().__init__()
        self.image = nn.Linear(width, THINGS + 3)  # what is in each patch; from tool to it
        self.wrist = nn.Linear(width, THINGS + 3)
        self.tool = nn.Linear(width, 4)  # tool position, finger opening
        self.answer = nn.Linear(width, 10)  # from tool to block and bowl that are named; action
        self.named = nn.Linear(width, 2)  # whether a patch shows the block, the bowl that is named


def statistics(shards):
    """Statistics of states and actions: {feature: {name: values}}."""
    state = np.concatenate([shard["state"] for shard in shards]).astype(np.float64)
    actions = []
    for shard in shards:
        there = np.abs(shard["chunk"]).sum((2, 3)) > 0
        actions.append(shard["chunk"][there].reshape(-1, 7))
    result = {}
    for name, values in (
        ("observation.state", state),
        ("action", np.concatenate(actions).astype(np.float64)),
    ):
        low, high = np.percentile(values, [1, 99], axis=0)
        if name == "action":
            low[3:], high[3:] = [-STILL] * 3 + [0.0], [STILL] * 3 + [1.0]
        else:
            low[3], high[3] = 0.0, 1.0
        result[name] = {
            "mean": values.mean(0).tolist(),
            "std": values.std(0).tolist(),
            "min": values.min(0).tolist(),
            "max": values.max(0).tolist(),
            "q01": low.tolist(),
            "q99": high.tolist(),
            "count": [float(len(values))],
        }
    return result


def families(stats, name):
    return {key: np.asarray(values) for key, values in stats[name].items()}


class Recipe:
    def __init__(self, small):
        self.shape = SMALL if small else SHAPE
        self.words = Vocabulary().table(self.shape.state)

    def build(self):
        return Pi05(self.shape), Auxiliary(self.shape.vlm.width)

    statistics = staticmethod(statistics)

    def texts(self, combinations, arrays, bins):
        """Prompt ids [B, R, T] of the combinations [B, R]."""
        image = np.arange(len(combinations))[:, None]
        task, block, bowl = (np.array(column)[combinations] for column in zip(*NUMBERED))
        colour = arrays["colour"][image, block]
        vessel = np.where(bowl > 0, arrays["bowl_colour"][image, np.maximum(bowl - 1, 0)] + 1, 0)
        ids = self.words[task, colour, vessel].copy()
        ids[..., -1 - self.shape.state : -1] = FIRST_BIN + bins[:, None].clip(0, 255)
        return ids, block, bowl

    def collate(self, picked, random, branches, stats, augment=True):
        """Tensors of a batch.

        Every observation is used with `branches` instructions, the block nearest to the tool more
        often.
        """
        arrays = {name: np.stack([shard[name][row] for shard, row in picked]) for name in FIELDS}
        count, tip = len(picked), arrays["state"][:, None, :3]
        source = random if augment else None
        rgb = [photometric(arrays[name], source) for name in ("image", "wrist")]
        away = np.linalg.norm((arrays["block"] - tip)[..., :2], axis=-1)
        nearest = np.array([k for _, k, _ in COMBINATIONS]) == away.argmin(1)[:, None]
        weight = np.array(
            [TASK_WEIGHT[t] / sum(u == t for u, *_ in COMBINATIONS) for t, *_ in COMBINATIONS]
        ) * (1.0 + 2.0 * nearest)
        there = np.abs(arrays["chunk"]).sum((2, 3)) > 0
        keys = np.log(np.where(there, weight, 1e-30)) + random.gumbel(size=weight.shape)
        chosen = np.argsort(-keys, 1)[:, :branches]
        image = np.arange(count)[:, None]
        state = normalize(arrays["state"], families(stats, "observation.state"))
        if augment:
            # As by a state that is some ms older or newer than the image.
            state = state + random.normal(0, 0.012, state.shape) * (random.random((count, 1)) < 0.5)
        texts, block, bowl = self.texts(chosen, arrays, state_bins(state))
        chunk = normalize(arrays["chunk"][image, chosen], families(stats, "action"))
        vessel = (arrays["bowl"][image, np.maximum(bowl - 1, 0)] - tip) * (bowl > 0)[..., None]
        kinds = np.concatenate(
            [arrays["colour"], np.where(arrays["bowl_colour"] < 0, -1, arrays["bowl_colour"] + 4)],
            1,
        )
        wide = (count, branches, NOISES)
        delay = random.integers(1, self.shape.max_delay + 1, wide) * (random.random(wide) < 0.5)
        batch = {
            "rgb": torch.stack(rgb, 1),
            "texts": torch.from_numpy(texts),
            "kinds": torch.from_numpy(kinds),
            "image_uv": torch.from_numpy(arrays["image_uv"]),
            "wrist_uv": torch.from_numpy(arrays["wrist_uv"]),
            "vectors": torch.from_numpy(np.concatenate([arrays["block"], arrays["bowl"]], 1) - tip),
            "state": torch.from_numpy(arrays["state"]),
            "block": torch.from_numpy(block),
            "bowl": torch.from_numpy(bowl),  # 0: none is named
            "named": torch.from_numpy(
                np.concatenate([arrays["block"][image, block] - tip, vessel], -1)
            ).float(),
            "chunk": torch.from_numpy(chunk).float(),
            "noise": torch.from_numpy(
                random.standard_normal((*wide, *chunk.shape[2:]), dtype=np.float32)
            ),
            "time": torch.from_numpy(random.beta(1.5, 1.0, wide) * 0.999 + 0.001).float(),
            "delay": torch.from_numpy(delay),
        }
        batch["task"] = torch.from_numpy(np.array([t for t, *_ in NUMBERED])[chosen])
        return batch

    def losses(self, model, auxiliary, batch, language):
        """Loss and metrics of a batch."""
        seen = model.see(batch["rgb"])
        parts = [
            located(head(seen[:, camera]), batch[uv], batch["kinds"], batch["vectors"], THINGS)
            for camera, (head, uv) in enumerate(
                ((auxiliary.image, "image_uv"), (auxiliary.wrist, "wrist_uv"))
            )
        ]
        tool = F.smooth_l1_loss(
            auxiliary.tool(seen[:, 0].mean(1)),
            tool_target(batch["state"][:, :3], batch["state"][:, 3:]),
            beta=0.1,
        )
        patch = sum(3 * there + relative for there, relative in parts) + tool
        figures = {"patch": patch.item(), "relative": parts[0][1].item()}
        if not language:
            return patch, figures
        branches = batch["texts"].shape[1]
        cache, states = model.prefix(
            seen.repeat_interleave(branches, 0), batch["texts"].flatten(0, 1)
        )
        pointed = named_loss(auxiliary.named(states), batch, model.patches)
        target = torch.cat([batch["named"] / UNIT, batch["chunk"][:, :, 0, [0, 1, 2, 6]]], -1)
        answer = F.smooth_l1_loss(auxiliary.answer(states[:, -1]), target.flatten(0, 1), beta=0.1)
        flow = flow_loss(model, cache, batch)
        figures |= {"flow": flow.mean(0).sum().item(), "answer": answer.item()}
        figures |= {"named": pointed.item()}
        actions = (flow * ACTION_WEIGHT).mean(0).sum()
        return patch + 4 * actions + 5 * answer + 20 * pointed, figures

    @torch.no_grad()
    def check(self, model, shard, rows, stats):
        """Errors of sampled chunks on held-out layouts: of the first five steps together, in mm."""
        picked, random = [(shard, row) for row in rows], np.random.default_rng(0)
        batch = self.collate(picked, random, 4, stats, augment=False)
        rgb = batch["rgb"].repeat_interleave(4, 0)
        noise = batch["noise"][:, :, 0].flatten(0, 1)
        chunks = model.sample(rgb, batch["texts"].flatten(0, 1), noise)
        family, result = families(stats, "action"), {}
        wanted = unnormalize(batch["chunk"].flatten(0, 1).numpy(), family)
        error = unnormalize(chunks.numpy(), family) - wanted
        for t, task in enumerate(TASKS):
            one = error[batch["task"].flatten() == t]
            way = np.abs(one[:, :5, :3].sum(1)).mean(0)
            result[task] = {
                "mm": (1e3 * way).round(2).tolist(),
                "gripper_wrong": round(float((np.abs(one[:, :5, 6]) > 0.5).mean()), 3),
            }
        return result

    def export(self, model, stats, folder, provenance=None):
        pi05_export.export(model, stats, folder, chunk_demonstrations.EXECUTE, provenance)


NUMBERED = [(TASKS.index(task), block, bowl) for task, block, bowl in COMBINATIONS]
FIELDS = (
    *("image", "wrist", "colour", "block", "bowl_colour", "bowl", "image_uv", "wrist_uv"),
    *("state", "chunk"),
)


def named_loss(found, batch, patches):
    """Loss of whether each patch of both cameras shows what the instruction names.

    Learnt from the actions alone, the way from a word to a place takes several times as long.
    """
    blocks = batch["kinds"].shape[1] - len(BOWLS)
    maps = []
    for uv in ("image_uv", "wrist_uv"):
        near = nearness(patches, batch[uv], batch["kinds"])[:, None].expand(
            -1, batch["block"].shape[1], -1, -1
        )
        one, other = (
            near.gather(-1, index[..., None, None].expand(-1, -1, patches, -1))
            for index in (batch["block"], blocks + (batch["bowl"] - 1).clamp_min(0))
        )
        maps.append(torch.cat([one, other * (batch["bowl"] > 0)[..., None, None]], -1))
    wanted = torch.cat(maps, 2).flatten(0, 1)  # [N, patches of both, 2]
    return F.binary_cross_entropy_with_logits(found[:, : wanted.shape[1]], wanted)


def flow_loss(model, cache, batch):
    """Squared errors of the velocity [.., A], mean over the steps that have a loss."""
    clean = batch["chunk"][:, :, None]  # [B, R, 1, K, A]
    steps = torch.arange(clean.shape[-2])
    given = steps < batch["delay"][..., None]  # [B, R, D, K]
    time = batch["time"][..., None] * ~given
    x = time[..., None] * batch["noise"] + (1 - time[..., None]) * clean
    velocity = model.velocity(cache, x.flatten(0, 2), time.flatten(0, 2))
    error = (velocity - (batch["noise"] - clean).flatten(0, 2)).pow(2)
    free = (~given).flatten(0, 2)[..., None].float()
    return (error * free).sum(1) / free.sum(1)
