"""Success rates of a checkpoint in closed loop on held-out layouts, without ROS.

Baselines: random actions and a checkpoint with random weights.

python -m train_demo.evaluate CHECKPOINT [--seeds 100] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from . import chunk_demonstrations, demonstrations, ideal
from .lockstep import ChunkSteps, SingleSteps, run
from .model import OpenVla
from .pi05_model import Pi05
from .pi05_policy import Pi05Policy
from .policy import Policy
from .simulator import simulator

SECONDS = 12.0
LATENCY = 0.1


class OpenVlaRows:
    """How a small OpenVLA is run: one image, one action per inference."""

    tasks = demonstrations.TASKS
    scene = {}

    def __init__(self, folder, trained=True):
        self.policy = Policy(folder)
        if not trained:
            rows = len(self.policy.model.language_model.lm_head.weight)
            self.policy.model = OpenVla(self.policy.shape, rows)

    def act(self, scenes):
        return self.policy.act(
            [scene.render() for scene in scenes], [scene.instruction for scene in scenes]
        )

    @staticmethod
    def drive(scene, seed):
        return SingleSteps(scene, LATENCY)


class Pi05Rows:
    """How a small pi0.5 is run: two cameras and the state, chunks."""

    tasks = (*demonstrations.TASKS, "place")
    scene = dict(wrist_camera=True)

    def __init__(self, folder, trained=True, delay=1):
        self.policy, self.delay = Pi05Policy(folder), delay
        if not trained:
            self.policy.model = Pi05(self.policy.model.shape)

    def act(self, scenes):
        return self.policy.act(
            [(scene.render().copy(), scene.render("wrist_camera").copy()) for scene in scenes],
            np.stack([chunk_demonstrations.state(scene) for scene in scenes]),
            [scene.instruction for scene in scenes],
        )

    def drive(self, scene, seed):
        return ChunkSteps(scene, ideal.POLICY_HZ, chunk_demonstrations.EXECUTE, self.delay)


def expert(scenes):
    return [simulator().expert(scene) for scene in scenes]


def blindly(scenes):
    return [simulator().random_policy(scene) for scene in scenes]


def drawn_and_other_colours(scene, seeds):
    """For each seed the colour of its task and that of another block."""
    pairs = {}
    for seed in seeds:
        scene.reset(seed)
        pairs[seed] = scene.target, simulator().other_colour(scene.colours, scene.target)
    return pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--side-by-side", type=int, default=20, help="episodes at once")
    parser.add_argument("--rows", nargs="*", help="names of rows (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    simulator()
    from intervals import wilson  # of sim/

    facts = json.loads((chosen.checkpoint / "config.json").read_text(encoding="utf-8"))
    kind = Pi05Rows if facts.get("type") == "pi05" else OpenVlaRows
    policy = kind(chosen.checkpoint)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    count = min(chosen.side_by_side, len(seeds))
    scenes = [simulator().TabletopScene(seeds[0], **kind.scene) for _ in range(count)]
    torch.manual_seed(0)
    untrained = kind(chosen.checkpoint, trained=False)
    colours = drawn_and_other_colours(scenes[0], seeds)
    # Bowls are on the table for `place` only, so that the other tasks have the layouts of before.
    bowls = None
    if "place" in kind.tasks:
        options = dict(kind.scene, bowls=2, tasks=kind.tasks)
        bowls = [simulator().TabletopScene(seeds[0], **options) for _ in range(count)]
    plain = {task: [(seed, task, None) for seed in seeds] for task in kind.tasks}
    swapped = [(seed, "touch", colours[seed][1]) for seed in seeds]
    rows = [(task, plain[task], policy.act, policy.drive) for task in kind.tasks]
    rows.append(("touch, another colour named", swapped, policy.act, policy.drive))
    single = lambda scene, seed: SingleSteps(scene, LATENCY)
    for name, act, drive in (
        ("random actions", blindly, single),
        ("random weights", untrained.act, untrained.drive),
        ("scripted expert", expert, single),
    ):
        rows += [(f"{task}, {name}", plain[task], act, drive) for task in kind.tasks]
    results = []
    print(
        "| task | success | 95 % interval | wrong block touched first | median time of"
        " successes, s |\n|---|---|---|---|---|",
        flush=True,
    )
    for name, episodes, act, drive in rows:
        if chosen.rows and name not in chosen.rows:
            continue
        table = bowls if episodes[0][1] == "place" else scenes
        outcomes = run(table, episodes, act, seconds=SECONDS, drive=drive)
        done = [o for o in outcomes if o.success]
        low, high = wilson(len(done), len(outcomes))
        wrong = sum(
            o.first_touched not in (None, episode[2] or colours[o.seed][0])
            for o, episode in zip(outcomes, episodes)
        )
        seconds = float(np.median([o.seconds for o in done])) if done else None
        failed = [o.seed for o in outcomes if not o.success]
        results.append(
            {
                "row": name,
                "successes": len(done),
                "episodes": len(outcomes),
                "interval": [low, high],
                "wrong_first": wrong,
                "median_seconds": seconds,
                "failed_seeds": failed,
            }
        )
        shown = "-" if seconds is None else f"{seconds:.1f}"
        print(
            f"| {name} | {len(done)}/{len(outcomes)} | {100 * low:.0f}-{100 * high:.0f} %"
            f" | {wrong} | {shown} |",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(
            json.dumps(
                {
                    "checkpoint": str(chosen.checkpoint.name),
                    "first_seed": seeds[0],
                    "rows": results,
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
