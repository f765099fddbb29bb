"""Speed and acceleration of the tool, estimated from positions as from an arm's encoders."""

import numpy as np

# Time constant of the low-pass filter of the velocity [s]. Encoders give positions only, and
# unfiltered differences of them are mostly noise.
TIME_CONSTANT = 0.04


class MotionEstimate:
    """Takes the tool's position [m] once per `period` [s]; keeps the peaks since its creation."""

    def __init__(self, position, period):
        self.position, self.period = np.array(position), period
        self.velocity = np.zeros(3)
        self.peaks = dict(linear_speed=0.0, linear_acceleration=0.0)

    def take(self, position):
        """Adds the next position, shape [3]."""
        velocity = (position - self.position) / self.period
        change = (velocity - self.velocity) * self.period / (TIME_CONSTANT + self.period)
        self.position, self.velocity = np.array(position), self.velocity + change
        self._peak("linear_speed", self.velocity)
        self._peak("linear_acceleration", change / self.period)

    def _peak(self, name, vector):
        self.peaks[name] = max(self.peaks[name], float(np.linalg.norm(vector)))
