"""Input of an arm's driver: the newest command, its timeout, and the largest values commanded."""

import collections
import math
import statistics
import time

import numpy as np

# The stream's period is the median of the newest intervals, of at least MINIMUM_INTERVALS.
NEWEST_INTERVALS, MINIMUM_INTERVALS = 25, 5
# Shorter intervals, as a share of the period, are counted as this long: jitter of the stamps.
SHORTEST = 0.6


class CommandReceiver:
    """Takes twists [m/s, rad/s] and gripper openings (0 closed, 1 open) from the node.

    A twist in another frame than `frame` is refused, as by a driver that has no transforms; so is
    one without a frame, which MoveIt Servo treats as invalid too, because a frame that is guessed
    wrong moves the arm in another direction. A refused twist does not renew the timeout [s].
    `warn(text)` is called for the first refused frame.
    """

    def __init__(self, timeout, frame, warn=lambda text: None):
        self.timeout, self.frame, self.warn = timeout, frame, warn
        self.twist, self.gripper = np.zeros(6), 1.0
        self.received_at = None  # of the newest twist, steady clock [s]
        self.refused = self.timeouts = 0
        self.warned = False
        # Before the first command and after a timeout the arm is at rest.
        self.previous, self.at_rest = (np.zeros(6), None), True
        self.intervals = collections.deque(maxlen=NEWEST_INTERVALS)
        self.new_episode()

    def new_episode(self):
        """Resets the number of twists received and the peaks."""
        self.received = 0
        # Changes of the command that came before the stream's period was known.
        self.pending = collections.deque(maxlen=NEWEST_INTERVALS)
        self.peaks = dict(
            linear_speed=0.0, angular_speed=0.0, linear_acceleration=0.0, angular_acceleration=0.0
        )

    def take_twist(self, message):
        """Callback for TwistStamped."""
        linear, angular = message.twist.linear, message.twist.angular
        twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        frame = message.header.frame_id
        if frame != self.frame and not self.warned:
            self.warned = True
            self.warn(
                f"twist refused: it is in frame '{frame}', this arm takes them in '{self.frame}';"
                " set header.frame_id (the node: frames.base of the robot file)"
            )
        if frame != self.frame or not np.isfinite(twist).all():
            self.refused += 1
            return
        self._update_peaks(twist, message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)
        self.twist, self.received_at = twist, time.monotonic()
        self.received += 1

    def _update_peaks(self, twist, stamp):
        """Speed of each command, and acceleration between it and the one before by their stamps.

        An interval below SHORTEST of the stream's period is counted as SHORTEST of it, so that two
        stamps that are close by chance do not look like a large acceleration: the estimate is at
        most 1 / 0.6 of the true value and never below it. A command that follows rest (the first
        one, or one after a timeout) changes within one period. Whether there was a timeout is
        decided by the stamps too: a driver process that was itself suspended is not a silence of
        the sender.
        """
        before, at = self.previous
        if self.at_rest and at is not None and self.timeout < stamp - at:
            before, at = np.zeros(6), None
        self.previous, self.at_rest = (twist, stamp), False
        interval = None if at is None else stamp - at
        if interval is not None and interval > 0:
            self.intervals.append(interval)
        for group, part in (("linear", slice(0, 3)), ("angular", slice(3, 6))):
            self._peak(f"{group}_speed", twist[part])
            self.pending.append((f"{group}_acceleration", twist[part] - before[part], interval))
        if len(self.intervals) < MINIMUM_INTERVALS:
            return
        period = statistics.median(self.intervals)
        for name, change, interval in self.pending:
            dt = period if interval is None else max(interval, SHORTEST * period)
            self._peak(name, change / dt)
        self.pending.clear()

    def _peak(self, name, vector):
        self.peaks[name] = max(self.peaks[name], float(np.linalg.norm(vector)))

    def take_gripper(self, message):
        """Callback for Float64."""
        if math.isfinite(message.data):
            self.gripper = min(max(message.data, 0.0), 1.0)
        else:
            self.refused += 1

    def command(self):
        """The twist to follow now, shape [6]; zero after the timeout."""
        if self.received_at is not None and self.timeout < time.monotonic() - self.received_at:
            self.timeouts += 1
            self.received_at, self.twist, self.at_rest = None, np.zeros(6), True
        return self.twist
