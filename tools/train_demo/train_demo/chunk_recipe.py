"""What the recipes of chunk policies share: instructions, labels, auxiliary heads and losses."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .dataset import photometric
from .ideal import IdealScene
from .instructions import BOWLS, COLOURS, TASKS
from .losses import UNIT, located, nearness, tool_target

TASK_WEIGHT = {"touch": 0.25, "push": 0.2, "pick": 0.25, "place": 0.3}
COMBINATIONS = [(task, k, 0) for task in TASKS[:3] for k in range(3)]
COMBINATIONS += [("place", k, b + 1) for k in range(3) for b in range(len(BOWLS))]
NUMBERED = [(TASKS.index(task), block, bowl) for task, block, bowl in COMBINATIONS]
THINGS = len(COLOURS) + len(BOWLS)
# The tool never rotates: a narrow range around zero.
STILL = 0.005
FIELDS = (
    *("image", "wrist", "colour", "block", "bowl_colour", "bowl", "image_uv", "wrist_uv"),
    *("state", "chunk"),
)


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


def at_another_time(state, spread, random):
    """Half of the states [B, n] as some ms older or newer than the image."""
    changed = random.random((len(state), 1)) < 0.5
    return state + random.normal(0, spread, state.shape) * changed


class Observations:
    """Rows of shards, and for each the instructions that a batch uses it with.

    Every observation is used with `branches` instructions, the block nearest to the tool more
    often.
    """

    def __init__(self, picked, random, branches):
        self.arrays = {
            name: np.stack([shard[name][row] for shard, row in picked]) for name in FIELDS
        }
        arrays, tip = self.arrays, self.arrays["state"][:, None, :3]
        away = np.linalg.norm((arrays["block"] - tip)[..., :2], axis=-1)
        nearest = np.array([k for _, k, _ in COMBINATIONS]) == away.argmin(1)[:, None]
        weight = np.array(
            [TASK_WEIGHT[t] / sum(u == t for u, *_ in COMBINATIONS) for t, *_ in COMBINATIONS]
        ) * (1.0 + 2.0 * nearest)
        self.there = np.abs(arrays["chunk"]).sum((2, 3)) > 0
        # Gumbel top-k: sampling without replacement for each observation.
        keys = np.log(np.where(self.there, weight, 1e-30)) + random.gumbel(size=weight.shape)
        self.chosen = np.argsort(-keys, 1)[:, :branches]
        self.image = np.arange(len(picked))[:, None]
        self.task, self.block, self.bowl = (
            np.array(column)[self.chosen] for column in zip(*NUMBERED)
        )
        self.chunk = arrays["chunk"][self.image, self.chosen]

    def names(self):
        """Colour of the block and bowl that are named, one more than its colour, 0 for none."""
        arrays, index = self.arrays, np.maximum(self.bowl - 1, 0)
        vessel = np.where(self.bowl > 0, arrays["bowl_colour"][self.image, index] + 1, 0)
        return arrays["colour"][self.image, self.block], vessel

    def scene(self, row, branch):
        """The ideal scene of an observation with the task of a branch; None: it has none."""
        combination = self.chosen[row, branch]
        if not self.there[row, combination]:
            return None
        sample = {name: values[row] for name, values in self.arrays.items()}
        return ideal_scene(sample, COMBINATIONS[combination])

    def batch(self, augment):
        """Tensors for the images and the auxiliary heads. `augment`: a generator or None."""
        arrays, tip = self.arrays, self.arrays["state"][:, None, :3]
        things = np.concatenate([arrays["block"], arrays["bowl"]], 1)
        bowls = arrays["bowl"][self.image, np.maximum(self.bowl - 1, 0)]
        vessel = (bowls - tip) * (self.bowl > 0)[..., None]
        kinds = np.where(arrays["bowl_colour"] < 0, -1, arrays["bowl_colour"] + len(COLOURS))
        return {
            "rgb": torch.stack([photometric(arrays[name], augment) for name in FIELDS[:2]], 1),
            "kinds": torch.from_numpy(np.concatenate([arrays["colour"], kinds], 1)),
            "image_uv": torch.from_numpy(arrays["image_uv"]),
            "wrist_uv": torch.from_numpy(arrays["wrist_uv"]),
            "vectors": torch.from_numpy(things - tip),
            "state": torch.from_numpy(arrays["state"]),
            "block": torch.from_numpy(self.block),
            "bowl": torch.from_numpy(self.bowl),  # 0: none is named
            "named": torch.from_numpy(
                np.concatenate([arrays["block"][self.image, self.block] - tip, vessel], -1)
            ).float(),
            "task": torch.from_numpy(self.task),
        }


def ideal_scene(sample, combination):
    """The scene of one observation, with the task of the combination."""
    task, block, bowl = combination
    colours = [COLOURS[c] for c in sample["colour"]]
    bowls = {
        BOWLS[c]: place.astype(float)
        for c, place in zip(sample["bowl_colour"], sample["bowl"])
        if c >= 0
    }
    return IdealScene(
        sample["state"][:3].astype(float),
        float(sample["state"][3]),
        dict(zip(colours, sample["block"].astype(float))),
        bowls,
        *(task, colours[block], list(bowls)[bowl - 1] if bowl else None),
    )


def image_loss(auxiliary, seen, batch):
    """Loss of what the patches [B, cameras, P, width] show and of the tool, and a metric."""
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
    return sum(3 * there + relative for there, relative in parts) + tool, parts[0][1].item()


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


def answer_loss(auxiliary, states, batch):
    """Loss of the way to what is named and of the first action, from one state [N, width]."""
    target = torch.cat([batch["named"] / UNIT, batch["first"]], -1).flatten(0, 1)
    return F.smooth_l1_loss(auxiliary.answer(states), target, beta=0.1)


def errors(error, tasks, groups):
    """Figures of the errors [n, steps, 7] for each task, and each of `groups` {name: rows}."""
    result = {}
    for t, task in enumerate(TASKS):
        for name, rows in groups.items():
            one = error[(tasks == t) & rows]
            result[task + name] = {
                "mm": (1e3 * np.abs(one[..., :3].sum(1)).mean(0)).round(2).tolist(),
                "gripper_wrong": round(float((np.abs(one[..., 6]) > 0.5).mean()), 3),
            }
    return result
