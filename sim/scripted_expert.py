"""An expert for the node's scripted policy: it names goals, the node moves the arm to them.

The policy reads its goal from the instruction `move to <numbers>`: the tool's x y z in metres (base
frame) in the space of the end effector, joint positions in radians, in the policy's order, in the
joint spaces. For a touch the goals are a point above the block and one on it; the robot's own
success check judges.
"""

import math

import numpy as np
from episode_runner import LATCHED, STATES, RunnerError
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from tabletop.model import ARM_JOINTS
from tabletop.reach import Reach

SPACES = ("end_effector", "joint_position", "joint_velocity")
REACHED = 0.012  # distance of the tool from a goal that counts as reached [m]
STILL = 0.0005  # a tool that moved less within STILL_S does not move [m]
STILL_S = 0.3
LATCHED_STATES = ("FAULT", "ESTOPPED")


def instruction_of(space, waypoint, order=ARM_JOINTS):
    """The instruction with which the scripted policy moves to a tabletop.reach.Waypoint."""
    if space == "end_effector":
        numbers = waypoint.point
    else:
        numbers = [waypoint.joints[ARM_JOINTS.index(name)] for name in order]
    return "move to " + " ".join(f"{x:.5f}" for x in numbers)


def plain(value):
    """A field of a message as JSON has it: numbers, texts and lists of them; NaN as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)) or type(value).__name__ == "array":
        return [plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def seams(status):
    """`seam_last` and `seam_largest` of the node's status; None where it has no such field."""
    return {name: plain(getattr(status, name, None)) for name in ("seam_last", "seam_largest")}


def cartesian_ratios(peaks, robot):
    """Largest values of the tool, from the robot's state, as shares of a robot file's limits."""
    return {
        f"{group}_{quantity}": round(value / robot["limits"][group][quantity], 6)
        for group in ("linear", "angular")
        for quantity, key in (("velocity", "speed"), ("acceleration", "acceleration"))
        if (value := peaks.get(f"{group}_{key}")) is not None
    }


class ScriptedTouch:
    """Runs touches on the programs of an EpisodeRunner.

    `robot`: the parsed robot file. `order`: the policy's arm joints.
    """

    def __init__(self, runner, space, robot, order=ARM_JOINTS):
        self.runner, self.space, self.robot, self.order = runner, space, robot, order
        limits = {j["name"]: j["position"] for j in robot.get("joints", [])} or None
        self.reach = Reach(limits)
        self.joints = None
        self.instruction = runner.node.create_publisher(String, "instruction", LATCHED)
        runner.node.create_subscription(
            JointState, "joint_states", self._take_joints, qos_profile_sensor_data
        )

    def _take_joints(self, message):
        where = dict(zip(message.name, message.position))
        self.joints = np.array([where[name] for name in ARM_JOINTS])

    def run(self, seed, seconds=15.0):
        """One episode as a dict; `error` says why one could not be run to its end."""
        runner, began = self.runner, None
        record = dict(seed=seed, space=self.space, success=False, error=None)
        try:
            self.bring_to_rest()
            runner.new_scene(seed=seed, task="touch")
            record["target"] = runner.state["target"]
            goals = self._plan()
            self._name(goals[0])
            if not runner.enable_motion():
                raise RunnerError(f"the node refuses motion: {runner.describe_status()}")
            began, timeouts = runner.state["time_s"], runner.state["command_timeouts"]
            record["reached"] = self._follow(goals, began, seconds)
            # Not 0: the stream stopped in motion, which is a jump from rest when it goes on.
            record["command_timeouts"] = runner.state["command_timeouts"] - timeouts
        except (RunnerError, ValueError) as error:
            record["error"] = str(error)
        if began is not None:
            record["seconds"] = round(runner.state["time_s"] - began, 3)
            record["end_state"] = STATES[runner.status.state]
            record["detail"] = runner.status.detail
        return record | self._measured(record, began)

    def _measured(self, record, began):
        """What the robot and the node report of the episode, its stop included."""
        runner = self.runner
        for program in runner.programs:
            program.check()
        try:
            self.bring_to_rest()
        except RunnerError as error:
            record["error"] = record["error"] or str(error)
        state = runner.state
        done = began is not None and state["success"]
        if self.space == "end_effector" or "joints" not in state:
            ratios = dict(
                commanded=cartesian_ratios(state["peaks"], self.robot),
                measured=cartesian_ratios(state["measured"], self.robot),
            )
        else:
            ratios = {k: state["joints"][k].get("ratios") for k in ("commanded", "measured")}
        return dict(
            success=bool(done and record["error"] is None),
            success_s=round(state["success_s"] - began, 3) if done else None,
            first_touched=state["first_touched"],
            path_length=state["path_length_m"],
            limit_ratios=ratios,
            commands=state["commands"],
            refused=state["refused"],
            lost_periods=state["lost_periods"],
            error=record["error"],
            **seams(runner.status),
        )

    def bring_to_rest(self):
        """Disables motion, waits until the tool is still, and resets a latched fault."""
        runner = self.runner
        runner.call(runner.enable_client, SetBool.Request(data=False))
        runner.wait_until("motion is disabled", lambda: not runner.status.enabled)
        seen = [runner.state["time_s"], runner.state["tool"]]

        def still():
            time_s, tool = runner.state["time_s"], runner.state["tool"]
            if math.dist(tool, seen[1]) > STILL or time_s < seen[0]:
                seen[:] = time_s, tool
            return time_s >= seen[0] + STILL_S

        runner.wait_until("the tool is still", still)
        for _ in range(100):
            if STATES[runner.status.state] not in LATCHED_STATES:
                return
            runner.call(runner.reset_client, Trigger.Request())
            runner.spin_for(0.1)
        raise RunnerError(f"the node cannot be reset: {runner.describe_status()}")

    def _plan(self):
        """The waypoints, once the joints of the new scene have arrived."""
        runner = self.runner

        def arrived():
            return (
                self.joints is not None
                and math.dist(self.reach.point(self.joints), runner.state["tool"]) < 0.003
            )

        runner.wait_until("the joints of the new scene have arrived", arrived)
        block = runner.state["blocks"][runner.state["target"]]
        return self.reach.touch(block, self.joints)

    def _name(self, waypoint):
        text = instruction_of(self.space, waypoint, self.order)
        self.instruction.publish(String(data=text))
        self.runner.wait_until(
            "the node has the instruction", lambda: self.runner.status.instruction == text
        )

    def _follow(self, goals, began, seconds):
        """Names each goal once the one before is reached; [name, time] of those reached."""
        runner, reached = self.runner, []

        def near(goal):
            return math.dist(runner.state["tool"], goal.point) < REACHED

        def over():
            return runner.state["success"] or runner.state["time_s"] > began + seconds

        for k, goal in enumerate(goals):
            if k > 0:
                self._name(goal)
            runner.wait_until(
                f"'{goal.name}' is reached or the time is over",
                lambda goal=goal, last=k == len(goals) - 1: over() or (near(goal) and not last),
                4 * seconds + 10.0,
            )
            if near(goal):
                reached.append([goal.name, round(runner.state["time_s"] - began, 3)])
            if over():
                break
        return reached
