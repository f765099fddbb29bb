"""Chunks of actions: what the scripted expert would do next, without simulating contacts.

A chunk policy learns the expert's next CHUNK actions from one observation. `IdealScene` moves the
tool exactly as commanded, closes the fingers as the simulated ones do, and carries or pushes a
block; so the chunks of all instructions for one image take milliseconds. Where this differs from
the simulator, the next observation shows it.
"""

import copy

import numpy as np

from .simulator import simulator

CHUNK = 16
POLICY_HZ = 10.0
# Of the remaining way of a finger in one step; measured on the simulated gripper (0.2 s).
FINGER_GAIN = 0.4
HELD = 0.45  # opening of fingers around a block
GRIP = np.array([0.016, 0.016, 0.016])  # a block this close is between the fingers [m]
PUSHED = 0.032  # from the fingertips to the centre of a block that they push [m]
# Of perturbed action prefixes: standard deviation of the displacement, log-uniform [m]; share of
# other tasks, and of steps that are too early; how many at most; largest standard deviation of a
# step [m].
DISPLACEMENT = 0.001, 0.04
OTHER_TASK = 0.1
EARLY, EARLIEST = 0.5, 8
NOISE = 0.003
PLATE = 0.024  # height of a block's centre in a bowl [m]


class IdealScene:
    """What `sim/tabletop/expert.py` reads of a scene, with ideal motion."""

    def __init__(self, tip, opening, blocks, bowls, task, target, bowl):
        """`blocks`, `bowls`: {name: position [m]}; `target` and `bowl` are names."""
        self.tip, self.opening = tip, opening
        self.blocks, self.bowls = blocks, bowls
        self.task, self.target, self.bowl = task, target, bowl
        self.held = None
        for colour, block in self.blocks.items():
            if self.opening < 0.6 and (np.abs(block - self.tip) < GRIP).all():
                self.held = colour

    @classmethod
    def of(cls, scene):
        return cls(
            scene.ee_pose()[0].copy(),
            scene.gripper_opening(),
            scene.targets(),
            scene.bowl_places(),
            *(scene.task, scene.target, scene.bowl),
        )

    def copy(self):
        other = copy.copy(self)
        other.blocks, other.bowls = dict(self.blocks), dict(self.bowls)
        return other

    def ee_pose(self):
        return self.tip, None

    def targets(self):
        return self.blocks

    def bowl_places(self):
        return self.bowls

    def gripper_opening(self):
        return self.opening

    def step(self, move, gripper):
        """Moves the tool by `move` [m]; the fingers approach `gripper`, 1 open, 0 closed."""
        self.tip = self.tip + move
        self.tip[2] = max(self.tip[2], 0.004)
        between = next(
            (c for c, b in self.blocks.items() if (np.abs(b - self.tip) < GRIP).all()), None
        )
        self.opening += FINGER_GAIN * (gripper - self.opening)
        if gripper < 0.5 and (self.held or between):
            self.opening = max(self.opening, HELD)
            if self.held is None and self.opening < 0.6:
                self.held = between
        elif self.held and self.opening > 0.6:
            self._drop()
        if self.held:
            self.blocks[self.held] = self.blocks[self.held] + move
            return
        for colour, block in self.blocks.items():
            away = block - self.tip
            if self.opening < 0.3 and abs(away[1]) < 0.025 and self.tip[2] < 0.04:
                if 0 < away[0] < PUSHED:
                    self.blocks[colour] = block + [PUSHED - away[0], 0, 0]

    def _drop(self):
        block, self.held = self.blocks[self.held].copy(), None
        inside = any(
            np.hypot(*(block[:2] - bowl[:2])) < 0.04 and block[2] < 0.12
            for bowl in self.bowls.values()
        )
        block[2] = PLATE if inside else 0.02
        for colour, place in self.blocks.items():
            if np.hypot(*(place[:2] - block[:2])) < 1e-6:
                self.blocks[colour] = block


def act(ideal):
    """The expert's action [7] for one step of POLICY_HZ."""
    action = simulator().expert(ideal)
    action[:6] *= simulator().tracking.POLICY_HZ / POLICY_HZ
    return action


def chunk(scene):
    """The expert's next CHUNK actions for `scene`'s task, [CHUNK, 7], per step of POLICY_HZ."""
    return planned(IdealScene.of(scene))


def planned(ideal, given=()):
    """A chunk [CHUNK, 7] with the action prefix `given`, the rest the expert's after it.

    Moves `ideal` on by the chunk.
    """
    actions = np.empty((CHUNK, 7), np.float32)
    for k in range(CHUNK):
        actions[k] = given[k] if k < len(given) else act(ideal)
        ideal.step(actions[k, :3], actions[k, 6])
    return actions


def perturbed_prefix(ideal, steps, random):
    """An action prefix [steps, 7]: the expert's for displaced things, for another task, or early.

    As of the chunk before, which a model computed from an older observation, with its errors; a
    tool that has fallen behind its plan gets steps that are too early, such as closing the fingers
    above the block.
    """
    other = ideal.copy()
    away = random.normal(0, np.exp(random.uniform(*np.log(DISPLACEMENT))), 3) * [1.0, 1.0, 0.5]
    other.blocks = {c: b if c == other.held else b + away for c, b in other.blocks.items()}
    other.bowls = {c: b + away for c, b in other.bowls.items()}
    if random.random() < OTHER_TASK:
        other.task = random.choice(["touch", "push", "pick"])
        other.target = random.choice(list(other.blocks))
    early = random.integers(1, EARLIEST + 1) if random.random() < EARLY else 0
    for _ in range(early):
        action = act(other)
        other.step(action[:3], action[6])
    actions = np.empty((steps, 7), np.float32)
    for k in range(steps):
        actions[k] = act(other)
        other.step(actions[k, :3], actions[k, 6])
    actions[:, :3] += random.normal(0, NOISE * random.random(), (steps, 3))
    actions[:, 6] += random.normal(0, 0.05, steps)  # as a model's gripper, never exactly 0 or 1
    return actions


def combinations(scene):
    """Every (task, block, bowl) of the scene: three tasks, and `place` for each bowl."""
    plain = [(t, c, None) for t in ("touch", "push", "pick") for c in scene.colours]
    return plain + [("place", c, b) for c in scene.colours for b in scene.bowl_colours]


def chunks(scene):
    """The chunks of `combinations(scene)`, [combinations, CHUNK, 7]; the scene's task is kept."""
    kept, answers = (scene.task, scene.target, scene.bowl), []
    for task, block, bowl in combinations(scene):
        # Any bowl is allowed for the other tasks, which do not use it.
        scene.set_task(task, block, bowl)
        answers.append(chunk(scene))
    scene.set_task(*kept)
    return np.stack(answers)
