"""Success rates of a checkpoint in closed loop on held-out layouts, without ROS.

Baselines: random actions and a checkpoint with random weights.

python -m train_demo.evaluate CHECKPOINT [--seeds 100] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from .demonstrations import TASKS, simulator
from .lockstep import run
from .model import OpenVla
from .policy import Policy

SECONDS = 12.0
LATENCY = 0.1


def learned(policy):
    return lambda scenes: policy.act(
        [scene.render() for scene in scenes], [scene.instruction for scene in scenes]
    )


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

    policy = Policy(chosen.checkpoint)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    scenes = [
        simulator().TabletopScene(seeds[0]) for _ in range(min(chosen.side_by_side, len(seeds)))
    ]
    untrained = Policy(chosen.checkpoint)
    torch.manual_seed(0)
    untrained.model = OpenVla(untrained.shape, len(policy.model.language_model.lm_head.weight))
    colours = drawn_and_other_colours(scenes[0], seeds)
    plain = {task: [(seed, task, None) for seed in seeds] for task in TASKS}
    swapped = [(seed, "touch", colours[seed][1]) for seed in seeds]
    rows = [(task, plain[task], learned(policy)) for task in TASKS]
    rows.append(("touch, another colour named", swapped, learned(policy)))
    rows += [(f"{task}, random actions", plain[task], blindly) for task in TASKS]
    rows += [(f"{task}, random weights", plain[task], learned(untrained)) for task in TASKS]
    rows += [(f"{task}, scripted expert", plain[task], expert) for task in TASKS]
    results = []
    print(
        "| task | success | 95 % interval | wrong block touched first | median time of"
        " successes, s |\n|---|---|---|---|---|",
        flush=True,
    )
    for name, episodes, act in rows:
        if chosen.rows and name not in chosen.rows:
            continue
        outcomes = run(scenes, episodes, act, seconds=SECONDS, latency=lambda seed: LATENCY)
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
