"""What a policy, by its policy file, needs of the simulated robot."""

import yaml

TASKS = ("touch", "push", "pick", "place")


class PolicyFileError(ValueError):
    """A policy file that cannot be read, in one line."""


def read(path):
    """The policy file's content."""
    try:
        policy = yaml.safe_load(path.read_text(encoding="utf-8"))
        topics(policy)
    except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:200]
        raise PolicyFileError(f"{path}: {type(error).__name__}: {text}") from error
    return policy


def topics(policy):
    """Topics of its cameras, and `ee_pose` where its state is of the end effector."""
    cameras = {camera["topic"] for camera in policy["cameras"] if not camera.get("absent")}
    of_the_tool = any(part["from"].startswith("ee_") for part in policy.get("state", []))
    return cameras | ({"ee_pose"} if of_the_tool else set())


def scene(policy, tasks):
    """Arguments of TabletopScene beyond its defaults; with `place`, bowls are on the table."""
    wrist = dict(wrist_camera=True) if "wrist_image" in topics(policy) else {}
    return wrist | (dict(bowls=2, tasks=TASKS) if "place" in tasks else {})


def robot(scene):
    """Arguments of TabletopScene as parameters of sim/robot_sim_node.py."""
    return scene | ({"tasks": ",".join(scene["tasks"])} if "tasks" in scene else {})
