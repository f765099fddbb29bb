"""Many episodes in parallel with batched inference, without ROS, with latency and limits."""

import dataclasses

import numpy as np

from .demonstrations import simulator


@dataclasses.dataclass
class Outcome:
    """Result of an episode."""

    seed: int
    success: bool
    seconds: float
    path_length: float
    first_touched: str | None


def run(scenes, episodes, act, *, seconds, latency):
    """Runs `episodes`, a list of (seed, task or None, block or None); returns the outcomes.

    `act(scenes)` returns for each unfinished scene an action, shape [7], or None (no motion).
    `latency(seed)` is the age of an action when its motion begins [s].
    """
    tabletop, waiting, outcomes = (
        simulator(),
        list(enumerate(episodes))[::-1],
        [None] * len(episodes),
    )
    running = {}

    def begin(scene):
        if waiting:
            number, (seed, task, block) = waiting.pop()
            scene.reset(seed, task=task, block=block)
            running[scene] = (
                number,
                tabletop.NodeTracking(scene, latency(seed)),
                round(seconds * tabletop.tracking.POLICY_HZ),
            )

    for scene in scenes:
        begin(scene)
    while running:
        busy = list(running)
        for scene, action in zip(busy, act(busy)):
            number, tracking, left = running[scene]
            if action is None:
                # Without an action the node commands nothing and its watchdog stops the arm.
                action = np.array([0, 0, 0, 0, 0, 0, tracking.gripper], float)
            tracking.step(action)
            running[scene] = (number, tracking, left - 1)
            if scene.success() or left <= 1:
                outcomes[number] = Outcome(
                    scene.seed, scene.success(), scene.time, scene.path_length, scene.first_touched
                )
                del running[scene]
                begin(scene)
    return outcomes
