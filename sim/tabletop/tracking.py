"""A model of the node's control, for episodes without ROS.

An action is held for one policy period as a twist, after the node's latency and within its limits.
The node's own control (crates/vla-control) is jerk-limited; here the velocity follows with a
first-order lag and an acceleration limit, which is close enough for demonstrations. `make sim-eval`
runs the node itself.
"""

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
            self.ticks += 1
            self._tick()

    def _tick(self):
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


class ChunkTracking:
    """Executes `execute` steps of a chunk per inference, which takes `delay` of them.

    As the node, it skips the steps of a chunk whose time was over when the inference ended, and
    executes the ones of the chunk before meanwhile.
    """

    def __init__(self, scene, policy_hz, execute, delay):
        self.scene = scene
        self.tracking = NodeTracking(scene, 0.0, policy_hz)
        self.execute, self.delay, self.rest = execute, delay, []

    def step(self, chunk, done=lambda: False):
        """Simulates until the next inference or `done()`. `chunk`: [steps, 7]."""
        still = np.array([0, 0, 0, 0, 0, 0, self.tracking.gripper], float)
        for k in range(self.execute):
            before = self.rest[k] if k < len(self.rest) else still
            self.tracking.step(before if k < self.delay else chunk[k])
            if done():
                return
        self.rest = chunk[self.execute :]
