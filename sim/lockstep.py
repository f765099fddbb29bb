"""Episodes in lockstep: simulated time waits for the policy.

The node infers as usual but commands nothing; its actions are applied to a scene in this process.
So a policy or a number format is evaluated without the influence of a busy machine or of a slow
emulated device. The node's control is not part of the loop (tabletop.NodeTracking approximates
it), and every action is `latency` old in simulated time; `EpisodeRunner.run` has both as they are.
"""

import time

import numpy as np
from episode import Episode
from episode_runner import LATCHED, RunnerError
from geometry_msgs.msg import PoseStamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String
from tabletop import NODE_LOOP, ChunkTracking, NodeTracking

RESEND_S = 20.0  # an image may be lost: without an action it is sent again, with a new stamp


class Lockstep:
    """Sends observations to the node of an EpisodeRunner and awaits the action of each.

    `topics`: of the policy's cameras, and `ee_pose` for a policy with a state (tool and gripper).
    """

    def __init__(self, runner, topics=("image",)):
        self.runner, create = runner, runner.node.create_publisher
        kinds = {"ee_pose": PoseStamped, "gripper_state": Float64}
        state = ["gripper_state"] if "ee_pose" in topics else []
        self.publishers = {
            name: create(kinds.get(name, Image), name, qos_profile_sensor_data)
            for name in [*topics, *state]
        }
        self.instruction = create(String, "instruction", LATCHED)

    def send_instruction(self, text):
        """Publishes an instruction and waits until the node has it."""
        self.instruction.publish(String(data=text))
        self.runner.wait_until(
            "the node has the instruction",
            lambda: self.runner.status.instruction.lower() == text.strip().lower(),
        )

    def observe(self, scene):
        """A message for each topic; the first camera, which triggers the inference, is the last."""
        messages = {}
        for name in self.publishers:
            if name == "ee_pose":
                message, (position, q) = PoseStamped(), scene.ee_pose()
                message.header.frame_id = "base"
                pose = message.pose
                pose.position.x, pose.position.y, pose.position.z = map(float, position)
                orientation = pose.orientation
                orientation.x, orientation.y, orientation.z, orientation.w = map(float, q)
            elif name == "gripper_state":
                message = Float64(data=scene.gripper_opening())
            else:
                pixels = scene.render("camera" if name == "image" else "wrist_camera")
                height, width, _ = pixels.shape
                message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
                message.header.frame_id, message.data = name, pixels.tobytes()
            messages[name] = message
        return dict(sorted(messages.items(), key=lambda entry: entry[0] == "image"))

    def infer(self, messages, timeout=600.0):
        """The node's actions, shape [steps, 7], for the messages of `observe`."""
        end, sent = time.monotonic() + timeout, set()
        self.runner.wait_until(
            "the node subscribes to the observation",
            lambda: all(p.get_subscription_count() > 0 for p in self.publishers.values()),
        )
        while time.monotonic() < end:
            stamp = self.runner.node.get_clock().now().to_msg()
            sent.add((stamp.sec, stamp.nanosec))
            for name, message in messages.items():
                if hasattr(message, "header"):
                    message.header.stamp = stamp
                self.publishers[name].publish(message)
            resend = time.monotonic() + RESEND_S
            while time.monotonic() < resend:
                for program in self.runner.programs:
                    program.check()
                self.runner.spin_once()
                action = self.runner.action
                if action and (action.header.stamp.sec, action.header.stamp.nanosec) in sent:
                    return np.array(action.action).reshape(-1, action.dimension)
        raise RunnerError(
            f"no action for an image within {timeout:g} s; the node's status:"
            f" {self.runner.describe_status()}"
        )

    def run(
        self,
        scene,
        seed,
        task,
        instruction=None,
        success_check=None,
        seconds=10.0,
        latency=0.1,
        first_image_only=False,
        execute=1,
        **more,
    ):
        """Runs one episode on `scene` and returns its Episode, as EpisodeRunner.run does.

        `instruction` replaces the scene's. The episode ends with `success_check(scene)` (by
        default: the task is done) or after `seconds` of simulated time. With `first_image_only`
        the policy sees the first image throughout. `execute`: steps of a chunk per inference, 1
        for a policy of single steps. `more`: of the scene's reset.
        """
        success_check = success_check or (lambda scene: scene.success())
        scene.reset(seed, task=task, **more)
        instruction = scene.instruction if instruction is None else instruction
        self.send_instruction(instruction)
        done = lambda: success_check(scene)
        drive, begin, steps = None, time.monotonic(), 0
        start, farthest = scene.ee_pose()[0], 0.0
        first = self.observe(scene) if first_image_only else None
        while scene.time < seconds and not done():
            action = self.infer(first or self.observe(scene))
            if drive is None:
                drive = self.driver(scene, latency, execute, done)
            drive(action)
            steps += 1
            farthest = max(farthest, float(np.linalg.norm(scene.ee_pose()[0] - start)))
        success, elapsed = bool(done()), time.monotonic() - begin
        return Episode(
            seed=seed,
            task=task,
            target=scene.target,
            instruction=instruction,
            success=success,
            success_s=round(scene.time, 2) if success else None,
            seconds=round(scene.time, 2),
            path_length=round(scene.path_length, 4),
            tool_moved=round(farthest, 4),
            first_touched=scene.first_touched,
            done={
                c: [t for t in scene.possible_tasks() if scene.success(t, c)] for c in scene.colours
            },
            policy_hz=round(steps / elapsed, 2),
        )

    def driver(self, scene, latency, execute, done):
        """Executes actions [steps, 7] on the scene, `latency` old when their motion begins."""
        if execute == 1:
            tracking = NodeTracking(scene, latency)
            return lambda action: tracking.step(action[0])
        policy_hz = self.runner.action.policy_hz
        delay = round(latency * policy_hz)
        tracking = ChunkTracking(scene, policy_hz, execute, delay, NODE_LOOP)
        return lambda chunk: tracking.step(chunk, done)
