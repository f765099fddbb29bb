"""What the node makes of an action: a twist held for one policy period, behind its latency and its limits. For episodes without ROS.

The node's own control (src/control/) is jerk-limited; here the velocity follows through a first-order lag and an
acceleration limit, which is close enough for demonstrations. `sim-eval` judges with the node itself.
"""

import numpy as np

POLICY_HZ = 5.0
VELOCITY = 0.25  # [m/s] as config/robots/tabletop.yaml
ANGULAR_VELOCITY = 0.6
ACCELERATION = 1.0  # [m/s2]
LAG = 0.06  # [s]
PERIOD = 0.02


class NodeTracking:
    """Applies actions to a scene as the node would; `latency` [s] is the age an action has when its motion begins."""

    def __init__(self, scene, latency=0.1):
        self.scene, self.latency = scene, latency
        self.velocity = np.zeros(6)
        self.wish, self.gripper = np.zeros(6), 1.0
        self.on_the_way, self.ticks = [], 0

    def step(self, action):
        """One policy period: earlier actions until the latency has passed, then this one."""
        action = np.array(action, dtype=float)
        self.on_the_way.append((self.ticks + round(self.latency / PERIOD), action))
        for _ in range(round(1.0 / POLICY_HZ / PERIOD)):
            while self.on_the_way and self.on_the_way[0][0] <= self.ticks:
                _, arrived = self.on_the_way.pop(0)
                self.wish, self.gripper = arrived[:6] * POLICY_HZ, arrived[6]
            self.ticks += 1
            self._tick()

    def _tick(self):
        wish = self.wish.copy()
        for group, limit in ((slice(0, 3), VELOCITY), (slice(3, 6), ANGULAR_VELOCITY)):
            length = np.linalg.norm(wish[group])
            if length > limit:
                wish[group] *= limit / length
        change = (wish - self.velocity) * (PERIOD / (LAG + PERIOD))
        length = np.linalg.norm(change[:3])
        if length > ACCELERATION * PERIOD:
            change[:3] *= ACCELERATION * PERIOD / length
        self.velocity = self.velocity + change
        self.scene.apply(self.velocity, 1.0 if self.gripper > 0.5 else 0.0, PERIOD)
