#!/usr/bin/env python3
"""Chooses the fixed layout of sim/gazebo/tabletop.sdf with the MuJoCo robot's scripted expert.

usage: tools/sim/run python3 tools/gazebo/choose_layout.py [--layouts N] [--seed S] [--finalists N]

Random layouts are screened by all nine tasks (touch, push, pick x red, green, blue), which begin
where sim/gazebo/arm.py begins. A layout qualifies when every task is done within LONGEST_S and the
fingers and the moved block stay CLEARANCE away from the other blocks. The fastest layouts, by the
slowest of their nine tasks, must also qualify under each of VARIATIONS; of those that do, the one
whose slowest task over all variations is the fastest is chosen. No policy is consulted.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "sim"), str(ROOT / "sim/gazebo")]
import layout  # noqa: E402
from tabletop import expert, rollout  # noqa: E402
from tabletop.scene import BLOCK_REGION, START_REGION  # noqa: E402

INSET = 0.01  # distance of a block's centre from the edge of BLOCK_REGION [m]
LONGEST_S = 5.0  # simulated
CLEARANCE = 0.015  # [m]
_MIDDLE = START_REGION.mean(axis=1)
_CORNERS = [_MIDDLE + [x * 0.04, y * 0.06, z * 0.02] for x, y, z in
            ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Variation:
    """Differences from the nominal episode; metres, seconds, radians."""

    start: tuple = tuple(layout.START)
    latency: float = 0.1
    shift: tuple = (0.0, 0.0)
    yaw: float = 0.0


NOMINAL = Variation()
VARIATIONS = (
    NOMINAL,
    Variation(latency=0.2),
    *(Variation(start=tuple(corner)) for corner in _CORNERS),
    *(Variation(shift=shift, yaw=yaw) for shift, yaw in
      (((0.008, 0.008), 0.12), ((0.008, -0.008), -0.12),
       ((-0.008, 0.008), -0.12), ((-0.008, -0.008), 0.12))),
)  # fmt: skip


def random_places(random):
    """Places in millimetres, so that the SDF has the values that were screened."""
    region = BLOCK_REGION + [[INSET, -INSET], [INSET, -INSET]]
    while True:
        places = np.round(random.uniform(*region.T, size=(len(layout.COLOURS), 2)), 2)
        pairs = ((0, 1), (0, 2), (1, 2))
        if all(layout.FixedLayoutScene._apart(places[i] - places[j]) for i, j in pairs):
            return {c: tuple(map(float, p)) for c, p in zip(layout.COLOURS, places)}


def episode(scene, places, task, colour, variation):
    """(seconds, clearance) of one task by the expert; seconds is None when it is not done."""
    moved = {c: tuple(np.add(place, variation.shift)) for c, place in places.items()}
    scene.arrange(moved, task, colour, start=np.array(variation.start), yaw=variation.yaw)
    least = []
    result = rollout(
        scene,
        expert,
        seconds=LONGEST_S,
        latency=variation.latency,
        on_step=lambda *_: least.append(scene.clearance()),
    )
    return result.seconds if result.success else None, min([*least, scene.clearance()])


def screen(scene, places, variations=(NOMINAL,)):
    """(slowest [s], least clearance [m]) over all tasks and variations, or None: not qualified."""
    slowest, least = 0.0, np.inf
    for variation in variations:
        for task in layout.TASKS:
            for colour in layout.COLOURS:
                seconds, clearance = episode(scene, places, task, colour, variation)
                if seconds is None or clearance < CLEARANCE:
                    return None
                slowest, least = max(slowest, seconds), min(least, clearance)
    return slowest, least


def choose(count, seed, finalists):
    """The chosen layout with its figures, and the numbers of layouts that qualified."""
    scene, random = layout.FixedLayoutScene(width=64, height=64), np.random.default_rng(seed)
    screened = []
    for _ in range(count):
        places = random_places(random)
        found = screen(scene, places)
        if found is not None:
            # On equal times the larger clearance is first.
            screened.append((found[0], -found[1], places))
    screened.sort(key=lambda entry: entry[:2])
    final = []
    for _, _, places in screened[:finalists]:
        found = screen(scene, places, VARIATIONS)
        if found is not None:
            final.append((found[0], -found[1], places))
    final.sort(key=lambda entry: entry[:2])
    return final, len(screened)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layouts", type=int, default=200, help="layouts to screen (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the random layouts (0)")
    parser.add_argument("--finalists", type=int, default=20, help="tried with variations (20)")
    options = parser.parse_args()
    final, qualified = choose(options.layouts, options.seed, options.finalists)
    print(f"{options.layouts} layouts, seed {options.seed}: {qualified} qualify in the nominal "
          f"episode; of the {min(options.finalists, qualified)} fastest {len(final)} under every "
          "variation")  # fmt: skip
    for slowest, clearance, places in final:
        print(f"slowest {slowest:.1f} s, clearance {-1000 * clearance:.0f} mm: {places}")
    return 0 if final else 1


if __name__ == "__main__":
    sys.exit(main())
