"""LIBERO's simulator against `openvla serve`: pictures, state, axes, units and gripper.

`conventions.py OPENVLA`, in the environment of tools/libero. The checkpoint is the golden kit of
OpenVLA-OFT (random weights), the task the first one of LIBERO-Spatial. Observations are made and
actions converted as OpenVLA-OFT's `run_libero_eval.py` does. Prints what was compared.
"""

import os
import pathlib
import sys
import tempfile

import json_numpy
import numpy as np
import requests
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from libero.libero.envs.env_wrapper import ControlEnv
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ["OPENVLA"] = str(pathlib.Path(sys.argv[1]).resolve())
sys.path.insert(0, str(ROOT / "tools/serve"))
from server import Server, predict  # noqa: E402

json_numpy.patch()
KIT = ROOT / "tests/data/oft_tiny"
OPTIONS = ("--checkpoint", KIT / "ckpt", "--unnorm-key", "libero_spatial_no_noops")
OPTIONS += ("--policy-file", ROOT / "config/policies/openvla-oft-libero.yaml")
STILL = [0.0] * 6 + [-1.0]
# What the policy file says of LIBERO's controller: metres and radians of 1.0, per step.
METRES, RADIANS = 0.05, 0.5


def rotation_vector(quaternion):
    """Axis times angle of [x, y, z, w], as robosuite has it."""
    w = min(1.0, max(-1.0, quaternion[3]))
    sine = np.sqrt(1.0 - w * w)
    return np.zeros(3) if sine < 1e-9 else quaternion[:3] * 2.0 * np.arccos(w) / sine


def matrix(quaternion):
    x, y, z, w = quaternion
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
    rows += [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]
    rows += [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    return np.reshape(rows, (3, 3))


def turn(before, after):
    """Rotation vector in the base frame that leads from one matrix to another (below pi)."""
    r = after @ before.T
    angle = np.arccos(min(1.0, max(-1.0, (np.trace(r) - 1.0) / 2.0)))
    axis = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    return np.zeros(3) if angle < 1e-9 else axis / (2.0 * np.sin(angle)) * angle


def to_simulator(action):
    """`process_action` of OpenVLA-OFT: gripper 0 closed .. 1 open becomes -1 open, 1 closed."""
    return np.concatenate([action[:6], [-np.sign(2.0 * action[6] - 1.0)]])


def task():
    suite = benchmark.get_benchmark_dict()["libero_spatial"]()
    first = suite.get_task(0)
    folder = pathlib.Path(get_libero_path("bddl_files"))
    return str(folder / first.problem_folder / first.bddl_file), first.language


def observations_and_actions(path, language, steps):
    """Pictures and state of the simulator to the server, its actions to the simulator."""
    env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=256, camera_widths=256)
    env.seed(0)
    env.reset()
    done_by_client = ("--done-by-client", "rotate_180")
    with Server(*OPTIONS, *done_by_client) as server, tempfile.TemporaryDirectory() as folder:
        seen, _, _, _ = env.step(STILL)
        cameras = dict(full="agentview_image", wrist="robot0_eye_in_hand_image")
        upright = lambda picture: np.ascontiguousarray(picture[::-1, ::-1])
        turned = {name: upright(seen[key]) for name, key in cameras.items()}
        parts = (seen["robot0_eef_pos"], rotation_vector(seen["robot0_eef_quat"]))
        state = np.concatenate([*parts, seen["robot0_gripper_qpos"]])
        request = dict(full_image=turned["full"], wrist_image=turned["wrist"])
        request |= dict(state=state, instruction=language)
        answered = np.array(requests.post(f"{server.url}/act", json=request, timeout=60).json())
        assert np.ptp(turned["full"]) > 100, "the picture is empty"

        images = []
        for name, key in cameras.items():
            file = f"{folder}/{name}.png"
            Image.fromarray(seen[key]).save(file)  # as the camera has it: the policy file turns it
            images += ["--image", f"{name}={file}"]
        numbers = ",".join(map(repr, state.tolist()))
        more = (*images, f"--state={numbers}", "--instruction", language)
        wanted = np.array(predict(*OPTIONS, *more)["actions"])
        assert answered.tobytes() == wanted.tobytes(), (answered, wanted)
        print(f"turned pictures and the state give the {len(wanted)} steps of predict, to the bit")

        before = seen["robot0_eef_pos"].copy()
        for action in answered[:steps]:
            seen, _, _, _ = env.step(to_simulator(action))
        assert np.all(np.isfinite(seen["robot0_eef_pos"])), seen
        moved = np.linalg.norm(seen["robot0_eef_pos"] - before)
        print(f"{steps} steps of it moved the simulated arm by {1e3 * moved:.1f} mm")
    env.close()


def axes_and_gripper(path, steps=5):
    """What the simulator does with one number of an action at a time."""
    env = ControlEnv(path, use_camera_obs=False, has_offscreen_renderer=False)
    env.seed(0)
    env.reset()
    controller = env.robots[0].controller
    names = ("x", "y", "z", "rotation about x", "rotation about y", "rotation about z")
    for axis, name in enumerate(names):
        for _ in range(10):
            before, _, _, _ = env.step(STILL)
        place, attitude = np.array(controller.ee_pos), np.array(controller.ee_ori_mat)
        action = list(STILL)
        action[axis] = 0.5
        after, _, _, _ = env.step(action)
        # The goal is set at the beginning of a step, from where the arm is then.
        goal = (controller.goal_pos - place, turn(attitude, controller.goal_ori))[axis // 3]
        stated = 0.5 * np.eye(3)[axis % 3] * (METRES if axis < 3 else RADIANS)
        assert np.allclose(goal, stated, rtol=0, atol=1e-3), (name, goal, stated)
        for _ in range(steps):
            after, _, _, _ = env.step(action)
        if axis < 3:
            moved = after["robot0_eef_pos"] - before["robot0_eef_pos"]
        else:
            ends = (matrix(seen["robot0_eef_quat"]) for seen in (before, after))
            moved = turn(*ends)
        # The arm lags far behind its goals: the direction counts.
        along = moved[axis % 3] / np.linalg.norm(moved)
        assert along > 0.8, (name, moved)
        unit = "m" if axis < 3 else "rad"
        print(f"+{name} by 0.5: goal {goal[axis % 3]:.4f} {unit} in the base frame, arm along it")
    widths = []
    for gripper in (-1.0, 1.0):
        for _ in range(20):
            seen, _, _, _ = env.step([0.0] * 6 + [gripper])
        widths.append(float(np.ptp(seen["robot0_gripper_qpos"])))
    assert widths[0] > 0.07 and widths[1] < 0.01, widths
    print(f"gripper: -1 opens to {1e3 * widths[0]:.0f} mm, 1 closes to {1e3 * widths[1]:.0f} mm")
    env.close()


def main():
    path, language = task()
    print(language)
    axes_and_gripper(path)
    observations_and_actions(path, language, steps=3)


if __name__ == "__main__":
    main()
