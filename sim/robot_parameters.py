"""Parameters of the simulated robot: table, validation, declaration."""

from joint_receiver import INTERFACES
from rcl_interfaces.msg import ParameterDescriptor
from refused import Refused
from tabletop import TASKS
from tabletop.model import ARM_JOINTS

# Parameters that ~/reset reads. A change of another one would have no effect and is refused.
SETTABLE = ("seed", "task", "block", "bowl")

# name: default, minimum, maximum (or None), description
PARAMETERS = {
    "seed": (0, 0, 2**53, "Layout and looks of the first episode."),
    "task": ("", None, None, f"One of {', '.join(TASKS)}; empty: drawn by the seed."),
    "block": ("", None, None, "Colour of the block to act on; empty: drawn by the seed."),
    "bowl": ("", None, None, "Colour of the bowl to place into; empty: drawn by the seed."),
    "tasks": (
        "touch,push,pick",
        None,
        None,
        "From which the seed draws, with commas; place needs bowls.",
    ),
    "blocks": (3, 1, 4, "Blocks on the table."),
    "bowls": (0, 0, 2, "Bowls on the table."),
    "distractors": (0, 0, 2, "Things on the table that no instruction names."),
    "randomize": (True, None, None, "Colours, light and camera differ by seed."),
    "image_hz": (10.0, 0.5, 50.0, "Camera images per second."),
    "image_size": (
        224,
        64,
        640,
        "Width and height of an image [pixels]; policies are trained at 224.",
    ),
    "command_timeout_s": (
        0.2,
        0.02,
        5.0,
        "The arm stops this long after the last command, on the steady clock [s].",
    ),
    "publish_instruction": (
        True,
        None,
        None,
        "Publish the episode's instruction on `instruction`.",
    ),
    "publish_clock": (False, None, None, "Publish /clock; stamps are simulated time then."),
    "real_time_factor": (
        1.0,
        0.05,
        20.0,
        "Simulated seconds per second; values other than 1 need publish_clock and a node with"
        " use_sim_time.",
    ),
    "viewer": (False, None, None, "Show MuJoCo's viewer; needs a display."),
    "frame_id": ("base", None, None, "Frame of ee_pose and of accepted twists."),
    "wrist_camera": (False, None, None, "Publish `wrist_image` from a camera on the hand."),
    "joint_state_hz": (50.0, 0.5, 50.0, "Messages on joint_states and gripper_state per second."),
    "command_interface": (
        "twist",
        None,
        None,
        f"What drives the arm, one of {', '.join(INTERFACES)}.",
    ),
    "command_joints": (
        ",".join(ARM_JOINTS),
        None,
        None,
        "Order of the numbers of an array, with commas.",
    ),
    "command_delay_s": (
        0.08,
        0.0,
        1.0,
        "Commands in joint space are followed this long after their stamp or time of sending, so"
        " that those which arrive unevenly are followed evenly [s].",
    ),
    "robot_file": (
        "",
        None,
        None,
        "File as in config/robots, with whose joint limits the referee compares; empty: only the"
        " largest values are reported.",
    ),
}


def problem_of(name, value):
    """The error in a parameter's value, or None."""
    default, least, greatest, _ = PARAMETERS[name]
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        return f"{name}: {value!r} is not of type {type(default).__name__}"
    if least is not None and not least <= value <= greatest:
        return f"{name}: {value} is outside {least}..{greatest}"
    return None


def read_parameters(node):
    """All parameters, validated; Refused names all errors at once."""
    values = {}
    for name, (default, _, _, about) in PARAMETERS.items():
        descriptor = ParameterDescriptor(
            description=about, dynamic_typing=True, read_only=name not in SETTABLE
        )
        value = node.declare_parameter(name, default, descriptor).value
        values[name] = float(value) if isinstance(default, float) and type(value) is int else value
    problems = [problem for problem in map(problem_of, values, values.values()) if problem]
    if not problems and values["real_time_factor"] != 1.0 and not values["publish_clock"]:
        problems.append(
            f"real_time_factor: {values['real_time_factor']} needs publish_clock:=true, or the"
            " node's clock runs at another speed"
        )
    if not problems:
        if values["command_interface"] not in INTERFACES:
            problems.append(
                f"command_interface: '{values['command_interface']}' is not among"
                f" {', '.join(INTERFACES)}"
            )
        if sorted(joint_order(values)) != sorted(ARM_JOINTS):
            problems.append(
                f"command_joints: '{values['command_joints']}' are not {', '.join(ARM_JOINTS)},"
                " each once"
            )
    if problems:
        raise Refused("; ".join(problems))
    return values


def joint_order(values):
    """The joints of the parameter command_joints, a list."""
    return [name.strip() for name in values["command_joints"].split(",")]
