"""Many episodes in parallel with batched inference, without ROS, with latency and limits."""

import contextlib
import dataclasses

import numpy as np

from .simulator import simulator


@dataclasses.dataclass
class Outcome:
    """Result of an episode."""

    seed: int
    success: bool
    seconds: float
    path_length: float
    first_touched: str | None


class SingleSteps:
    """Executes one action per inference, `latency` old when its motion begins [s]."""

    def __init__(self, scene, latency):
        self.scene = scene
        self.tracking = simulator().NodeTracking(scene, latency)

    def execute(self, action):
        """Until the next inference. `action`: shape [7]; None commands no motion."""
        if action is None:
            # Without an action the node commands nothing and its watchdog stops the arm.
            action = np.array([0, 0, 0, 0, 0, 0, self.tracking.gripper], float)
        self.tracking.step(action)


class ChunkSteps:
    """Executes `execute` steps of a chunk per inference, which takes `delay` of them.

    At least `delay`: the next inference begins when the one before has ended. `given`: whether
    these are the action prefix of the new chunk (real-time chunking). `loop`: a tabletop.Loop.
    """

    def __init__(self, scene, policy_hz, execute, delay, given=False, loop=None):
        self.scene, self.given = scene, given
        self.tracking = simulator().ChunkTracking(
            scene, policy_hz, max(execute, delay), delay, loop or simulator().NODE_LOOP
        )

    def meanwhile(self):
        """The action prefix [steps, 7] of the next chunk."""
        if not self.given:
            return np.empty((0, 7))
        flying, rest = self.tracking.flying(), self.tracking.rest[: self.tracking.delay]
        return np.array([*flying, *rest]).reshape(-1, 7)

    def execute(self, chunk):
        """Until the next inference. `chunk`: [steps, 7], from the observation on."""
        self.tracking.step(chunk, self.scene.success)


def run(scenes, episodes, act, *, seconds, drive):
    """Runs `episodes`, a list of (seed, task or None, block or None); returns the outcomes.

    `drive(scene, seed)` makes the driver of an episode; `act(drivers)` returns for each unfinished
    one what its `execute` takes.
    """
    waiting, outcomes = list(enumerate(episodes))[::-1], [None] * len(episodes)
    running = {}

    def begin(scene):
        if waiting:
            number, (seed, task, block) = waiting.pop()
            scene.reset(seed, task=task, block=block)
            running[scene] = number, drive(scene, seed)

    for scene in scenes:
        begin(scene)
    while running:
        busy = list(running.items())
        answers = act([driver for _, (_, driver) in busy])
        for (scene, (number, driver)), answer in zip(busy, answers):
            driver.execute(answer)
            if scene.success() or scene.time > seconds - 1e-6:
                outcomes[number] = Outcome(
                    scene.seed, scene.success(), scene.time, scene.path_length, scene.first_touched
                )
                del running[scene]
                begin(scene)
    return outcomes


def observed(scenes, seed, count, observe, act, *, seconds, drive):
    """`count` observations of episodes with seeds from `seed` on.

    `observe(scene)` gives one; `act(drivers, observations)` what `run` takes.
    """
    made = []

    class Enough(Exception):
        pass

    def answer(busy):
        if len(made) >= count:
            raise Enough
        seen = [observe(driver.scene) for driver in busy]
        made.extend(seen)
        return act(busy, seen)

    batch = [(seed + k, None, None) for k in range(count)]
    with contextlib.suppress(Enough):
        run(scenes, batch, answer, seconds=seconds, drive=drive)
    return made[:count]
