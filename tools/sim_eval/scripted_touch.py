#!/usr/bin/env python3
"""Touches of blocks by the node's scripted policy on the simulated robot, in every action space.

usage: tools/sim/run tools/ros/isolated.py tools/sim_eval/scripted_touch.py --space joint_position
       [--seeds N] [--output joint_trajectory] ...

Node and robot are processes of their own. For each seed the goals above the named block and on it
are computed by inverse kinematics and given to the policy as instructions `move to <numbers>`, one
after the other; the robot judges the touch, and its referee compares commands and joints with the
limits of the robot file. Prints one JSON object per episode and at last one with the key `summary`.
The exit status is 1 when a touch failed or a command exceeded a limit.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sim"))

# Interface of the robot that a space is driven through unless --output names another one.
OUTPUTS = {
    "end_effector": "twist",
    "joint_position": "joint_trajectory",
    "joint_velocity": "joint_velocity_array",
}
# Ratios of commands to limits that are judged, and the largest one that is none too large. Arrays
# have no stamps and the node's trajectories a stamp of zero, so that they have a time of sending,
# with which only the lowest derivatives are exact (sim/joint_referee.py). With --output
# joint_state, which has stamps, acceleration and jerk of joint positions are judged too.
JUDGED = {
    "twist": dict.fromkeys(("linear_velocity", "angular_velocity"), 1.0001)
    | dict.fromkeys(("linear_acceleration", "angular_acceleration"), 1.001),
    "joint_trajectory": dict.fromkeys(("position", "velocity"), 1.0001),
    "joint_position_array": dict(position=1.0001),
    "joint_velocity_array": dict(velocity=1.0001),
    "joint_state": dict.fromkeys(("position", "velocity", "acceleration", "jerk"), 1.0001),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", choices=OUTPUTS, required=True, help="of the actions")
    parser.add_argument(
        "--output",
        choices=JUDGED,
        help="the robot's command interface (default: twist, joint_trajectory or"
        " joint_velocity_array, by the space)",
    )
    parser.add_argument("--seeds", type=int, default=20, help="number of episodes (default: 20)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--seconds", type=float, default=15.0, help="longest episode (default: 15)")
    parser.add_argument("--policy-file", type=pathlib.Path, help="default: by the space")
    parser.add_argument("--robot-file", type=pathlib.Path, help="default: by the output")
    parser.add_argument(
        "--checkpoint", help="folder of the script (default: models/scripted/SPACE)"
    )
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="further parameter of the node; several times",
    )
    parser.add_argument("--image-hz", type=float, default=10.0, help="cameras [Hz] (default: 10)")
    parser.add_argument("--no-wrist-camera", action="store_true", help="the main camera alone")
    options = parser.parse_args()
    if options.seeds < 1 or options.first_seed < 0:
        parser.error(f"seeds: {options.seeds} from {options.first_seed} must be at least 1 from 0")
    if not 1.0 <= options.seconds <= 600.0:
        parser.error(f"seconds: {options.seconds:g} must be in 1..600")
    options.output = options.output or OUTPUTS[options.space]
    if (options.output == "twist") != (options.space == "end_effector"):
        parser.error(f"output: {options.output} does not take actions in {options.space}")
    robot = "tabletop" if options.output == "twist" else f"tabletop_{options.output}"
    options.robot_file = options.robot_file or ROOT / f"config/robots/{robot}.yaml"
    policy = f"config/policies/tabletop_scripted_{options.space}.yaml"
    options.checkpoint = options.checkpoint or str(ROOT / "models/scripted" / options.space)
    options.policy_file = options.policy_file or ROOT / policy
    try:
        options.parameters = {
            name: json.loads(value)
            for name, value in (entry.split("=", 1) for entry in options.parameter)
        }
    except ValueError:
        parser.error(f"parameter: {options.parameter} are not all NAME=JSON")
    return options


def read_yaml(path):
    import yaml

    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        sys.exit(f"scripted-touch: {path}: {error}")


def arm_joints(policy):
    """The order of the arm's joints in the policy file; None in the space of the end effector."""
    action = policy["action"]
    grippers = action.get("grippers", [])
    return [name for name in action.get("joints", []) if name not in grippers] or None


def largest(episodes, source):
    """The largest ratio of each quantity over the episodes."""
    found = {}
    for episode in episodes:
        for quantity, ratio in (episode["limit_ratios"].get(source) or {}).items():
            found[quantity] = max(found.get(quantity, 0.0), ratio)
    return found


def summary(episodes, output):
    """The sum of the episodes; `exceeded`: judged quantities beyond their limits."""
    commanded = largest(episodes, "commanded")
    return dict(
        episodes=len(episodes),
        successes=sum(e["success"] for e in episodes),
        commanded=commanded,
        measured=largest(episodes, "measured"),
        judged=list(JUDGED[output]),
        exceeded=[q for q, bound in JUDGED[output].items() if commanded.get(q, 0.0) > bound],
        refused=sum(e["refused"] for e in episodes),
        command_timeouts=sum(e.get("command_timeouts", 0) for e in episodes),
        # The node counts since its start: translation [m], rotation [rad], joint [rad].
        seam_largest=episodes[-1]["seam_largest"] if episodes else None,
        lost_periods=episodes[-1]["lost_periods"] if episodes else 0,
    )


def run(options):
    from episode_runner import EpisodeRunner
    from scripted_expert import ScriptedTouch
    from tabletop.model import ARM_JOINTS

    robot, policy = read_yaml(options.robot_file), read_yaml(options.policy_file)
    runner, episodes = EpisodeRunner("scripted_touch"), []
    try:
        parameters = dict(
            publish_instruction=False,
            wrist_camera=not options.no_wrist_camera,
            image_hz=options.image_hz,
        )
        if options.output != "twist":
            parameters |= dict(
                command_interface=options.output,
                robot_file=str(options.robot_file.resolve()),
                command_joints=",".join(joint["name"] for joint in robot["joints"]),
            )
        runner.start_robot_sim(tasks="touch", **parameters)
        runner.start_node(
            options.checkpoint,
            options.policy_file.resolve(),
            robot_file=str(options.robot_file.resolve()),
            **options.parameters,
        )
        expert = ScriptedTouch(runner, options.space, robot, arm_joints(policy) or ARM_JOINTS)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            episodes.append(expert.run(seed, options.seconds))
            print(json.dumps(episodes[-1]), flush=True)
    finally:
        bad = runner.close()
    total = summary(episodes, options.output)
    print(json.dumps(dict(summary=total)), flush=True)
    problems = list(bad)
    if total["successes"] < len(episodes):
        problems.append(f"{len(episodes) - total['successes']} of {len(episodes)} touches failed")
    if total["exceeded"]:
        problems.append(f"commands exceeded the limits of {', '.join(total['exceeded'])}")
    return problems


def main():
    options = arguments()
    try:
        import tabletop  # noqa: F401
    except ImportError as error:
        sys.exit(
            f"scripted-touch: {error}; run it with `tools/sim/run tools/ros/isolated.py"
            " tools/sim_eval/scripted_touch.py`"
        )
    try:
        problems = run(options)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"scripted-touch: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if problems:
        sys.exit(f"scripted-touch: {'; '.join(problems)}")


if __name__ == "__main__":
    main()
