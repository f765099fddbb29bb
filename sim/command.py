"""What an arm's driver keeps of the node's commands: the newest, its age, and the most that was asked for."""

import math
import time

import numpy as np

# Two stamps of a 50 Hz stream lie at least so far apart but for jitter; a shorter interval counts as this [s].
SHORTEST_INTERVAL = 0.012


class Command:
    """The driver: the newest command, its age and what was asked of it at most."""

    def __init__(self, timeout):
        self.timeout = timeout
        self.twist, self.gripper, self.heard = np.zeros(6), 1.0, None
        self.refused = self.timeouts = 0
        self.new_episode()

    def new_episode(self):
        self.received, self.previous = 0, None
        self.peaks = dict(linear_speed=0.0, angular_speed=0.0, linear_acceleration=0.0, angular_acceleration=0.0)

    def take_twist(self, message):
        linear, angular = message.twist.linear, message.twist.angular
        twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        if not np.isfinite(twist).all():
            self.refused += 1
            return
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self._measure(twist, stamp)
        self.twist, self.heard = twist, time.monotonic()
        self.received += 1

    def _measure(self, twist, stamp):
        for group, part in (("linear", slice(0, 3)), ("angular", slice(3, 6))):
            self._peak(f"{group}_speed", twist[part])
            if self.previous is not None and 0 < stamp - self.previous[1] < self.timeout:
                interval = max(stamp - self.previous[1], SHORTEST_INTERVAL)
                self._peak(f"{group}_acceleration", (twist[part] - self.previous[0][part]) / interval)
        self.previous = twist, stamp

    def _peak(self, name, vector):
        self.peaks[name] = max(self.peaks[name], float(np.linalg.norm(vector)))

    def take_gripper(self, message):
        if math.isfinite(message.data):
            self.gripper = min(max(message.data, 0.0), 1.0)
        else:
            self.refused += 1

    def command(self):
        """The twist to follow now; zero after a silence."""
        if self.heard is not None and self.timeout < time.monotonic() - self.heard:
            self.timeouts += 1
            self.heard, self.twist, self.previous = None, np.zeros(6), None
        return self.twist
