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
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String
from tabletop import NodeTracking

RESEND_S = 20.0  # an image may be lost: without an action it is sent again, with a new stamp


class Lockstep:
    """Sends images to the node of an EpisodeRunner and awaits the action of each."""

    def __init__(self, runner):
        self.runner = runner
        self.image = runner.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self.instruction = runner.node.create_publisher(String, "instruction", LATCHED)

    def send_instruction(self, text):
        """Publishes an instruction and waits until the node has it."""
        self.instruction.publish(String(data=text))
        self.runner.wait_until(
            "the node has the instruction",
            lambda: self.runner.status.instruction.lower() == text.strip().lower(),
        )

    def infer(self, pixels, timeout=600.0):
        """The node's action, shape [7], for an image, uint8 [height, width, 3]."""
        message = Image(
            height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=3 * pixels.shape[1]
        )
        message.header.frame_id, message.data = "camera", pixels.tobytes()
        end, sent = time.monotonic() + timeout, set()
        self.runner.wait_until(
            "the node subscribes to images", lambda: self.image.get_subscription_count() > 0
        )
        while time.monotonic() < end:
            message.header.stamp = self.runner.node.get_clock().now().to_msg()
            sent.add((message.header.stamp.sec, message.header.stamp.nanosec))
            self.image.publish(message)
            resend = time.monotonic() + RESEND_S
            while time.monotonic() < resend:
                for program in self.runner.programs:
                    program.check()
                self.runner.spin_once()
                action = self.runner.action
                if action and (action.header.stamp.sec, action.header.stamp.nanosec) in sent:
                    return np.array(action.action)
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
    ):
        """Runs one episode on `scene` and returns its Episode, as EpisodeRunner.run does.

        `instruction` replaces the scene's. The episode ends with `success_check(scene)` (by
        default: the task is done) or after `seconds` of simulated time. With `first_image_only`
        the policy sees the first image throughout.
        """
        success_check = success_check or (lambda scene: scene.success())
        scene.reset(seed, task=task)
        instruction = scene.instruction if instruction is None else instruction
        self.send_instruction(instruction)
        tracking, begin, steps = NodeTracking(scene, latency), time.monotonic(), 0
        start, farthest = scene.ee_pose()[0], 0.0
        pixels = scene.render().copy()
        while scene.time < seconds and not success_check(scene):
            tracking.step(self.infer(pixels if first_image_only else scene.render()))
            steps += 1
            farthest = max(farthest, float(np.linalg.norm(scene.ee_pose()[0] - start)))
        done = bool(success_check(scene))
        elapsed = time.monotonic() - begin
        return Episode(
            seed=seed,
            task=task,
            target=scene.target,
            instruction=instruction,
            success=done,
            success_s=round(scene.time, 2) if done else None,
            seconds=round(scene.time, 2),
            path_length=round(scene.path_length, 4),
            tool_moved=round(farthest, 4),
            first_touched=scene.first_touched,
            done={
                c: [t for t in ("touch", "push", "pick") if scene.success(t, c)]
                for c in scene.colours
            },
            policy_hz=round(steps / elapsed, 2),
        )
