"""How fast the tool moves and how hard it accelerates, estimated from its positions as from an arm's encoders."""

import numpy as np

# Of the low-pass behind the differences [s]: encoders give no velocity, and their differences
# nothing but noise without one.
TIME_CONSTANT = 0.04


class Motion:
    """Takes the tool's position once per `period` and keeps the largest speed and acceleration since it was made."""

    def __init__(self, position, period):
        self.position, self.period = np.array(position), period
        self.velocity = np.zeros(3)
        self.peaks = dict(linear_speed=0.0, linear_acceleration=0.0)

    def take(self, position):
        velocity = (position - self.position) / self.period
        change = (velocity - self.velocity) * self.period / (TIME_CONSTANT + self.period)
        self.position, self.velocity = np.array(position), self.velocity + change
        self._peak("linear_speed", self.velocity)
        self._peak("linear_acceleration", change / self.period)

    def _peak(self, name, vector):
        self.peaks[name] = max(self.peaks[name], float(np.linalg.norm(vector)))
