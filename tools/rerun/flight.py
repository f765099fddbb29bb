"""A flight recording of the node in Rerun's viewer.

Rerun reads MCAP files itself, but shows messages of JSON as bytes. Here every number becomes a
curve, every state a span of a timeline and every sentence a line of a log, on one time axis, with a
layout like that for Foxglove (config/foxglove).
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import rerun
import rerun.blueprint as blueprint
from mcap.exceptions import McapError
from mcap.reader import make_reader

TIME = "time"
# Texts that are shown as spans of a timeline, and those that are shown as lines.
SPANS = (
    "/vla/status/state",
    "/vla/status/reason",
    "/vla/status/enabled",
    "/vla/status/published",
    "/vla/motion/interventions",
    "/vla/inputs/lifecycle",
)
LINES = ("/vla/status/detail", "/vla/event/text")
# Of an axis: the policy's step, and after the limits.
AXES = {"x": ((120, 60, 60), (255, 90, 90)), "y": ((50, 110, 60), (90, 230, 110))}
AXES["z"] = ((60, 80, 150), (110, 150, 255))
KINDS = ("desired", "limited")


class Recording:
    """Times [ns] and values by entity path."""

    def __init__(self, path):
        self.numbers = collections.defaultdict(list)
        self.texts = collections.defaultdict(list)
        self.messages = 0
        with open(path, "rb") as file:
            for schema, channel, message in make_reader(file).iter_messages():
                if schema is None or not schema.name.startswith("openvla_tt."):
                    continue
                self.messages += 1
                self.take(channel.topic, message.log_time, json.loads(message.data))

    def take(self, path, time, value):
        """A value of a message, down to its numbers and texts."""
        if isinstance(value, bool):
            self.texts[path].append((time, "yes" if value else "no"))
        elif isinstance(value, (int, float)):
            self.numbers[path].append((time, float(value)))
        elif isinstance(value, str):
            self.texts[path].append((time, value))
        elif isinstance(value, dict):
            for key, part in value.items():
                self.take(f"{path}/{key}", time, part)
        elif isinstance(value, list) and all(isinstance(part, str) for part in value):
            self.texts[path].append((time, ", ".join(value) or "none"))
        elif isinstance(value, list):
            for index, part in enumerate(value):
                self.take(f"{path}/{index}", time, part)

    def names(self, beginning):
        return [name for name in self.numbers if name.startswith(beginning)]


def changes(values):
    """The values that differ from the one before."""
    before, kept = None, []
    for time, value in values:
        if value != before:
            kept.append((time, value))
        before = value
    return kept


def send(recording):
    def times(values):
        stamps = numpy.array([time for time, _ in values], "datetime64[ns]")
        return [rerun.TimeColumn(TIME, timestamp=stamps)]

    for path, values in recording.numbers.items():
        numbers = rerun.Scalars.columns(scalars=[value for _, value in values])
        rerun.send_columns(path, indexes=times(values), columns=numbers)
        parts = path.split("/")[3:]
        shades = AXES.get(parts[-1]) if parts[0] in KINDS else None
        colours = [shades[KINDS.index(parts[0])]] if shades else None
        lines = rerun.SeriesLines(names=["/".join(parts)], colors=colours)
        rerun.log(path, lines, static=True)
    for path, values in recording.texts.items():
        values = changes(values)
        texts = [value for _, value in values]
        if path in SPANS:
            columns = rerun.StateChange.columns(state=texts)
        elif path in LINES:
            columns = rerun.TextLog.columns(text=texts)
        else:
            continue
        rerun.send_columns(path, indexes=times(values), columns=columns)


def layout(recording):
    def curves(title, *contents):
        contents = [name for name in contents if name in recording.numbers]
        return blueprint.TimeSeriesView(name=title, origin="/", contents=contents)

    def twists(title, part):
        names = [f"/vla/motion/{kind}/{part}/{axis}" for kind in KINDS for axis in AXES]
        return curves(title, *names)

    if recording.names("/vla/motion/joints/"):
        motion = [
            curves("Joints: desired [rad]", *recording.names("/vla/motion/joints/desired")),
            curves("Joints: positions [rad]", *recording.names("/vla/motion/joints/positions")),
            curves("Joints: velocities [rad/s]", *recording.names("/vla/motion/joints/velo")),
        ]
    else:
        motion = [
            twists("Translation: desired, limited [m/s]", "linear"),
            twists("Rotation: desired, limited [rad/s]", "angular"),
            curves("Gripper (0 closed, 1 open)", "/vla/command/gripper"),
        ]
    spans = [path for path in SPANS if path in recording.texts]
    lines = [path for path in LINES if path in recording.texts]
    left = blueprint.Vertical(
        blueprint.StateTimelineView(name="State, reason, limits", origin="/", contents=spans),
        blueprint.TextLogView(name="Reasons in words, events", origin="/", contents=lines),
        row_shares=[2, 3],
    )
    times = blueprint.Vertical(
        curves("Ages [s]", "/vla/status/image_age_s", "/vla/inputs/inference_busy_s"),
        curves("Stages of a decision [ms]", *recording.names("/vla/chunk/stages_ms/")),
        curves("Seams between chunks", *recording.names("/vla/motion/seam/")),
    )
    return blueprint.Blueprint(
        blueprint.Horizontal(left, blueprint.Vertical(*motion), times, column_shares=[2, 3, 2]),
        collapse_panels=True,
    )


def main():
    parser = argparse.ArgumentParser(prog="tools/rerun/open", description=__doc__)
    parser.add_argument("flight", type=pathlib.Path, help="a recording: flight_....mcap")
    parser.add_argument("--save", type=pathlib.Path, help="write this .rrd file, open no viewer")
    options = parser.parse_args()
    try:
        recording = Recording(options.flight)
    except (OSError, McapError, ValueError) as error:
        sys.exit(f"{options.flight} cannot be read: {error}; name a flight recording of the node")
    if recording.messages == 0:
        sys.exit(f"{options.flight} has no message of the flight recorder; open a bag with rerun")
    file = options.save or pathlib.Path(tempfile.mkdtemp(prefix="openvla_tt-")) / "flight.rrd"
    rerun.init("openvla_tt flight recording", recording_id=options.flight.stem)
    rerun.save(str(file), default_blueprint=layout(recording))
    send(recording)
    rerun.disconnect()
    print(f"{recording.messages} messages in {file}")
    if not options.save:
        viewer = pathlib.Path(sys.executable).parent / "rerun"
        sys.exit(subprocess.call([viewer, str(file)]))


if __name__ == "__main__":
    main()
