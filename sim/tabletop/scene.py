"""The simulated tabletop cell: reset, render, apply commands, check success."""

import atexit
import itertools

import mujoco
import numpy as np

from . import model as cell
from .kinematics import ORIENTATION_GAIN, ToolKinematics, rotate, rotation_error
from .randomise import paint

BLOCK_COLOURS = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.62, 0.18),
    "blue": (0.12, 0.25, 0.85),
    "yellow": (0.93, 0.82, 0.08),
}
BOWL_COLOURS = {"white": (0.93, 0.93, 0.93), "black": (0.10, 0.10, 0.10)}
TASKS = ("touch", "push", "pick", "place")
_WORDS = {
    "touch": "touch the {block} block",
    "push": "push the {block} block",
    "pick": "pick up the {block} block",
    "place": "put the {block} block in the {bowl} bowl",
}

# Positions of blocks and of the tool at the start [m], base frame. The tool's workspace is slightly
# larger (config/robots/tabletop.yaml).
BLOCK_REGION = np.array([[0.36, 0.53], [-0.14, 0.14]])
# Positions of a bowl's centre: the tool above it is within the workspace, and the camera sees the
# bowl except for a part of its rim.
BOWL_REGION = np.array([[0.27, 0.54], [-0.17, 0.17]])
BOWL_FROM_BLOCK = 0.12  # distance of centres [m]: room for the open fingers
# Least distance of a bowl from a block to the side, or else in front or behind [m]: the path of a
# push is free.
BOWL_BESIDE, BOWL_BEHIND = 0.09, 0.135
BOWL_FROM_BOWL = 0.13
DISTRACTOR_FROM_BLOCK = 0.085  # distance of centres [m], and at least as a bowl to the side
DISTRACTOR_FROM_BOWL = 0.085
# Of a block that is displaced in mid-episode [m]: how far, and from the tool unless that is high.
DISPLACED = 0.05, 0.15
DISPLACED_FROM_TOOL, HIGH = 0.07, 0.10
START_REGION = np.array([[0.38, 0.52], [-0.11, 0.11], [0.13, 0.20]])
DOWN = np.diag([1.0, -1.0, -1.0])
CONTROL_PERIOD = 0.02  # between two evaluations of the inverse kinematics [s]
TOUCH_HEIGHT = 0.01  # a fingertip this close above a block has touched it [m]
PUSH_DISTANCE = 0.03  # a block moved further away from the robot was pushed [m]
LIFT_HEIGHT = 0.04  # a block this much higher than at first was picked up [m]
# Limits of the arm's own controller [m/s, rad/s], far above the node's.
SPEED_LIMIT = np.array([0.5, 0.5, 0.5, 2.0, 2.0, 2.0])
JOINT_SPEED_LIMIT = 3.0  # likewise for commands in joint space [rad/s]


class TabletopScene:
    """A cell with blocks and bowls. Its seed determines each episode.

    Layout and looks do not depend on the task. `width`, `height`: of an image [pixels]. `tasks`:
    those that a seed draws from. `wrist_camera`: the hand has a camera, which changes nothing else.
    `distractors`: things on the table that no instruction names.
    """

    def __init__(
        self,
        seed=0,
        *,
        blocks=3,
        bowls=0,
        randomize=True,
        width=224,
        height=224,
        tasks=("touch", "push", "pick"),
        wrist_camera=False,
        distractors=0,
    ):
        if not 1 <= blocks <= len(BLOCK_COLOURS):
            raise ValueError(
                f"blocks: {blocks} is not between 1 and {len(BLOCK_COLOURS)}, the number of colours"
            )
        if not 0 <= bowls <= len(BOWL_COLOURS):
            raise ValueError(
                f"bowls: {bowls} is not between 0 and {len(BOWL_COLOURS)}, the number of colours"
            )
        if not 0 <= distractors <= len(cell.DISTRACTORS):
            raise ValueError(
                f"distractors: {distractors} is not between 0 and {len(cell.DISTRACTORS)}"
            )
        unknown = [task for task in tasks if task not in TASKS or (task == "place" and not bowls)]
        if unknown or not tasks:
            raise ValueError(
                f"tasks: {list(tasks)} is not among {list(TASKS)}; place needs bowls=1 or more"
            )
        self.width, self.height, self.tasks = width, height, tuple(tasks)
        self.randomize = randomize
        self.model = mujoco.MjModel.from_xml_string(
            cell.mjcf(blocks, bowls, width, height, wrist_camera, distractors)
        )
        self.data, self._scratch = mujoco.MjData(self.model), mujoco.MjData(self.model)
        self.kinematics = ToolKinematics(self.model, cell.ARM_JOINTS)
        self._renderer = None
        self._blocks = [self.model.body(f"block{k}").id for k in range(blocks)]
        self._bowls = [self.model.body(f"bowl{k}").id for k in range(bowls)]
        self._distractors = [self.model.body(f"distractor{k}").id for k in range(distractors)]
        self._block_of_geom = {self.model.geom(f"block{k}").id: k for k in range(blocks)}
        self._fingers = {self.model.geom(f"{name}_pad").id for name in cell.FINGER_JOINTS}
        self._finger_qpos = np.array(
            [self.model.joint(name).qposadr[0] for name in cell.FINGER_JOINTS]
        )
        self.reset(seed)

    # -- Episodes

    def reset(
        self, seed, *, task=None, block=None, bowl=None, distractors=None, displaced_after_m=None
    ):
        """Starts an episode.

        `task`, `block` and `bowl` (colour names) replace the seed's choice and change nothing else.
        `distractors`: how many are on the table (default: all), which changes nothing else.
        `displaced_after_m`: path of the tool after which the task's block is put to another place.
        """
        # Independent streams: a seed has the same layout and look for every task.
        layout, looks, choice, beside = (
            np.random.default_rng([int(seed), stream]) for stream in range(4)
        )
        colours = [str(c) for c in layout.permutation(list(BLOCK_COLOURS))[: len(self._blocks)]]
        bowl_colours = [str(c) for c in layout.permutation(list(BOWL_COLOURS))[: len(self._bowls)]]
        drawn = (
            str(choice.choice(self.tasks)),
            str(choice.choice(colours)),
            str(choice.choice(bowl_colours)) if bowl_colours else None,
        )
        chosen = task or drawn[0], block or drawn[1], bowl or drawn[2]
        # First, so that a refused reset leaves the scene unchanged.
        self._check(*chosen, colours, bowl_colours)
        shown = len(self._distractors) if distractors is None else distractors
        if not 0 <= shown <= len(self._distractors):
            raise ValueError(
                f"distractors: {shown} is not between 0 and {len(self._distractors)}, those of the"
                " scene"
            )
        places, bowls = self._layout(layout, beside)
        yaws = [layout.uniform(-0.15, 0.15) for _ in places]
        posture = self.kinematics.solve(
            self._scratch, layout.uniform(*START_REGION.T), DOWN, cell.READY_POSTURE
        )
        self.seed, self.colours, self.bowl_colours = int(seed), colours, bowl_colours
        paints = {f"block{k}": BLOCK_COLOURS[c] for k, c in enumerate(self.colours)}
        paints |= {f"bowl{k}": BOWL_COLOURS[c] for k, c in enumerate(self.bowl_colours)}
        paint(self.model, looks, paints, 1.0 if self.randomize else 0.0)
        mujoco.mj_resetData(self.model, self.data)
        self._put(places, yaws, bowls)
        self._put_distractors(np.random.default_rng([int(seed), 4]), shown, places, bowls)
        self.data.qpos[self.kinematics.qpos] = posture
        self.data.ctrl[: len(posture)] = posture
        self.data.qpos[self._finger_qpos] = cell.FINGER_TRAVEL
        self.data.ctrl[len(posture) :] = cell.FINGER_TRAVEL
        self._rotation = DOWN.copy()
        for _ in range(25):  # the blocks settle
            mujoco.mj_step(self.model, self.data)
        self.data.qvel[:] = 0
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)
        self._begin = np.array([self.block_position(k) for k in range(len(self._blocks))])
        self.first_touched, self.path_length = None, 0.0
        self.displaced, self._displaced_after = False, displaced_after_m
        self.set_task(*chosen)

    def set_task(self, task, block, bowl=None):
        """Sets the task of the present episode; the scene does not change."""
        self._check(task, block, bowl, self.colours, self.bowl_colours)
        self.task, self.target, self.bowl = task, block, bowl
        self.instruction = _WORDS[task].format(block=block, bowl=bowl)

    @staticmethod
    def _check(task, block, bowl, colours, bowl_colours):
        if task not in TASKS:
            raise ValueError(f"task: '{task}' is not among {list(TASKS)}")
        if block not in colours:
            raise ValueError(f"block: there is no '{block}' block on the table, only {colours}")
        if (task == "place" or bowl is not None) and bowl not in bowl_colours:
            raise ValueError(
                f"bowl: there is no '{bowl}' bowl on the table, only {bowl_colours or 'none'}"
            )

    def _layout(self, random, beside):
        """Positions of blocks and bowls, (x, y) [m].

        Bowls have a random stream of their own, so that almost every seed has the same blocks with
        and without them.
        """
        for _ in range(100):
            places = self._block_places(random)
            bowls = self._bowl_places(beside, places)
            if bowls is not None:
                return places, bowls
        raise ValueError(
            f"seed: no layout found for {len(self._blocks)} blocks and {len(self._bowls)} bowls;"
            " use another one, or fewer of them"
        )

    def _block_places(self, random):
        """Random positions; no block is in the path of a push or of the approach to another."""
        for _ in range(10_000):
            places = random.uniform(*BLOCK_REGION.T, size=(len(self._blocks), 2))
            if all(
                self._apart(places[i] - places[j]) for i in range(len(places)) for j in range(i)
            ):
                return places
        raise ValueError(
            f"seed: no layout found for {len(self._blocks)} blocks; use another one, or fewer of"
            " them"
        )

    @staticmethod
    def _apart(way):
        """Whether ways [.., 2] between two blocks leave room for a push and an approach."""
        x, y = np.moveaxis(np.abs(way), -1, 0)
        return (np.hypot(x, y) > 0.10) & ((y > 0.075) | (x > 0.14))

    def _bowl_places(self, random, blocks):
        """Random positions clear of the blocks; None where the blocks leave no room."""
        if not self._bowls:
            return []
        places = random.uniform(*BOWL_REGION.T, size=(300, 2))
        free = self._clear(places, blocks, BOWL_FROM_BLOCK)
        choices = itertools.combinations(places[free], len(self._bowls))
        return next(
            (
                chosen
                for chosen in choices
                if all(
                    np.hypot(*(a - b)) > BOWL_FROM_BOWL
                    for a, b in itertools.combinations(chosen, 2)
                )
            ),
            None,
        )

    def _put(self, places, yaws, bowls):
        for k, ((x, y), yaw) in enumerate(zip(places, yaws)):
            address = self.model.joint(f"block{k}").qposadr[0]
            self.data.qpos[address : address + 7] = [
                x,
                y,
                cell.BLOCK_SIZE / 2,
                np.cos(yaw / 2),
                0,
                0,
                np.sin(yaw / 2),
            ]
        for k, (x, y) in enumerate(bowls):
            self.model.body(f"bowl{k}").pos[:] = [x, y, 0]

    def _put_distractors(self, random, shown, blocks, bowls):
        """Puts the first `shown` where they are in no path; one without room stays away."""
        taken = list(bowls)
        self.model.body_pos[self._distractors] = [0, 0, cell.AWAY]
        for body, (_, height, _) in zip(self._distractors[:shown], cell.DISTRACTORS):
            places = random.uniform(*BOWL_REGION.T, size=(3000, 2))
            free = self._clear(places, blocks, DISTRACTOR_FROM_BLOCK)
            for other in taken:
                free &= np.linalg.norm(places - other, axis=1) > DISTRACTOR_FROM_BOWL
            if free.any():
                taken.append(places[free][0])
                self.model.body_pos[body] = [*taken[-1], height]

    @staticmethod
    def _clear(places, blocks, distance):
        """Which of the places are in no path to a block, or of its push, as for bowls."""
        away = np.abs(places[:, None] - blocks)
        free = (np.hypot(away[..., 0], away[..., 1]) > distance) & (
            (away[..., 1] > BOWL_BESIDE) | (away[..., 0] > BOWL_BEHIND)
        )
        return free.all(axis=1)

    def _displace(self):
        """Puts the task's block to another free place, if it lies on the table and there is one."""
        self._displaced_after, index = None, self.colours.index(self.target)
        block, tip = self.block_position(index).copy(), self.ee_pose()[0]
        if block[2] > 0.75 * cell.BLOCK_SIZE:
            return
        random = np.random.default_rng([self.seed, 5])
        places = random.uniform(*BLOCK_REGION.T, size=(3000, 2))
        way = np.linalg.norm(places - block[:2], axis=1)
        free = (way > DISPLACED[0]) & (way < DISPLACED[1])
        for k in range(len(self._blocks)):
            if k != index:
                free &= self._apart(places - self.block_position(k)[:2])
        for bodies, distance in (
            (self._bowls, BOWL_FROM_BLOCK),
            (self._distractors, DISTRACTOR_FROM_BLOCK),
        ):
            free &= self._clear(places, self.model.body_pos[bodies, :2], distance)
        if tip[2] < HIGH:
            free &= np.linalg.norm(places - tip[:2], axis=1) > DISPLACED_FROM_TOOL
        if not free.any():
            return
        joint = self.model.joint(f"block{index}")
        address, speed = joint.qposadr[0], joint.dofadr[0]
        self.data.qpos[address : address + 3] = [*places[free][0], cell.BLOCK_SIZE / 2]
        self.data.qvel[speed : speed + 6] = 0
        mujoco.mj_forward(self.model, self.data)
        # What the task is judged by.
        self._begin[index] = self.block_position(index)
        self.displaced = True

    # -- Commands

    def apply(self, twist, gripper, dt):
        """Simulates `dt` seconds with a twist of the tool and a goal of the gripper.

        `twist`: [m/s, rad/s], base frame. `gripper`: 0 (closed) .. 1 (open).
        """
        twist = np.asarray(twist, dtype=float)
        if twist.shape != (6,) or not np.isfinite(twist).all() or not np.isfinite(gripper):
            raise ValueError(
                f"twist, gripper: {twist.tolist()}, {gripper} are not six and one finite numbers"
            )
        twist = np.clip(twist, -SPEED_LIMIT, SPEED_LIMIT)
        for steps in self._control_periods(gripper, dt):
            self._control(twist, steps)

    def apply_joints(self, gripper, dt, *, positions=None, velocities=None):
        """Simulates `dt` seconds towards joint positions or with joint velocities; at rest without.

        Both have shape [6], in the order of `joint_goals`, rad and rad/s. Positions are approached
        with at most JOINT_SPEED_LIMIT and reached within the first control period if they are near.
        """
        given = positions if velocities is None else velocities
        given = np.zeros(len(cell.ARM_JOINTS)) if given is None else np.asarray(given, dtype=float)
        if given.shape != (6,) or not np.isfinite(given).all() or not np.isfinite(gripper):
            raise ValueError(
                f"joints, gripper: {given.tolist()}, {gripper} are not six and one finite numbers"
            )
        for steps in self._control_periods(gripper, dt):
            longest = JOINT_SPEED_LIMIT * steps * cell.TIMESTEP
            if velocities is None and positions is None:
                change = np.zeros(6)
            elif velocities is None:
                change = np.clip(given - self.joint_goals(), -longest, longest)
            else:
                change = np.clip(given * steps * cell.TIMESTEP, -longest, longest)
            before, _ = self.kinematics.pose(self.data)
            self._follow(self.joint_goals() + change, steps, before)
        # A twist keeps the orientation at which it begins.
        _, self._rotation = self.kinematics.pose(self.data)

    def joint_goals(self):
        """Positions [rad] that the joints of the arm are driven to, shape [6], order of the arm."""
        return self.data.ctrl[: len(cell.ARM_JOINTS)].copy()

    def _control_periods(self, gripper, dt):
        """Sets the goal of the gripper; the numbers of steps of the control periods within `dt`."""
        self.data.ctrl[len(cell.ARM_JOINTS) :] = np.clip(gripper, 0.0, 1.0) * cell.FINGER_TRAVEL
        steps = max(1, round(dt / cell.TIMESTEP))
        per_control = round(CONTROL_PERIOD / cell.TIMESTEP)
        return [min(per_control, steps - first) for first in range(0, steps, per_control)]

    def _control(self, twist, steps):
        duration = steps * cell.TIMESTEP
        before, turned = self.kinematics.pose(self.data)
        self._rotation = rotate(self._rotation, twist[3:] * duration)
        desired = twist.copy()
        desired[3:] += ORIENTATION_GAIN * rotation_error(self._rotation, turned)
        goals = self.data.ctrl[: len(cell.ARM_JOINTS)]
        self._follow(
            goals + self.kinematics.joint_velocity(self.data, desired) * duration, steps, before
        )

    def _follow(self, target, steps, before):
        """Moves the goals of the joints to `target` in `steps`; `before`: position of the tool."""
        goals = self.data.ctrl[: len(cell.ARM_JOINTS)]
        target = np.clip(target, *self.kinematics.limits.T)
        # Goals stay close to the joints, also when the arm is pressed against the table.
        target = np.clip(
            target,
            self.data.qpos[self.kinematics.qpos] - 0.1,
            self.data.qpos[self.kinematics.qpos] + 0.1,
        )
        change = (target - goals) / steps
        for _ in range(steps):
            goals += change
            mujoco.mj_step(self.model, self.data)
            self._watch_touches()
        self.path_length += float(
            np.linalg.norm(self.data.site_xpos[self.kinematics.site] - before)
        )
        if self._displaced_after is not None and self.path_length >= self._displaced_after:
            self._displace()

    def _watch_touches(self):
        if self.first_touched is not None:
            return
        for contact in self.data.contact[: self.data.ncon]:
            pair = (contact.geom1, contact.geom2)
            for one, other in (pair, pair[::-1]):
                if one in self._fingers and other in self._block_of_geom:
                    self.first_touched = self.colours[self._block_of_geom[other]]
                    return
        tip = self.data.site_xpos[self.kinematics.site]
        for k in range(len(self._blocks)):
            away = tip - self.block_position(k)
            if (
                max(abs(away[0]), abs(away[1])) < cell.BLOCK_SIZE / 2
                and 0 <= away[2] - cell.BLOCK_SIZE / 2 < TOUCH_HEIGHT
            ):
                self.first_touched = self.colours[k]
                return

    # -- Observations

    def render(self, camera="camera"):
        """An image of `camera` or `wrist_camera`, uint8 [height, width, 3], RGB."""
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, self.height, self.width)
            # A surface freed while the interpreter shuts down prints a traceback.
            atexit.register(self.close)
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._renderer.update_scene(self.data, camera)
        return self._renderer.render()

    def close(self):
        """Frees the rendering surface."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
            atexit.unregister(self.close)

    @property
    def time(self):
        """Simulated time since the reset [s]."""
        return self.data.time

    def ee_pose(self):
        """Tool centre point: position [m] and quaternion (x, y, z, w) in the base frame."""
        position, rotation = self.kinematics.pose(self.data)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, rotation.ravel())
        return position, np.roll(quaternion, -1)

    def joint_states(self):
        """Names, positions and velocities of all joints [rad, rad/s; fingers m, m/s]."""
        names = list(cell.ARM_JOINTS + cell.FINGER_JOINTS)
        joints = [self.model.joint(name) for name in names]
        return (
            names,
            np.array([self.data.qpos[j.qposadr[0]] for j in joints]),
            np.array([self.data.qvel[j.dofadr[0]] for j in joints]),
        )

    def gripper_opening(self):
        """Measured opening, 0 (closed) .. 1 (open)."""
        return float(self.data.qpos[self._finger_qpos].mean() / cell.FINGER_TRAVEL)

    def block_position(self, index):
        return self.data.xpos[self._blocks[index]]

    def targets(self):
        """Every block: {colour: position [m]}, centre, base frame."""
        return {colour: self.block_position(k).copy() for k, colour in enumerate(self.colours)}

    def bowl_places(self):
        """Every bowl: {colour: position [m]}, centre of its plate, base frame."""
        return {
            colour: self.model.body_pos[self._bowls[k]].copy()
            for k, colour in enumerate(self.bowl_colours)
        }

    def distractors(self):
        """How many are on the table; without room, fewer than were wanted."""
        return int((self.model.body_pos[self._distractors, 2] > 0).sum())

    def possible_tasks(self):
        """Tasks of this table: all, without bowls all but `place`."""
        return [task for task in TASKS if task != "place" or self.bowl_colours]

    def success(self, task=None, block=None, bowl=None):
        """Whether the episode's task, or the given task, block and bowl, is done."""
        task, block, bowl = task or self.task, block or self.target, bowl or self.bowl
        index = self.colours.index(block)
        moved = self.block_position(index) - self._begin[index]
        if task == "touch":
            return self.first_touched == block
        if task == "push":
            return bool(moved[0] > PUSH_DISTANCE)
        if task == "pick":
            return bool(moved[2] > LIFT_HEIGHT)
        away = self.block_position(index) - self.bowl_places()[bowl]
        return bool(
            np.hypot(away[0], away[1]) < cell.BOWL_RADIUS
            and away[2] < cell.BLOCK_SIZE
            and self.gripper_opening() > 0.8
        )
