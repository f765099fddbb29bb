"""Many episodes side by side, so that a policy answers for all of them at once: without ROS, behind the node's latency and limits."""

import dataclasses

import numpy as np

from .demonstrations import simulator


@dataclasses.dataclass
class Outcome:
    """How an episode ended."""

    seed: int
    success: bool
    seconds: float
    path_length: float
    first_touched: str | None


def run(scenes, episodes, act, *, seconds, latency):
    """Runs `episodes`, a list of (seed, task or None, block or None); yields nothing, returns their outcomes in order.

    `act(scenes) -> actions`, one of 7 numbers or None (hold still) for each scene that is not yet done. `latency(seed)` [s] is how old an action is when
    its motion begins.
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
                # No token that stands for an action: the node publishes nothing and its watchdog
                # stops the arm.
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
