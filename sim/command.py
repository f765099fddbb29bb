"""What an arm's driver keeps of the node's commands: the newest, its age, and the most that was asked for."""

import collections
import math
import statistics
import time

import numpy as np

# The stream's period is the median of its newest intervals, once there are enough of them.
NEWEST, ENOUGH = 25, 5
# A shorter interval, as a share of the period, is jitter of the stamps.
SHORTEST = 0.6


class Command:
    """The driver: the newest command, its age and what was asked of it at most.

    A twist in another frame than the arm's is refused, as a driver does that knows no transform. One without a frame too: MoveIt Servo calls it invalid, and
    a frame that was guessed wrong sends the arm another way. A refused twist is none: the arm goes on until the command before it is too old.
    """

    def __init__(self, timeout, frame, warn=lambda text: None):
        self.timeout, self.frame, self.warn = timeout, frame, warn
        self.twist, self.gripper, self.heard = np.zeros(6), 1.0, None
        self.refused = self.timeouts = 0
        self.warned = False
        # The arm stands before the first command and after a silence.
        self.previous, self.silent = (np.zeros(6), None), True
        self.intervals = collections.deque(maxlen=NEWEST)
        self.new_episode()

    def new_episode(self):
        self.received = 0
        self.waiting = collections.deque(
            maxlen=NEWEST
        )  # changes before the stream's period is known
        self.peaks = dict(
            linear_speed=0.0, angular_speed=0.0, linear_acceleration=0.0, angular_acceleration=0.0
        )

    def take_twist(self, message):
        linear, angular = message.twist.linear, message.twist.angular
        twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        frame = message.header.frame_id
        if frame != self.frame and not self.warned:
            self.warned = True
            self.warn(
                f"twist refused: it is in frame '{frame}', this arm takes them in '{self.frame}'; set header.frame_id (the node: frames.base of the robot file)"
            )
        if frame != self.frame or not np.isfinite(twist).all():
            self.refused += 1
            return
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self._measure(twist, stamp)
        self.twist, self.heard = twist, time.monotonic()
        self.received += 1

    def _measure(self, twist, stamp):
        """Speed: of each command. Acceleration: the change from the command before it over the time between their stamps.

        A time below 0.6 of the stream's period counts as that: two stamps that lie together by chance make at most 1.67 of an acceleration, none is made less of.
        A command that follows standstill (the first one, or after a timeout) changes everything within one period. By its stamps a silence is one of the
        sender's, and not of a driver that was asleep itself.
        """
        before, at = self.previous
        if self.silent and at is not None and self.timeout < stamp - at:
            before, at = np.zeros(6), None
        self.previous, self.silent = (twist, stamp), False
        interval = None if at is None else stamp - at
        if interval is not None and interval > 0:
            self.intervals.append(interval)
        for group, part in (("linear", slice(0, 3)), ("angular", slice(3, 6))):
            self._peak(f"{group}_speed", twist[part])
            self.waiting.append((f"{group}_acceleration", twist[part] - before[part], interval))
        if len(self.intervals) < ENOUGH:
            return
        period = statistics.median(self.intervals)
        for name, change, interval in self.waiting:
            self._peak(
                name, change / (period if interval is None else max(interval, SHORTEST * period))
            )
        self.waiting.clear()

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
            self.heard, self.twist, self.silent = None, np.zeros(6), True
        return self.twist
