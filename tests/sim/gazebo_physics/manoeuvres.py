"""The same manoeuvres of the arm in Gazebo's physics engine and in MuJoCo, with their figures.

`GazeboRobot` is the world of sim/gazebo/tabletop.sdf in stepper.cpp, driven by the controller of
sim/gazebo/arm.py; `MujocoRobot` is the cell of sim/tabletop. Lengths in metres, angles in radians.
"""

import concurrent.futures
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import mujoco
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "sim"), str(ROOT / "sim/gazebo")]
from layout import COLOURS, START, TASKS, FixedLayoutScene, block_places  # noqa: E402
from tabletop import expert, rollout  # noqa: E402
from tabletop import model as cell  # noqa: E402
from tabletop.kinematics import ToolKinematics, rotation_error  # noqa: E402
from tabletop.scene import DOWN  # noqa: E402
from tasks import NINE, Referee  # noqa: E402

PERIOD = 0.02  # of control [s]
STEPS = round(PERIOD / cell.TIMESTEP)
TOOL_IN_HAND = 0.17  # along the fingers
GRAVITY = 9.81  # [m/s2]
# Of a block that is gripped, carried 14 cm towards +y; the other two fall beside the table, because
# their contacts would double the time of a step.
PLACES = {"red": (0.45, -0.07), "green": (5.0, 0.0), "blue": (-5.0, 0.0)}
CARRIED, GRASP_HEIGHT, HOVER = 0.14, 0.018, 0.07
# Yaw of the block against the fingers; speed [m/s] and height [m] of lifts.
YAWS = (0.0, 0.003, 0.006, -0.006, 0.012, 0.03, 0.1, 0.25)
LIFTS = ((0.05, 0.06), (0.08, 0.08), (0.10, 0.10), (0.15, 0.12), (0.20, 0.14))
HELD = 0.01, 0.35  # a block that moved and turned less in the hand was held [m, rad]
STILL = np.zeros(6)


def load_arm():
    """The module sim/gazebo/arm.py."""
    specification = importlib.util.spec_from_file_location("gazebo_arm", ROOT / "sim/gazebo/arm.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class GazeboRobot:
    """The SDF world in ign-physics. `stepper`: its command line, without the world."""

    def __init__(self, stepper, world):
        program, plugin = stepper
        self.process = subprocess.Popen(
            [str(program), str(world), str(plugin)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.engine = self._read()
        self.arm = load_arm()
        self.controller = self.arm.ArmController()
        model = self.controller.model
        self.start = ToolKinematics(model, cell.ARM_JOINTS).solve(
            mujoco.MjData(model), START, DOWN, cell.READY_POSTURE
        )
        self.now = 0.0

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()
        self.process.stderr.close()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the stepper ended: {self.process.stderr.read().strip()}")
        return json.loads(line)

    def _send(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        self.state = self._read()

    def reset(self, places=PLACES, *, tool=START, yaw=0.0, opening=1.0, posture=None):
        """The arm with the tool at `tool`, or with the joints at `posture`; all at rest."""
        self.at_home = posture is None
        if posture is None:
            posture = self.controller.kinematics.solve(
                self.controller.data, tool, DOWN, cell.READY_POSTURE
            )
        blocks = [
            value for colour in COLOURS for value in (*places[colour], cell.BLOCK_SIZE / 2, yaw)
        ]
        self._send("reset", *posture, *[opening * cell.FINGER_TRAVEL] * 2, *blocks)
        self.controller = self.arm.ArmController()
        self.controller.at_home = self.at_home
        self.apply(STILL, opening)

    def apply(self, twist, gripper):
        """One control period."""
        self.now += PERIOD
        self.controller.take(self.joints(), self.now)
        self.turn(self.controller.velocities(np.array(twist), PERIOD, self.now), gripper)

    def turn(self, speeds, gripper):
        """One control period with joint velocities."""
        goal = gripper * cell.FINGER_TRAVEL
        self._send("step", STEPS, *map(float, speeds), goal, goal)

    def gravity(self, x, z):
        self._send("gravity", x, 0.0, z)

    def joints(self):
        return np.array(self.state["joints"][: len(cell.ARM_JOINTS)])

    def fingers(self):
        return np.array(self.state["joints"][len(cell.ARM_JOINTS) :])

    def tool(self):
        return self.controller.pose(self.joints())[0]

    def hand(self):
        """Position of the hand's link according to the engine."""
        return np.array(self.state["hand"][:3])

    def hand_axes(self):
        """Rotation matrix of the hand's link."""
        return np.array(self.state["hand"][3:]).reshape(3, 3).T

    def block(self, colour):
        return np.array(self.state["blocks"][COLOURS.index(colour)][:3])

    def block_axes(self, colour):
        return np.array(self.state["blocks"][COLOURS.index(colour)][3:]).reshape(3, 3).T


class MujocoRobot:
    """The cell of sim/tabletop, with its own driver."""

    engine = {"collision_detector": "mujoco", "solver": "mujoco", "step": cell.TIMESTEP}

    def __init__(self):
        self.scene = FixedLayoutScene(width=64, height=64)
        self.data = self.scene.data

    def close(self):
        self.scene.close()

    def reset(self, places=PLACES, *, tool=START, yaw=0.0, opening=1.0):
        self.gravity(0.0, -GRAVITY)
        self.scene.arrange(places, "pick", "red", start=tool, yaw=yaw)
        self.data.qpos[self.scene._finger_qpos] = opening * cell.FINGER_TRAVEL
        self.apply(STILL, opening)

    def apply(self, twist, gripper):
        self.scene.apply(twist, gripper, PERIOD)

    def turn(self, speeds, gripper):
        # Its joints are driven by positions.
        count = len(cell.ARM_JOINTS)
        self.data.ctrl[count:] = gripper * cell.FINGER_TRAVEL
        for _ in range(STEPS):
            self.data.ctrl[:count] += np.asarray(speeds) * cell.TIMESTEP
            mujoco.mj_step(self.scene.model, self.data)

    def gravity(self, x, z):
        self.scene.model.opt.gravity[:] = [x, 0.0, z]

    def joints(self):
        return self.data.qpos[self.scene.kinematics.qpos].copy()

    def fingers(self):
        return self.data.qpos[self.scene._finger_qpos].copy()

    def tool(self):
        return self.scene.ee_pose()[0]

    def hand(self):
        return self.data.body("hand").xpos.copy()

    def hand_axes(self):
        return self.data.body("hand").xmat.reshape(3, 3).copy()

    def block(self, colour):
        return self.scene.targets()[colour]

    def block_axes(self, colour):
        return self.data.body(f"block{COLOURS.index(colour)}").xmat.reshape(3, 3).copy()


def go(robot, goal, gripper, speed, seconds=4.0):
    """Moves the tool straight to `goal` at `speed`."""
    for _ in range(round(seconds / PERIOD)):
        away = goal - robot.tool()
        distance = np.linalg.norm(away)
        if distance < 0.002:
            break
        robot.apply(np.concatenate([away * min(5.0, speed / distance), np.zeros(3)]), gripper)


def wait(robot, seconds, gripper):
    for _ in range(round(seconds / PERIOD)):
        robot.apply(STILL, gripper)


def homing(robot):
    """Seconds from straight up to the start of sim/gazebo/arm.py, and the tool's place there."""
    robot.reset(posture=[0.0] * 6)
    for period in range(round(10.0 / PERIOD)):
        robot.apply(STILL, 1.0)
        if robot.controller.at_home:
            wait(robot, 0.5, 1.0)
            return period * PERIOD, robot.tool().tolist()
    return None, robot.tool().tolist()


def hold(robot):
    """Largest motion of a joint in 2 s without a command [rad]."""
    robot.reset()
    begin, most = robot.joints(), 0.0
    for _ in range(round(2.0 / PERIOD)):
        robot.turn(STILL, 1.0)
        most = max(most, np.abs(robot.joints() - begin).max())
    return float(most)


def follow(robot, speed=0.5, seconds=0.4):
    """(error after a motion, largest error while reversing) over all joints [rad]."""
    after, reversing = 0.0, 0.0
    for joint in range(len(cell.ARM_JOINTS)):
        robot.reset()
        speeds = np.zeros(len(cell.ARM_JOINTS))
        speeds[joint] = speed
        expected = robot.joints()
        for direction in (1.0, -1.0):
            for _ in range(round(seconds / PERIOD)):
                robot.turn(direction * speeds, 1.0)
                expected = expected + direction * speeds * PERIOD
                error = float(np.abs(robot.joints() - expected).max())
                reversing = max(reversing, error)
            if direction == 1.0:
                after = max(after, error)
    return after, reversing


def twist(robot):
    """Distance [m] that the tool falls short of 5 cm after 1 s at 0.05 m/s, three directions."""
    worst = 0.0
    for axis in range(3):
        robot.reset()
        command, begin = np.zeros(6), robot.tool()
        command[axis] = 0.05
        for _ in range(round(1.0 / PERIOD)):
            robot.apply(command, 1.0)
        worst = max(worst, float(np.linalg.norm(robot.tool() - begin - 0.05 * np.eye(3)[axis])))
    return worst


def kinematics_error(robot):
    """Distance [m] of the engine's own tool from that of the controller's kinematics."""
    robot.reset()
    return float(np.linalg.norm(robot.hand() - [0, 0, TOOL_IN_HAND] - robot.tool()))


def in_hand(robot):
    """Position and axes of the block in the hand."""
    axes = robot.hand_axes()
    return axes.T @ (robot.block("red") - robot.hand()), axes.T @ robot.block_axes("red")


def grip(robot, yaw, speed, height):
    """(motion [m], rotation [rad]) of a block in the hand while it is lifted and carried."""
    x, y = PLACES["red"]
    robot.reset(tool=np.array([x, y, HOVER]), yaw=yaw)
    go(robot, np.array([x, y, GRASP_HEIGHT]), 1.0, 0.1)
    wait(robot, 0.8, 0.0)
    place, axes = in_hand(robot)
    go(robot, np.array([x, y, GRASP_HEIGHT + height]), 0.0, speed)
    go(robot, np.array([x, y + CARRIED, GRASP_HEIGHT + height]), 0.0, speed)
    wait(robot, 1.0, 0.0)
    place_after, axes_after = in_hand(robot)
    turned = rotation_error(axes_after, axes)
    return float(np.linalg.norm(place_after - place)), float(np.linalg.norm(turned))


def held(motion):
    return motion[0] < HELD[0] and motion[1] < HELD[1]


def press_on_block(robot, speeds=(0.02, 0.05, 0.1)):
    """Depth [m, negative: into the table] of a block under closed fingers pressing for 3 s."""
    x, y = PLACES["red"]
    lowest = np.inf
    for speed in speeds:
        robot.reset(tool=np.array([x, y, 0.06]), opening=0.0)
        for _ in range(round(3.0 / PERIOD)):
            robot.apply([0, 0, -speed, 0, 0, 0], 0.0)
            lowest = min(lowest, robot.block("red")[2])
    return float(lowest - cell.BLOCK_SIZE / 2)


def press_on_table(robot):
    """(opening of a closed finger, sideways motion) [m] while pressing 5 cm into the table."""
    robot.reset(tool=np.array([0.40, 0.10, 0.02]), opening=0.0)
    begin, opening, slid = robot.tool(), 0.0, 0.0
    for _ in range(round(1.4 / PERIOD)):
        robot.apply([0, 0, -0.05, 0, 0, 0], 0.0)
        opening = max(opening, float(np.abs(robot.fingers()).max()))
        slid = max(slid, float(np.hypot(*(robot.tool() - begin)[:2])))
    return opening, slid


def slide(robot, share):
    """Motion [m] of a block on the table within 0.4 s under a sideways share of gravity."""
    robot.reset()
    wait(robot, 0.2, 1.0)
    begin = robot.block("red")
    robot.gravity(share * GRAVITY, -GRAVITY)
    wait(robot, 0.4, 1.0)
    moved = float(np.linalg.norm(robot.block("red") - begin))
    robot.gravity(0.0, -GRAVITY)
    return moved


class ExpertScene:
    """A robot as the scripted expert of sim/tabletop sees it, with the referee of the tasks."""

    def __init__(self, robot, places, task, target, start=START):
        self.robot, self.task, self.target = robot, task, target
        robot.reset(places, tool=start)
        wait(robot, 0.1, 1.0)
        self.referee = Referee(task, target, self.targets())
        self.time, self.path_length, self.finished = 0.0, 0.0, False
        self.lowest = 0.0  # of any block, against its place on the table [m]

    def ee_pose(self):
        return self.robot.tool(), None

    def targets(self):
        return {colour: self.robot.block(colour) for colour in COLOURS}

    def gripper_opening(self):
        return float(self.robot.fingers().mean() / cell.FINGER_TRAVEL)

    def apply(self, twist, gripper, dt):
        self.robot.apply(twist, gripper)
        self.time += dt
        blocks = self.targets()
        depth = min(place[2] for place in blocks.values()) - cell.BLOCK_SIZE / 2
        self.lowest = min(self.lowest, float(depth))
        self.finished = self.finished or self.referee.done(blocks, self.robot.tool())

    def success(self):
        return self.finished

    @property
    def first_touched(self):
        return self.referee.first_touched


def expert_tasks(robot, places, seconds=10.0):
    """[task, colour, seconds or None, deepest block [m]] for the nine tasks by the expert."""
    found = []
    for task, colour in NINE:
        scene = ExpertScene(robot, places, task, colour)
        result = rollout(scene, expert, seconds=seconds)
        found.append([task, colour, scene.time if result.success else None, scene.lowest])
    return found


def grip_figures(robot, lifts):
    """How many blocks were held in each of `lifts`; the largest slip and turn."""
    moved = [[grip(robot, yaw, *lift) for yaw in YAWS] for lift in lifts]
    return {
        "held": [sum(held(motion) for motion in lift) for lift in moved],
        "slipped": max(motion[0] for lift in moved for motion in lift),
        "turned": max(motion[1] for lift in moved for motion in lift),
    }


def other_figures(robot, places):
    """Everything but the grips; the nine tasks with blocks at `places`."""
    after, reversing = follow(robot)
    opening, slid = press_on_table(robot)
    found = {
        "engine": robot.engine,
        "hold": hold(robot),
        "follow": after,
        "reverse": reversing,
        "twist": twist(robot),
        "kinematics": kinematics_error(robot),
        "pressed_block": press_on_block(robot),
        "pressed_table_opening": opening,
        "pressed_table_slide": slid,
        "slide_below_friction": slide(robot, 0.8),
        "slide_above_friction": slide(robot, 1.0),
        "tasks": expert_tasks(robot, places),
    }
    if isinstance(robot, GazeboRobot):
        found["homing_s"], found["home"] = homing(robot)
    return found


def _part(stepper, world, lifts):
    robot = MujocoRobot() if world is None else GazeboRobot(stepper, world)
    try:
        return grip_figures(robot, lifts) if lifts else other_figures(robot, block_places())
    finally:
        robot.close()


def measure(stepper, worlds):
    """{world: figures}; the world None is MuJoCo. Every part has a process of its own.

    The nine tasks use the layout of sim/gazebo/tabletop.sdf in every world.
    """
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = (LIFTS[:2], LIFTS[2:], ())
        jobs = {w: [pool.submit(_part, stepper, w, lifts) for lifts in parts] for w in worlds}
        found = {}
        for world, (slow, fast, others) in jobs.items():
            slow, fast = slow.result(), fast.result()
            found[world] = others.result() | {
                "held": slow["held"] + fast["held"],
                **{key: max(slow[key], fast[key]) for key in ("slipped", "turned")},
            }
        return found


def find_stepper():
    """Paths of the stepper and of the engine's plugin, set up where they are missing."""
    done = subprocess.run(
        [str(ROOT / "tools/gazebo/setup"), "--print"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SetupError(done.returncode, (done.stderr.strip() or "no reason").splitlines()[-1])
    return done.stdout.splitlines()[:2]


class SetupError(Exception):
    """`status` 3: the packages cannot be had."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


# Key of a figure: its row in the table, factor, unit and digits.
ROWS = {
    "hold": ("joints without a command, 2 s", 1000, "mrad", 2),
    "follow": ("joints after 0.4 s at 0.5 rad/s, error", 1000, "mrad", 1),
    "reverse": ("the same, reversed at once, largest error", 1000, "mrad", 1),
    "twist": ("tool after 5 cm by a twist, error", 1000, "mm", 1),
    "kinematics": ("engine's tool pose against the controller's", 1000, "mm", 3),
    "slipped": ("largest slip of a gripped block", 1000, "mm", 1),
    "turned": ("largest turn of a gripped block", 180 / np.pi, "degrees", 0),
    "pressed_block": ("block under pressing fingers, depth", 1000, "mm", 2),
    "pressed_table_opening": ("closed finger forced open on the table", 1000, "mm", 1),
    "pressed_table_slide": ("tool sliding while pressed on the table", 1000, "mm", 1),
    "slide_below_friction": ("block under 0.8 g sideways, 0.4 s", 1000, "mm", 1),
    "slide_above_friction": ("block under 1.0 g sideways, 0.4 s", 1000, "mm", 1),
}


def table(columns):
    """Markdown. `columns`: {name: figures}."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]

    def row(name, cell_of):
        cells = " | ".join(cell_of(found) for found in columns.values())
        lines.append(f"| {name} | {cells} |")

    row("collision detector, solver", lambda f: " ".join(list(f["engine"].values())[:2]))
    row(
        f"grips held of {len(YAWS)} yaws, five lifts",
        lambda f: f"{', '.join(map(str, f['held']))} = {sum(f['held'])} of {len(YAWS) * 5}",
    )
    for key, (name, factor, unit, digits) in ROWS.items():
        row(f"{name} [{unit}]", lambda f, k=key, x=factor, d=digits: f"{f[k] * x:.{d}f}")
    for kind in TASKS:
        row(
            f"expert: {kind} {', '.join(COLOURS)} [s]",
            lambda f, kind=kind: ", ".join(
                "-" if seconds is None else f"{seconds:.1f}"
                for task, _, seconds, _ in f["tasks"]
                if task == kind
            ),
        )
    row(
        "expert: deepest block [mm]",
        lambda f: f"{1000 * min(depth for *_, depth in f['tasks']):.1f}",
    )
    row(
        "arm.py's start: after [s], tool [m]",
        lambda f: (
            f"{f['homing_s']:.1f}, ({', '.join(f'{x:.3f}' for x in f['home'])})"
            if "home" in f
            else ""
        ),
    )
    return "\n".join(lines)
