"""Faults of the robot's sensor topics, for tests: their JSON form, and when each applies.

A fault is {"stream": NAME, "kind": KIND, "from_s": T, "until_s": T} with the arguments of its kind;
times are those of the episode, and without them it always applies. Of several that apply to one
stream at a time the last one counts.
"""

import dataclasses
import math
import re

from refused import Refused, is_text
from tabletop.model import ARM_JOINTS, FINGER_JOINTS

# Kinds for every stream, with their argument.
#   off       nothing is published         kill    the publisher is gone, as of a process that ended
#   still     repeated with new stamps     frozen  repeated with its old stamp
#   delay     published `seconds` later    rename  published on `topic` instead
GENERIC = {
    "off": None,
    "kill": None,
    "still": None,
    "frozen": None,
    "delay": "seconds",
    "rename": "topic",
}
# Images of another size: [width, height], resampled.
CAMERA = GENERIC | {"size": "size"}
#   missing        without `joint`         reordered      the joints in reverse order
#   nan            its position is NaN     out_of_limits  its position is 0.1 above the arm's range
JOINTS = GENERIC | {
    "missing": "joint",
    "reordered": None,
    "nan": "joint",
    "out_of_limits": "joint",
}
STREAMS = {
    "image": CAMERA,
    "wrist_image": CAMERA,
    "joint_states": JOINTS,
    "ee_pose": GENERIC,
    "gripper_state": GENERIC,
}
COMMON = ("stream", "kind", "from_s", "until_s")
MOST = 32  # faults of an episode
LONGEST_DELAY_S = 10.0
TOPIC = re.compile(r"/?[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*\Z")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault; `argument` is that of its kind, or None."""

    stream: str
    kind: str
    argument: object = None
    from_s: float = 0.0
    until_s: float = math.inf

    def applies(self, time):
        """Whether it applies at that time of the episode [s]."""
        # Simulated time is a sum of steps and may be too small by a rounding error.
        return self.from_s <= time + 1e-9 < self.until_s


def is_number(value, low, high):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and low <= value <= high


def _is_size(value):
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(side) is int and 1 <= side <= 1024 for side in value)
    )


# Argument: (whether a value is valid, what is valid).
_ARGUMENTS = {
    "seconds": (
        lambda value: is_number(value, 0.0, LONGEST_DELAY_S),
        f"a number from 0 to {LONGEST_DELAY_S:g}",
    ),
    "topic": (
        lambda value: is_text(value) and len(value) < 200 and TOPIC.match(value),
        "the name of a topic",
    ),
    "size": (_is_size, "[width, height], integers from 1 to 1024"),
    "joint": (
        lambda value: value in ARM_JOINTS + FINGER_JOINTS,
        f"one of {', '.join(ARM_JOINTS + FINGER_JOINTS)}",
    ),
}


def _read(entry):
    if not isinstance(entry, dict):
        raise Refused(f"a fault is a JSON object, not {type(entry).__name__}")
    stream, kind = entry.get("stream"), entry.get("kind")
    if not isinstance(stream, str) or stream not in STREAMS:
        raise Refused(f"stream: {stream!r} is not among {', '.join(STREAMS)}")
    kinds = STREAMS[stream]
    if not isinstance(kind, str) or kind not in kinds:
        raise Refused(f"kind: {kind!r} of {stream} is not among {', '.join(kinds)}")
    name = kinds[kind]
    unknown = entry.keys() - {*COMMON, name}
    if unknown:
        raise Refused(f"{stream} {kind}: unknown: {', '.join(sorted(map(str, unknown)))}")
    if name is not None:
        valid, words = _ARGUMENTS[name]
        if not valid(entry.get(name)):
            raise Refused(f"{stream} {kind}: {name}: {entry.get(name)!r} is not {words}")
    for time in ("from_s", "until_s"):
        if entry.get(time) is not None and not is_number(entry[time], 0.0, 3600.0):
            raise Refused(f"{stream} {kind}: {time}: {entry[time]!r} is not from 0 to 3600")
    until = entry.get("until_s")
    return Fault(
        stream,
        kind,
        entry.get(name) if name else None,
        float(entry.get("from_s") or 0.0),
        math.inf if until is None else float(until),
    )


def read_faults(entries, streams):
    """A list of Fault from parsed JSON; Refused when invalid or not of one of these `streams`."""
    if not isinstance(entries, list):
        raise Refused(f"faults are a JSON list, not {type(entries).__name__}")
    if MOST < len(entries):
        raise Refused(f"faults: {len(entries)} are more than {MOST}")
    faults = [_read(entry) for entry in entries]
    for fault in faults:
        if fault.stream not in streams:
            raise Refused(f"stream: this robot does not publish {fault.stream}")
    return faults
