"""The referee of a robot commanded in joint space: commands and joints compared with its limits.

A smooth motion whose derivatives are within the limits has divided differences within them, for any
times of sampling (Hermite-Genocchi): |f[t0, t1]| <= V, 2 |f[t0, t1, t2]| <= A, 6 |f[t0 .. t3]| <= J
for positions. So commands are judged by the stamps in their messages, exactly and at any rate.
Messages without stamps have the time of sending instead, a little later than that for which they
were computed: a position that is early by e changes the second difference by 2 V e / T^2, a third
of the usual limits for e = 0.2 ms.
"""

import dataclasses
import math

import numpy as np
import yaml
from refused import Refused

QUANTITIES = ("position", "velocity", "acceleration", "jerk")
# A commanded position this close to the joints, after commands at rest, starts a new motion: the
# sender has taken over the measured positions [rad].
NEW_START = 0.005
# Time constant of the low-pass filters of the joints' acceleration and jerk [s], as of the tool's
# (motion_estimate.py).
TIME_CONSTANT = 0.04


@dataclasses.dataclass(frozen=True)
class JointLimits:
    """Limits of the joints in order: arrays of shape [n], rad, rad/s, rad/s2, rad/s3."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray

    @classmethod
    def read(cls, path, names):
        """The limits of the joints `names` in a robot file (config/robots)."""
        try:
            with open(path, encoding="utf-8") as file:
                entries = {e["name"]: e for e in yaml.safe_load(file)["joints"]}
        except OSError as error:
            raise Refused(f"robot_file: {path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
            raise Refused(f"robot_file: {path} has no list `joints` with names") from None
        missing = [name for name in names if name not in entries]
        if missing:
            raise Refused(f"robot_file: {path} has no joint '{missing[0]}'")
        try:
            rows = [
                [*e.get("position", (-math.inf, math.inf)), *(e[q] for q in QUANTITIES[1:])]
                for e in (entries[name] for name in names)
            ]
            return cls(*np.array(rows, dtype=float).T)
        except (KeyError, TypeError, ValueError):
            raise Refused(
                f"robot_file: {path}: joints need position [min, max], {', '.join(QUANTITIES[1:])}"
            ) from None

    def ratios(self, quantity, values):
        """Share of its limit that each joint uses; beyond 1 it is exceeded. Shape [n]."""
        if quantity == "position":
            half = (self.high - self.low) / 2
            with np.errstate(invalid="ignore"):
                share = np.abs(values - (self.high + self.low) / 2) / half
            return np.where(np.isfinite(half), share, 0.0)
        return np.abs(values) / getattr(self, quantity)


class Peaks:
    """Largest absolute value of each quantity per joint, and share of its limit."""

    def __init__(self, names, limits):
        self.names, self.limits = names, limits
        self.largest = {q: np.zeros(len(names)) for q in QUANTITIES}
        self.ratios = {q: (0.0, "") for q in QUANTITIES}

    def take(self, quantity, values):
        self.largest[quantity] = np.maximum(self.largest[quantity], np.abs(values))
        if self.limits is not None:
            ratios = self.limits.ratios(quantity, values)
            k = int(np.argmax(ratios))
            if self.ratios[quantity][0] < ratios[k]:
                self.ratios[quantity] = float(ratios[k]), self.names[k]

    def exceeded_by(self, quantity, values):
        return self.limits is not None and bool(
            (self.limits.ratios(quantity, values) > 1 + 1e-6).any()
        )

    def report(self):
        """{"largest": {quantity: value}, "ratios": {quantity: ratio}, "joint": {quantity: name}}.

        Without limits the ratios are left out.
        """
        report = dict(largest={q: round(float(v.max()), 6) for q, v in self.largest.items()})
        if self.limits is not None:
            report["ratios"] = {q: round(ratio, 6) for q, (ratio, _) in self.ratios.items()}
            report["joint"] = {q: name for q, (_, name) in self.ratios.items()}
        return report


class CommandReferee:
    """Judges a stream of commanded positions, velocities or both, as they were received.

    `period`: before the first command the arm rested for that long [s]. `silence`: after that time
    without a command the next one follows rest [s].
    """

    def __init__(self, names, limits, period, silence):
        self.names, self.limits = names, limits
        self.period, self.silence = period, silence
        self.history, self.first_stamp = [], None
        self.new_episode()

    def new_episode(self):
        """Resets the peaks; the stream goes on."""
        self.peaks = Peaks(self.names, self.limits)
        self.starts = self.backwards = 0

    def take(self, stamp, positions, velocities, measured):
        """A command: arrays of shape [n] or None.

        `stamp`: nanoseconds as an integer, of which a float would lose microseconds. `measured`:
        the positions of the joints now.
        """
        if self.first_stamp is None:
            self.first_stamp = stamp
        self._judge((stamp - self.first_stamp) * 1e-9, positions, velocities, measured)

    def _judge(self, time, positions, velocities, measured):
        if self.history and time <= self.history[-1][0]:
            self.backwards += 1  # not a later command: its differences mean nothing
            return
        kind = [value is not None for value in (positions, velocities)]
        if self.history and (
            self.silence < time - self.history[-1][0]
            or kind != [value is not None for value in self.history[-1][1:]]
        ):
            self.history = []
        if not self.history:
            # At rest before: at the first position, or with a velocity of zero.
            rest = None if velocities is None else np.zeros(len(self.names))
            self.history = [(time - k * self.period, positions, rest) for k in (3, 2, 1)]
            self.starts += 1
        elif self._is_new_start(time, positions, measured):
            self.history = []
            return self._judge(time, positions, velocities, measured)
        self.history = [*self.history[-3:], (time, positions, velocities)]
        times = [entry[0] for entry in self.history]
        if positions is not None:
            self.peaks.take("position", positions)
            self._differences(times, [entry[1] for entry in self.history], QUANTITIES[1:])
        if velocities is not None:
            self.peaks.take("velocity", velocities)
            self._differences(times, [entry[2] for entry in self.history], QUANTITIES[2:])

    def _is_new_start(self, time, positions, measured):
        """Whether a command that is a jump takes over the measured positions at rest."""
        if positions is None or np.abs(positions - measured).max() > NEW_START:
            return False
        at_rest = all((entry[1] == self.history[-1][1]).all() for entry in self.history[-3:])
        change = positions - self.history[-1][1]
        dt = time - self.history[-1][0]
        return at_rest and any(
            self.peaks.exceeded_by(quantity, change / dt**order)
            for order, quantity in enumerate(QUANTITIES[1:], 1)
        )

    def _differences(self, times, values, quantities):
        """The divided differences that end with the newest value, times their factorials."""
        factorial, count = 1, len(times)
        for order, quantity in enumerate(quantities, 1):
            factorial *= order
            values = [
                (values[k + 1] - values[k]) / (times[k + order] - times[k])
                for k in range(count - order)
            ]
            self.peaks.take(quantity, factorial * values[-1])

    def report(self):
        """That of Peaks; `starts`: motions from rest; `backwards`: stamps that did not increase."""
        return self.peaks.report() | dict(starts=self.starts, backwards=self.backwards)


class JointMotion:
    """The joints themselves: position and, low-passed, its derivatives; contacts included."""

    def __init__(self, names, limits, period):
        self.names, self.limits, self.period = names, limits, period
        self.new_episode(None)

    def new_episode(self, positions):
        """At rest at `positions`, or anywhere."""
        self.peaks = Peaks(self.names, self.limits)
        n = len(self.names)
        self.positions, self.velocity = positions, np.zeros(n)
        self.acceleration = np.zeros(n)

    def take(self, positions):
        """The positions one period later, shape [n]."""
        share = self.period / (TIME_CONSTANT + self.period)
        velocity = (positions - self.positions) / self.period
        change = (velocity - self.velocity) * share
        acceleration = change / self.period
        jerk = (acceleration - self.acceleration) * share / self.period
        self.positions = np.array(positions)
        self.velocity = self.velocity + change
        self.acceleration = self.acceleration + jerk * self.period
        for quantity, values in zip(
            QUANTITIES, (positions, self.velocity, self.acceleration, jerk)
        ):
            self.peaks.take(quantity, values)
