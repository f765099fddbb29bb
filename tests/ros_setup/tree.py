"""Paths and shells for the tests in this folder."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Set by tools/ros/env.sh; a test that starts from a bare shell must not inherit them.
OURS = (
    "AMENT_PREFIX_PATH",
    "BINDGEN_EXTRA_CLANG_ARGS",
    "IDL_PACKAGE_FILTER",
    "LD_LIBRARY_PATH",
    "LIBCLANG_PATH",
    "OPENVLA_OUTER_AMENT",
    "OPENVLA_OUTER_LIBRARY",
    "OPENVLA_OUTER_PATH",
    "OPENVLA_OUTER_PYTHON",
    "OPENVLA_ROS_MODE",
    "OPENVLA_ROS_PYTHON",
    "PYTHONPATH",
    "RMW_IMPLEMENTATION",
    "ROS_DISTRO",
    "ROS_PYTHON_VERSION",
    "ROS_VERSION",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)


def bare_environment(**more: str) -> dict[str, str]:
    """The environment before env.sh: a ROS 2 that was sourced then is sourced in it too."""
    outer = {
        "AMENT_PREFIX_PATH": os.environ.get("OPENVLA_OUTER_AMENT", ""),
        "LD_LIBRARY_PATH": os.environ.get("OPENVLA_OUTER_LIBRARY", ""),
        "PYTHONPATH": os.environ.get("OPENVLA_OUTER_PYTHON", ""),
        "PATH": os.environ.get("OPENVLA_OUTER_PATH", os.environ["PATH"]),
    }
    if outer["AMENT_PREFIX_PATH"]:
        outer["ROS_DISTRO"] = os.environ["ROS_DISTRO"]
    result = {name: value for name, value in os.environ.items() if name not in OURS}
    result.update({name: value for name, value in outer.items() if value})
    result.update(more)
    return result


def shell(script: str, **more: str) -> subprocess.CompletedProcess:
    """Runs a bash script from the project's folder in the bare environment."""
    return subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=bare_environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
