"""Tables of episodes."""

import math

from intervals import mcnemar, median, percentile, wilson

# Interventions that are not counted: they occur in every start and stop.
SMOOTHING = ("acceleration", "jerk", "ramp_down", "gripper_range")
# Rows that run on every device and precision, with the same seeds.
PAIRED = ("policy", "swapped", "first-image")
STILL = 0.005  # a tool that moved less did not move [m]
# Rows in which the tool must never move, and rows in which it must stop before STOPPED_AFTER_S and
# not move again.
MUST_NOT_MOVE = ("no-instruction", "no-image", "frozen")
MUST_STOP = ("dropout", "still", "wrist-lost", "state-lost")
# Images end at most 0.8 s after the start, and the node's stop takes at most 0.89 s more; an
# unchanged image is detected after 5 cm of motion (SAFETY.md).
STOPPED_AFTER_S = 2.0
# REPEATED_FAULTS: the third such stop within ten seconds latches, as in consecutive episodes.
STOPPED_BY = (
    *("IMAGE_STALE", "IMAGE_MISSING", "IMAGE_FROZEN", "IMAGE_UNCHANGED", "REPEATED_FAULTS"),
    *("STATE_STALE", "STATE_MISSING", "EE_POSE_STALE"),
)
# Share of an episode's time that the simulation may lose against real time.
LOST_SHARE = 0.01


def number(value, form):
    return "-" if value is None or math.isnan(value) else format(value, form)


def share(good, n):
    low, high = wilson(good, n)
    return f"{good}/{n} = {100 * good / n:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" if n else "-"


def groups(episodes):
    """Episodes by (row, variant, task), in order of first appearance."""
    found = {}
    for episode in episodes:
        if episode.get("unchanged"):  # no room for what the row changes
            continue
        found.setdefault((episode["row"], episode["variant"], episode["task"]), []).append(episode)
    return found


def as_expected(episode):
    """Whether the outcome is the expected one of its row.

    The task is done; or the tool did not move; or it moved and was stopped for the lost source.
    """
    if episode["row"] in MUST_NOT_MOVE:
        return episode["tool_moved"] < STILL
    if episode["row"] in MUST_STOP:
        # "IMAGE_STALE (camera wrist_image): ..." where there are several sources.
        causes = [reason.split(":")[0].split(" ")[0] for reason in episode["reasons"]]
        stopped = any(cause in STOPPED_BY for cause in causes)
        return stopped and episode["moved_later"] < STILL <= episode["tool_moved"]
    return episode["success"]


def largest(episodes, where, name):
    return max((e[where][name] for e in episodes if e[where]), default=math.nan)


def lines_of(found):
    rows = []
    for (row, variant, task), episodes in found.items():
        done = [e for e in episodes if e["success"]]
        # Where images end, the commands that follow are zeros, without an image age.
        ages = [
            age for e in episodes for age in e["ages_s"] if row not in MUST_NOT_MOVE + MUST_STOP
        ]
        seconds = sum(e["seconds"] for e in episodes)
        shaped = sum(
            n for e in episodes for name, n in e["interventions"].items() if name not in SMOOTHING
        )
        rates = [e["policy_hz"] for e in episodes if e["policy_hz"]]
        real = any(e["peaks"] for e in episodes)
        seams = [1e3 * seam for e in episodes for seam in e["seams"]]
        rows.append(
            [
                row,
                variant,
                task,
                share(sum(map(as_expected, episodes)), len(episodes)),
                number(median([e["success_s"] for e in done if e["success_s"] is not None]), ".1f"),
                number(median([e["path_length"] for e in (done or episodes)]), ".2f"),
                number(median([e["tool_moved"] for e in episodes]), ".3f"),
                number(shaped / seconds if real else math.nan, ".1f"),
                number(median(rates), ".1f"),
                number(1e3 * percentile(ages, 0.5), ".0f"),
                number(1e3 * percentile(ages, 0.99), ".0f"),
                number(percentile(seams, 0.5), ".2f"),
                number(percentile(seams, 0.95), ".2f"),
                *(number(largest(episodes, where, name), ".3f") for where, name in SPEEDS),
                str(sum(e["end_state"] in ("FAULT", "ESTOPPED") for e in episodes))
                if real
                else "-",
            ]
        )
    return rows


SPEEDS = (
    ("peaks", "linear_speed"),
    ("peaks", "linear_acceleration"),
    ("measured", "linear_speed"),
    ("measured", "linear_acceleration"),
)
HEADER = [
    "row",
    "on",
    "task",
    "as expected [95 %]",
    "time [s]",
    "path [m]",
    "moved [m]",
    "shaped [1/s]",
    "policy [Hz]",
    "age p50 [ms]",
    "age p99 [ms]",
    "seam p50 [mm]",
    "seam p95 [mm]",
    "speed",
    "accel",
    "tool speed",
    "tool accel",
    "latched",
]
LEGEND = f"""\
as expected: the task is done; in {", ".join(MUST_NOT_MOVE)}: the tool moved less than
  {1000 * STILL:.0f} mm; in {", ".join(MUST_STOP)}: it moved, and rested from {STOPPED_AFTER_S:g} s
  after the start on because of the lost source. Wilson's 95 % intervals.
time: simulated, from enabling to success; path: of the tool, over successes if there are any;
  moved: largest distance from its start. Medians.
shaped: control periods per second in which the safety layer changed a command (envelope, step cap,
  workspace, velocity, gripper; not the smoothing of starts and stops).
age: from an image's stamp to the stamp of the first command computed from it.
seam: difference of the steps on both sides of a take-over by a new chunk, per policy step.
speed [m/s], accel [m/s2]: largest commanded values received by the robot, the final stop included.
tool speed, tool accel: largest of the simulated tool, whose joints follow within about 20 ms.
latched: episodes that ended in FAULT or ESTOPPED.
lockstep: simulated time waits for the policy, every action is 0.1 s old; policy [Hz] is the rate
  that the machine reached.
displaced: the task's block is put to another place when the tool has moved 6 cm. distractors: two
  things on the table that no instruction names. Layouts without room for that are left out.
first-image: the policy sees the first image throughout: its success without seeing.
expert, random-actions: without ROS, on the same scenes; a random direction at the expert's speed
  and a random gripper every second. random-weights: the policy before training."""


def limits(robot):
    """Largest speeds and accelerations that the robot's file allows, by the names of the peaks."""
    import yaml

    groups = yaml.safe_load(robot.read_text())["limits"]
    return {
        f"{group}_{name}": groups[group][limit]
        for group in ("linear", "angular")
        for name, limit in (("speed", "velocity"), ("acceleration", "acceleration"))
    }


def problems(episodes, allowed):
    """Errors that invalidate the tables, one line each.

    A command exceeded a limit of the robot, or the simulation did not keep up with real time.
    """
    found = []
    for name, limit in allowed.items():
        # Stamps are taken next to the time that the node's limiter uses; their jitter makes
        # accelerations uncertain by one percent.
        slack = 1.01 if name.endswith("acceleration") else 1 + 1e-9
        over = [e for e in episodes if limit * slack < e["peaks"].get(name, 0.0)]
        if over:
            worst = max(over, key=lambda e: e["peaks"][name])
            found.append(
                f"{name}: {worst['peaks'][name]:.4f} of {limit:g} was commanded in {worst['row']}"
                f" {worst['variant']} {worst['task']} seed {worst['seed']}"
                f" ({len(over)} episodes over the limit)"
            )
    slow = [e for e in episodes if LOST_SHARE * e["seconds"] < e["lost_s"]]
    if slow:
        found.append(
            f"the simulation lost {sum(e['lost_s'] for e in slow):.1f} s in {len(slow)} episodes:"
            " this machine is too busy for real time; try --lockstep"
        )
    return found


def markdown(header, rows):
    return "\n".join(
        [
            "| " + " | ".join(header) + " |",
            "|" + "---|" * len(header),
            *("| " + " | ".join(row) + " |" for row in rows),
        ]
    )


def plain(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in [header, *rows]
    )


def pairs(found):
    """Each variant of a row against the first one, over the seeds that both have."""
    rows = []
    for row in PAIRED:
        names = list(dict.fromkeys(variant for name, variant, _ in found if name == row))
        for other in names[1:]:
            for task in dict.fromkeys(
                task for name, variant, task in found if name == row and variant == other
            ):
                first = {e["seed"]: e["success"] for e in found.get((row, names[0], task), [])}
                second = {e["seed"]: e["success"] for e in found[(row, other, task)]}
                both = first.keys() & second.keys()
                only_first = sum(first[s] and not second[s] for s in both)
                only_second = sum(second[s] and not first[s] for s in both)
                if both:
                    counts = (
                        len(both),
                        sum(first[s] and second[s] for s in both),
                        only_first,
                        only_second,
                    )
                    rows.append(
                        [
                            row,
                            task,
                            names[0],
                            other,
                            *map(str, counts),
                            f"{mcnemar(only_first, only_second):.2f}",
                        ]
                    )
    return [
        "row",
        "task",
        "first",
        "second",
        "pairs",
        "both",
        "only first",
        "only second",
        "p (McNemar)",
    ], rows


def report(episodes, write=plain):
    """All tables as text."""
    found = groups(episodes)
    parts = [write(HEADER, lines_of(found))]
    swapped = [e for e in episodes if e["row"] == "swapped"]
    if swapped:
        old = sum(e["task"] in e["done"].get(e["drawn"], []) for e in swapped)
        parts.append(
            "swapped: success with the block that the instruction names; the policy acted on the"
            f" block that the seed draws in {old} of {len(swapped)} episodes."
        )
    header, rows = pairs(found)
    if rows:
        parts.append("Paired seeds:\n" + write(header, rows))
    parts.append(LEGEND)
    return "\n\n".join(parts)
