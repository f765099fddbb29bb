"""Input of an arm's driver in joint space: interfaces, timeout, and the referee's input."""

import collections
import math
import time

import numpy as np
from refused import Refused, one_line
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from tabletop.scene import JOINT_SPEED_LIMIT
from trajectory_msgs.msg import JointTrajectory

# Interface: message and topic. `twist` is that of command_receiver.py.
INTERFACES = {
    "twist": None,
    "joint_trajectory": (JointTrajectory, "joint_trajectory_controller/joint_trajectory"),
    "joint_position_array": (Float64MultiArray, "forward_position_controller/commands"),
    "joint_velocity_array": (Float64MultiArray, "forward_velocity_controller/commands"),
    "joint_state": (JointState, "joint_commands"),
}
# A stream whose positions are further away than this, and too far for the driver's speed, is
# refused as a jump [rad]. Less is caught up with: a message may come late.
JUMP = 0.3
# Stamps that differ more from the present [ns] are of another clock: the command counts from now.
OTHER_CLOCK = 10**9


def nanoseconds(stamp):
    """A ROS time or duration as an integer."""
    return stamp.sec * 10**9 + stamp.nanosec


class JointReceiver:
    """Takes commands for the joints `names` and moves a goal accordingly.

    `order`: of the numbers of an array. `goals()`: where the joints are driven to, `joints()`:
    where they are, shape [n]. `referee`: a CommandReferee. `warn(text)`: called for a refused
    command unless the same text came just before. Seconds: `timeout`; `period` of the driver;
    `delay` with which it follows, so that messages which arrive unevenly are followed evenly.
    """

    def __init__(
        self, interface, names, order, goals, joints, referee, timeout, period, delay, warn
    ):
        self.interface, self.names, self.order = interface, list(names), list(order)
        self.timeout, self.period, self.delay = timeout, period, round(delay * 1e9)
        self.goals, self.joints, self.referee, self.warn = goals, joints, referee, warn
        self.gripper = 1.0
        self.received_at, self.warned = None, None
        self.refused = self.timeouts = 0
        self.new_episode()

    def new_episode(self):
        """Resets the counters; positions count from now on only once they are near the joints.

        Commands that were sent for the posture before must not move the arm back to it.
        """
        self.received = self.late = 0
        self.peaks = {}  # those of twists
        self.following = False
        self.plan = collections.deque()  # (time of the stamps [ns], positions, velocities)
        self.referee.new_episode()

    # -- Messages

    def take(self, message, sent, now):
        """Callback for the interface's message.

        `now`: present time of the stamps [ns]; `sent`: time of sending, on any clock [ns].
        """
        try:
            stamp, positions, velocities, duration = getattr(self, f"_{self.interface}")(message)
            self._check(positions, velocities, duration)
        except Refused as error:
            self.refuse(str(error))
            return
        if stamp and stamp + 1e9 * duration < now:
            self.late += 1  # joint_trajectory_controller would refuse it
        self.referee.take(stamp or sent, positions, velocities, self.joints())
        self.received += 1
        self.received_at, self.following = time.monotonic(), True
        begin = stamp or sent
        at = (begin if abs(begin - now) < OTHER_CLOCK else now) + round(1e9 * duration)
        while self.plan and at <= self.plan[-1][0]:
            self.plan.pop()  # the newest command counts
        self.plan.append((at, positions, velocities))

    def refuse(self, reason):
        self.refused += 1
        if reason != self.warned:
            self.warned = reason
            self.warn(f"command refused: {one_line(reason)}")

    def _joint_trajectory(self, message):
        if len(message.points) != 1:
            raise Refused(f"points: {len(message.points)}; this driver takes one at a time")
        (point,) = message.points
        if not point.positions:
            raise Refused("points[0].positions is empty")
        duration = nanoseconds(point.time_from_start) * 1e-9
        if duration < 0:
            raise Refused(f"time_from_start: {duration:g} s is negative")
        return (
            nanoseconds(message.header.stamp) or None,
            self._by_name(message.joint_names, point.positions, "positions"),
            self._by_name(message.joint_names, point.velocities, "velocities", optional=True),
            duration,
        )

    def _joint_state(self, message):
        positions = self._by_name(message.name, message.position, "position", optional=True)
        velocities = self._by_name(message.name, message.velocity, "velocity", optional=True)
        if positions is None and velocities is None:
            raise Refused("position and velocity are empty")
        return nanoseconds(message.header.stamp) or None, positions, velocities, 0.0

    def _joint_position_array(self, message):
        return None, self._by_name(self.order, message.data, "data"), None, 0.0

    def _joint_velocity_array(self, message):
        return None, None, self._by_name(self.order, message.data, "data"), 0.0

    def _by_name(self, names, values, field, optional=False):
        """The values in the arm's order; None for an optional field that is empty."""
        names = list(names)
        if sorted(names) != sorted(self.names):
            raise Refused(
                f"joints {', '.join(names) or '(none)'} are not {', '.join(self.names)}, each once"
            )
        if optional and not len(values):
            return None
        if len(values) != len(names):
            raise Refused(f"{field}: {len(values)} numbers for {len(names)} joints")
        values = np.array(values, dtype=float)
        if not np.isfinite(values).all():
            name = names[int(np.argmin(np.isfinite(values)))]
            raise Refused(f"{field} of {name} is not finite")
        return values[[names.index(name) for name in self.names]]

    def _check(self, positions, velocities, duration):
        if positions is None:
            return
        away = np.abs(positions - self.goals())
        k = int(np.argmax(away))
        needed = away[k] / max(duration, self.period)
        if needed > JOINT_SPEED_LIMIT and (away[k] > JUMP or not self.following):
            raise Refused(
                f"{self.names[k]}: {positions[k]:.3f} is {away[k]:.3f} rad from its goal"
                f" {self.goals()[k]:.3f} and would need {needed:.1f} rad/s; this driver's limit is"
                f" {JOINT_SPEED_LIMIT:g} rad/s"
            )

    def take_gripper(self, message):
        """Callback for Float64: 0 closed .. 1 open."""
        if math.isfinite(message.data):
            self.gripper = min(max(message.data, 0.0), 1.0)
        else:
            self.refuse("the gripper's command is not finite")

    # -- The driver

    def drive(self, scene, now):
        """Moves the scene by one period; at rest without a command and after the timeout.

        `now`: time of the stamps at the end of the period [ns].
        """
        if self.received_at is not None and self.timeout < time.monotonic() - self.received_at:
            self.timeouts += 1
            self.received_at = None
            self.plan.clear()
        positions, velocities = self._at(now - self.delay)
        scene.apply_joints(self.gripper, self.period, positions=positions, velocities=velocities)

    def _at(self, now):
        """Positions, or velocities, or neither, that the commands give for that time."""
        while len(self.plan) > 1 and self.plan[1][0] <= now:
            self.plan.popleft()
        if not self.plan:
            return None, None
        at, positions, velocities = self.plan[0]
        if positions is None:
            return None, velocities if at <= now else None
        if now < at:  # on the straight way to the first point
            share = self.period / (self.period + (at - now) * 1e-9)
            return self.goals() + share * (positions - self.goals()), None
        if len(self.plan) == 1 or self.plan[1][1] is None:
            return positions, None
        share = (now - at) / (self.plan[1][0] - at)
        return positions + share * (self.plan[1][1] - positions), None
