"""Success rates of a checkpoint in closed loop on held-out layouts, without ROS.

Baselines: random actions and a checkpoint with random weights.

python -m train_demo.evaluate CHECKPOINT [--seeds 100] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from . import chunk_demonstrations, chunk_policy, demonstrations, ideal
from .lockstep import ChunkSteps, SingleSteps, run
from .model import OpenVla
from .policy import Policy
from .simulator import simulator
from .vocabulary import SIZE

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

    def act(self, drivers):
        scenes = [driver.scene for driver in drivers]
        return self.policy.act(
            [scene.render() for scene in scenes], [scene.instruction for scene in scenes]
        )

    @staticmethod
    def drive(scene, seed):
        return SingleSteps(scene, LATENCY)


class ChunkRows:
    """How a chunk policy is run: two cameras and the state, several actions per inference."""

    tasks = (*demonstrations.TASKS, "place")
    scene = dict(wrist_camera=True)

    def __init__(self, folder, trained=True, delay=1, given=False):
        self.policy, self.delay, self.given = chunk_policy.load(folder), delay, given
        if not trained:
            model = self.policy.model
            vocabulary = [SIZE] if isinstance(model, OpenVla) else []
            self.policy.model = type(model)(model.shape, *vocabulary)

    def most(self):
        """The longest delay: the steps that are left of a chunk, and that the policy is for."""
        shape = self.policy.model.shape
        left = shape.chunk // 2
        return min(left, shape.max_delay) if self.given else left

    def act(self, drivers):
        scenes = [driver.scene for driver in drivers]
        # A scene draws every camera into the same memory.
        pictures = [(s.render().copy(), s.render("wrist_camera").copy()) for s in scenes]
        states = np.stack([chunk_demonstrations.state(scene) for scene in scenes])
        return chunk_policy.act(self.policy, drivers, pictures, states)

    def drive(self, scene, seed):
        execute = chunk_demonstrations.EXECUTE
        return ChunkSteps(scene, ideal.POLICY_HZ, execute, self.delay, self.given)


def expert(drivers):
    return [simulator().expert(driver.scene) for driver in drivers]


def blindly(drivers):
    return [simulator().random_policy(driver.scene) for driver in drivers]


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
    parser.add_argument("--delay", type=int, help="of a chunk policy [steps] (default: 1)")
    parser.add_argument(
        "--real-time-chunking",
        action="store_true",
        help="the steps executed meanwhile are the action prefix of the next chunk",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    simulator()
    from intervals import wilson  # of sim/

    try:
        chunks = chunk_policy.kind_of(chosen.checkpoint)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}; name a folder of tools/train_demo")
    kind, how = (ChunkRows, dict(given=chosen.real_time_chunking)) if chunks else (OpenVlaRows, {})
    if (chosen.delay is not None or chosen.real_time_chunking) and not chunks:
        parser.error("--delay and --real-time-chunking are of chunk policies")
    if chosen.real_time_chunking and not chunks.real_time_chunking:
        parser.error("--real-time-chunking: only pi0.5 has it")
    if chosen.delay is not None:
        how["delay"] = chosen.delay
    policy = kind(chosen.checkpoint, **how)
    if chunks and not 0 <= policy.delay <= policy.most():
        parser.error(f"--delay: {policy.delay} must be in 0..{policy.most()}")
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    count = min(chosen.side_by_side, len(seeds))
    scenes = [simulator().TabletopScene(seeds[0], **kind.scene) for _ in range(count)]
    torch.manual_seed(0)
    untrained = kind(chosen.checkpoint, trained=False, **how)
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
