"""One episode without ROS."""

import dataclasses

from .tracking import POLICY_HZ, NodeTracking


@dataclasses.dataclass
class Rollout:
    """Result of an episode; simulated seconds, metres."""

    success: bool
    steps: int
    seconds: float
    path_length: float
    first_touched: str | None


def rollout(scene, policy, *, seconds=12.0, latency=0.1, on_step=None):
    """Runs `policy(scene) -> action, shape [7]` at 5 Hz until success or for `seconds`.

    `on_step(scene, action)` is called before each action is applied.
    """
    tracking = NodeTracking(scene, latency)
    steps = 0
    while steps < round(seconds * POLICY_HZ) and not scene.success():
        action = policy(scene)
        if on_step is not None:
            on_step(scene, action)
        tracking.step(action)
        steps += 1
    return Rollout(scene.success(), steps, scene.time, scene.path_length, scene.first_touched)
