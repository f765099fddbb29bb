"""Publishers of the robot's sensor topics, which inject the faults of faults.py."""

import collections
import copy
import math

import numpy as np
from sensor_msgs.msg import Image
from tabletop.model import JOINT_RANGES


def resized(message, size):
    """The image with another [width, height], by nearest neighbour."""
    width, height = size
    pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
    rows = np.arange(height) * message.height // height
    columns = np.arange(width) * message.width // width
    other = Image(height=height, width=width, encoding=message.encoding, step=3 * width)
    other.header, other.data = message.header, pixels[rows][:, columns].tobytes()
    return other


def _without(message, joint):
    keep = [k for k, name in enumerate(message.name) if name != joint]
    return _picked(message, keep)


def _picked(message, order):
    other = copy.deepcopy(message)
    other.name = [message.name[k] for k in order]
    other.position = [message.position[k] for k in order]
    other.velocity = [message.velocity[k] for k in order]
    return other


def _with_position(message, joint, position):
    other = copy.deepcopy(message)
    other.position[other.name.index(joint)] = position
    return other


# Faults that change the message itself.
CHANGES = {
    "size": resized,
    "missing": _without,
    "reordered": lambda message, _: _picked(message, range(len(message.name) - 1, -1, -1)),
    "nan": lambda message, joint: _with_position(message, joint, math.nan),
    "out_of_limits": lambda message, joint: _with_position(
        message, joint, JOINT_RANGES[joint][1] + 0.1
    ),
}


class Stream:
    """A publisher of `topic`; without faults every message passes unchanged."""

    def __init__(self, node, kind, topic, qos):
        self.node, self.kind, self.topic, self.qos = node, kind, topic, qos
        self.published_on, self.publisher = topic, node.create_publisher(kind, topic, qos)
        self.new_episode([])

    def new_episode(self, faults):
        """Replaces the faults, a list of faults.Fault; forgets the last message."""
        self.last, self.delayed = None, collections.deque()
        self.set_faults(faults)

    def set_faults(self, faults):
        """Replaces the faults during an episode."""
        self.faults = [fault for fault in faults if fault.stream == self.topic]

    def offer(self, make, stamp, time, now):
        """Publishes `make()` with `stamp`, or what the fault at this moment makes of it.

        `time`: of the episode; `now`: simulated time, which never goes back [s]. `make` is not
        called where its message would not be used.
        """
        fault = next((f for f in reversed(self.faults) if f.applies(time)), None)
        kind = fault.kind if fault else None
        self._publish_on({"kill": None, "rename": fault and fault.argument}.get(kind, self.topic))
        if kind in ("off", "kill"):
            return
        if kind in ("still", "frozen") and self.last is not None:
            if kind == "still" and hasattr(self.last, "header"):
                self.last.header.stamp = stamp
            self.publisher.publish(self.last)
            return
        self.last = message = make()
        if hasattr(message, "header"):
            message.header.stamp = stamp
        if kind in CHANGES:
            message = CHANGES[kind](message, fault.argument)
        if kind == "delay":
            self.delayed.append((now + fault.argument, message))
        else:
            self.publisher.publish(message)

    def flush(self, now):
        """Publishes the delayed messages that are due."""
        while self.delayed and self.delayed[0][0] <= now + 1e-9:
            _, message = self.delayed.popleft()
            if self.publisher is not None:
                self.publisher.publish(message)

    def _publish_on(self, topic):
        """Has a publisher on that topic alone; None: no publisher."""
        if topic == self.published_on:
            return
        if self.publisher is not None:
            self.node.destroy_publisher(self.publisher)
            self.publisher = None
        if topic is not None:
            self.publisher = self.node.create_publisher(self.kind, topic, self.qos)
        self.published_on = topic
