"""A model of the node's control, for episodes without ROS.

An action is held for one policy period as a twist, after the node's latency and within its limits.
The node's own control (crates/vla-control) is jerk-limited; here the velocity follows with a
first-order lag and an acceleration limit, which is close enough for demonstrations. `make sim-eval`
runs the node itself.
"""

import dataclasses
import math

import numpy as np

POLICY_HZ = 5.0
VELOCITY = 0.25  # limit [m/s], as in config/robots/tabletop.yaml
ANGULAR_VELOCITY = 0.6  # limit [rad/s]
ACCELERATION = 1.0  # limit [m/s2]
LAG = 0.06  # time constant [s]
PERIOD = 0.02  # of control [s]


class NodeTracking:
    """Applies actions to a scene as the node does.

    `latency`: age of an action when its motion begins [s]. `policy_hz`: actions per second.
    """

    def __init__(self, scene, latency=0.1, policy_hz=POLICY_HZ):
        self.scene, self.latency, self.policy_hz = scene, latency, policy_hz
        self.velocity = np.zeros(6)
        self.desired, self.gripper = np.zeros(6), 1.0
        self.pending, self.ticks = [], 0

    def step(self, action):
        """Simulates one policy period; `action` takes effect after the latency."""
        action = np.array(action, dtype=float)
        self.pending.append((self.ticks + round(self.latency / PERIOD), action))
        for _ in range(round(1.0 / self.policy_hz / PERIOD)):
            while self.pending and self.pending[0][0] <= self.ticks:
                _, arrived = self.pending.pop(0)
                self.desired, self.gripper = arrived[:6] * self.policy_hz, arrived[6]
            self.tick()

    def tick(self):
        """Simulates one period of control."""
        self.ticks += 1
        desired = self.desired.copy()
        for group, limit in ((slice(0, 3), VELOCITY), (slice(3, 6), ANGULAR_VELOCITY)):
            length = np.linalg.norm(desired[group])
            if length > limit:
                desired[group] *= limit / length
        change = (desired - self.velocity) * (PERIOD / (LAG + PERIOD))
        length = np.linalg.norm(change[:3])
        if length > ACCELERATION * PERIOD:
            change[:3] *= ACCELERATION * PERIOD / length
        self.velocity = self.velocity + change
        self.scene.apply(self.velocity, 1.0 if self.gripper > 0.5 else 0.0, PERIOD)


@dataclasses.dataclass(frozen=True)
class Loop:
    """What lies between an observation and the motion, in periods of control.

    `ahead`: from an observation to the begin of the next step; `lag`: from the begin of a step to
    its motion, besides LAG; `dwell`: shortest time between two changes of the gripper. As the node
    does (src/runtime/step_times.rs), steps that the robot does not follow yet at an observation
    count as steps of its chunk; `known` is the part of `lag` and LAG that the node knows.
    """

    ahead: int = 0
    lag: int = 0
    dwell: int = 0
    known: float = 0.0

    def in_flight(self, steps):
        """How many steps are not followed yet at an observation; `steps`: periods in a step."""
        return math.ceil((self.known + self.ahead) / steps + 0.5) - 1


# As of the simulated robot and the node's limiter (measured), an observation between two steps.
NODE_LOOP = Loop(ahead=2, lag=4, dwell=20, known=2.5)


class ChunkTracking:
    """Executes `execute` steps of a chunk per inference, which takes `delay` of them.

    As the node, it skips the steps of a chunk whose time was over when the inference ended, and
    executes the ones of the chunk before meanwhile.
    """

    def __init__(self, scene, policy_hz, execute, delay, loop=Loop()):
        self.tracking = NodeTracking(scene, 0.0, policy_hz)
        self.execute, self.delay, self.loop = execute, delay, loop
        self.periods = round(1.0 / policy_hz / PERIOD)
        self.begun, self.rest = [], []
        self.pipe, self.changed = [np.zeros(6)] * loop.lag, -loop.dwell

    def flying(self):
        """The steps that the robot does not follow yet: the first ones of the next chunk."""
        count = self.loop.in_flight(self.periods)
        return self.begun[-count:] if count else []

    def step(self, chunk, done=lambda: False):
        """Simulates until the next observation or `done()`. `chunk`: [steps, 7]."""
        still = np.array([0, 0, 0, 0, 0, 0, self.tracking.gripper], float)
        first = len(self.flying())
        if self.begun:
            self._run(self.begun[-1], self.loop.ahead)
        for k in range(self.execute):
            before = self.rest[k] if k < len(self.rest) else still
            at = first + k
            action = before if k < self.delay else chunk[at] if at < len(chunk) else still
            self.begun.append(np.array(action, dtype=float))
            last = k == self.execute - 1
            self._run(self.begun[-1], self.periods - (self.loop.ahead if last else 0))
            if done():
                return
        self.rest = chunk[first + self.execute :]

    def _run(self, action, periods):
        tracking = self.tracking
        for _ in range(periods):
            self.pipe.append(action[:6] * tracking.policy_hz)
            tracking.desired = self.pipe.pop(0)
            opens = action[6] > 0.5
            late = self.loop.dwell <= tracking.ticks - self.changed
            if opens != (tracking.gripper > 0.5) and late:
                tracking.gripper, self.changed = float(opens), tracking.ticks
            tracking.tick()
