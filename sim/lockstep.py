"""Episodes in which simulated time waits for the policy: the node infers as ever and commands nothing, its actions are applied to a scene in this process.

What a policy or a number format is worth, without what the machine's load or an emulated chip's slowness makes of it. The node's control is not in this loop
(tabletop.NodeTracking stands in for it) and every action is `latency` old in simulated time; `Session.run` has both as they are.
"""

import time

import numpy as np
from episode import Episode
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from session import LATCHED, SessionError
from std_msgs.msg import String
from tabletop import NodeTracking

ASK_AGAIN_S = (
    20.0  # an image may be lost; after so long without an answer it is sent again, with a new stamp
)


class Lockstep:
    """Asks the node of a session for one action at a time."""

    def __init__(self, session):
        self.session = session
        self.image = session.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self.instruction = session.node.create_publisher(String, "instruction", LATCHED)

    def say(self, text):
        self.instruction.publish(String(data=text))
        self.session.until(
            "the node has the instruction",
            lambda: self.session.status.instruction.lower() == text.strip().lower(),
        )

    def ask(self, pixels, patience=600.0):
        """The node's action for these pixels."""
        message = Image(
            height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=3 * pixels.shape[1]
        )
        message.header.frame_id, message.data = "camera", pixels.tobytes()
        end, sent = time.monotonic() + patience, set()
        self.session.until(
            "the node listens to images", lambda: self.image.get_subscription_count() > 0
        )
        while time.monotonic() < end:
            message.header.stamp = self.session.node.get_clock().now().to_msg()
            sent.add((message.header.stamp.sec, message.header.stamp.nanosec))
            self.image.publish(message)
            again = time.monotonic() + ASK_AGAIN_S
            while time.monotonic() < again:
                for program in self.session.programs:
                    program.check()
                self.session.turn()
                action = self.session.action
                if (
                    action is not None
                    and (action.header.stamp.sec, action.header.stamp.nanosec) in sent
                ):
                    return np.array(action.action)
        raise SessionError(
            f"no action for an image within {patience:g} s; the node says {self.session.said()}"
        )

    def run(
        self,
        scene,
        seed,
        task,
        instruction=None,
        judge=None,
        seconds=10.0,
        latency=0.1,
        blind=False,
    ):
        """One episode on `scene`, as Session.run returns it; `instruction` replaces the scene's, `judge(scene)` says when it is done. `blind`: the policy is shown the first picture throughout."""
        judge = judge or (lambda scene: scene.success())
        scene.reset(seed, task=task)
        said = scene.instruction if instruction is None else instruction
        self.say(said)
        tracking, begin, steps = NodeTracking(scene, latency), time.monotonic(), 0
        start, farthest = scene.ee_pose()[0], 0.0
        pixels = scene.render().copy()
        while scene.time < seconds and not judge(scene):
            tracking.step(self.ask(pixels if blind else scene.render()))
            steps += 1
            farthest = max(farthest, float(np.linalg.norm(scene.ee_pose()[0] - start)))
        done = bool(judge(scene))
        took = time.monotonic() - begin
        return Episode(
            seed=seed,
            task=task,
            target=scene.target,
            instruction=said,
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
            policy_hz=round(steps / took, 2),
        )
