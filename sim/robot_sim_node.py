#!/usr/bin/env python3
"""The simulated tabletop robot as a ROS 2 node: cameras, arm driver and success check.

usage: tools/sim/run sim/robot_sim_node.py [--ros-args -p seed:=7 -p task:=push -p viewer:=true ...]

Publishes
    image             Image, rgb8, 224x224
    ee_pose           PoseStamped in `frame_id`
    joint_states      JointState: arm [rad, rad/s] and fingers [m, m/s]
    gripper_state     Float64, 0 closed .. 1 open
    wrist_image       Image like `image`, with wrist_camera
    instruction       String, latched
    ~/state           String: JSON, latched, on every change and at 10 Hz
    /clock            Clock, with publish_clock
Subscribes
    vla/command/twist    TwistStamped in `frame_id`; another frame is refused
    vla/command/gripper  Float64, 0 closed .. 1 open
    ~/episode            String: JSON, starts an episode
    ~/faults             String: JSON, replaces the faults of this episode (faults.py)
  or, instead of the first two, with command_interface other than twist
    joint_trajectory_controller/joint_trajectory, forward_position_controller/commands,
    forward_velocity_controller/commands or joint_commands (joint_receiver.py)
    gripper/command      Float64, 0 closed .. 1 open
Services
    ~/reset           Trigger: an episode with the seed set since the last one, or the next seed;
                      task, block and bowl from the parameters
    ~/success         Trigger: whether the task is done
Parameters seed, task, block and bowl can be set at run time, for ~/reset; the others at the start.

The arm stops when a command is not followed by another one within command_timeout_s, as with an
arm's own driver.
"""

import json
import os
import signal
import sys
import time
import warnings

try:
    # First: it sets MUJOCO_GL, which MuJoCo reads when it is imported.
    from tabletop import TabletopScene
    from tabletop.model import ARM_JOINTS

    import rclpy
except (ImportError, RuntimeError, AttributeError) as error:  # the kind depends on MUJOCO_GL
    sys.exit(
        f"tabletop: {error} (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')});"
        " tools/sim/run sim/robot_sim_node.py sets up what it needs"
    )
from builtin_interfaces.msg import Time
from command_receiver import CommandReceiver
from faults import Fault, is_number, read_faults
from geometry_msgs.msg import PoseStamped, TwistStamped
from joint_receiver import INTERFACES, JointReceiver, nanoseconds
from joint_referee import CommandReferee, JointLimits, JointMotion
from motion_estimate import MotionEstimate
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.utilities import remove_ros_args
from refused import Refused, is_text, one_line
from robot_parameters import SETTABLE, joint_order, problem_of, read_parameters
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from streams import Stream

PERIOD = 0.02  # of the arm's driver and of its state topics [s]
STATE_PERIOD = 0.1  # of ~/state [s]
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# live: normal. still: the first image repeated with new stamps. frozen: the first image repeated
# with its old stamp. off: no images.
CAMERAS = ("live", "still", "frozen", "off")
# Keys of ~/episode. Until `camera_from_s` of the episode's time the camera is live.
EPISODE_KEYS = (
    "seed",
    "task",
    "block",
    "bowl",
    "instruction",
    "camera",
    "camera_from_s",
    "faults",
    "distractors",
    "displaced_after_m",
)


def check_display():
    """Refuses a missing display, with which MuJoCo's viewer ends the whole process."""
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not glfw.init():
            raise Refused(
                "viewer: true needs a display, and DISPLAY is"
                f" '{os.environ.get('DISPLAY', '')}'; with false, images are rendered off screen"
            )
    glfw.terminate()


class RobotSimNode:
    """A TabletopScene with the topics and services of a robot."""

    def __init__(self):
        self.node = rclpy.create_node("tabletop")
        self.settings = read_parameters(self.node)
        s = self.settings
        size = s["image_size"]
        tasks = tuple(name.strip() for name in s["tasks"].split(",") if name.strip())
        self.scene = TabletopScene(
            s["seed"],
            blocks=s["blocks"],
            bowls=s["bowls"],
            randomize=s["randomize"],
            width=size,
            height=size,
            tasks=tasks,
            wrist_camera=s["wrist_camera"],
            distractors=s["distractors"],
        )
        if s["viewer"]:
            check_display()
        self.check_rendering()
        self.create_arm()
        self.create_publishers()
        subscribe = self.node.create_subscription
        subscribe(String, "~/episode", self.take_episode, RELIABLE)
        subscribe(String, "~/faults", self.take_faults, RELIABLE)
        self.node.create_service(Trigger, "~/reset", self.reset)
        self.node.create_service(Trigger, "~/success", self.answer_success)
        self.episode, self.error, self.refusals, self.lost_periods = 0, "", 0, 0
        self.simulated = 0.0  # never goes back, unlike the scene's own time [s]
        self.viewer, self.seed_is_new = None, False
        self.node.add_on_set_parameters_callback(self.take_parameters)
        self.begin({name: s[name] for name in SETTABLE})
        if s["viewer"]:
            self.open_viewer()
        self.started, self.ticks = time.monotonic(), 0
        self.next_image = self.next_state = self.next_joints = 0.0
        self.timer = self.node.create_timer(
            PERIOD / s["real_time_factor"],
            self.catch_up,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def create_arm(self):
        """The driver's input, by the parameter command_interface."""
        s, warn = self.settings, self.node.get_logger().warning
        subscribe, interface = self.node.create_subscription, s["command_interface"]
        self.joint_motion = None
        if interface == "twist":
            self.arm = CommandReceiver(s["command_timeout_s"], s["frame_id"], warn)
            subscribe(TwistStamped, "vla/command/twist", self.arm.take_twist, RELIABLE)
            subscribe(Float64, "vla/command/gripper", self.arm.take_gripper, RELIABLE)
            return
        limits = JointLimits.read(s["robot_file"], ARM_JOINTS) if s["robot_file"] else None
        self.joint_motion = JointMotion(ARM_JOINTS, limits, PERIOD)
        self.arm = JointReceiver(
            interface,
            ARM_JOINTS,
            joint_order(s),
            self.scene.joint_goals,
            self.joint_positions,
            CommandReferee(ARM_JOINTS, limits, PERIOD, s["command_timeout_s"]),
            s["command_timeout_s"],
            PERIOD,
            s["command_delay_s"],
            warn,
        )
        kind, topic = INTERFACES[interface]
        callback = self.take_joint_command
        if not hasattr(Subscription, "CallbackType"):  # Humble: messages alone
            callback = lambda m: self.take_joint_command(m, dict(source_timestamp=time.time_ns()))
        subscribe(kind, topic, callback, RELIABLE)
        subscribe(Float64, "gripper/command", self.arm.take_gripper, RELIABLE)

    def take_joint_command(self, message, info):
        sent = info["source_timestamp"] * self.settings["real_time_factor"]
        self.arm.take(message, round(sent), nanoseconds(self.stamp()))

    def joint_positions(self):
        """Of the arm, shape [6]."""
        return self.scene.joint_states()[1][: len(ARM_JOINTS)]

    def create_publishers(self):
        s, create = self.settings, self.node.create_publisher
        kinds = dict(
            image=Image, ee_pose=PoseStamped, joint_states=JointState, gripper_state=Float64
        )
        if s["wrist_camera"]:
            kinds["wrist_image"] = Image
        self.streams = {
            topic: Stream(self.node, kind, topic, qos_profile_sensor_data)
            for topic, kind in kinds.items()
        }
        self.instruction = (
            create(String, "instruction", LATCHED) if s["publish_instruction"] else None
        )
        self.clock = (
            create(
                ClockMessage,
                "/clock",
                QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            )
            if s["publish_clock"]
            else None
        )
        self.state = create(String, "~/state", LATCHED)

    def check_rendering(self):
        """Renders once, so that a machine that cannot render refuses to start."""
        try:
            self.scene.render()
        except Exception as error:  # the kind depends on MUJOCO_GL
            raise Refused(
                f"no image can be rendered with MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {error};"
                " try egl or osmesa (tools/sim/setup finds out which)"
            ) from None

    def open_viewer(self):
        import mujoco.viewer

        self.viewer = mujoco.viewer.launch_passive(
            self.scene.model, self.scene.data, show_left_ui=False, show_right_ui=False
        )

    # -- Episodes

    def begin(self, wanted):
        """Starts an episode with the keys of EPISODE_KEYS.

        Raises Refused for an invalid one; the present episode then continues unchanged.
        """
        wanted = self.checked_episode(wanted)
        try:
            self.scene.reset(
                wanted["seed"],
                task=wanted.get("task") or None,
                block=wanted.get("block") or None,
                bowl=wanted.get("bowl") or None,
                distractors=wanted.get("distractors"),
                displaced_after_m=wanted.get("displaced_after_m"),
            )
        except ValueError as error:
            raise Refused(str(error)) from None
        # Nothing is refused from here on.
        self.camera = wanted["camera"]
        faults = wanted["faults"]
        if self.camera != "live":
            faults = [Fault("image", self.camera, from_s=wanted["camera_from_s"]), *faults]
        for stream in self.streams.values():
            stream.new_episode(faults)
        self.episode += 1
        self.arm.new_episode()
        self.arm.gripper = 1.0
        self.succeeded_at = None
        self.motion = MotionEstimate(self.scene.ee_pose()[0], PERIOD)
        if self.joint_motion is not None:
            self.joint_motion.new_episode(self.joint_positions())
        # An empty instruction is published too: it withdraws the instruction from the node.
        instruction = wanted.get("instruction")
        self.instruction_text = self.scene.instruction if instruction is None else instruction
        if self.instruction is not None:
            self.instruction.publish(String(data=self.instruction_text))
        self.error = ""
        self.next_image = self.simulated
        self.publish_state()

    def checked_episode(self, wanted):
        """`wanted` with defaults for seed, camera and camera_from_s; Refused when invalid."""
        if not isinstance(wanted, dict):
            raise Refused(f"an episode is a JSON object, not {type(wanted).__name__}")
        unknown = wanted.keys() - set(EPISODE_KEYS)
        if unknown:
            raise Refused(
                f"unknown: {', '.join(sorted(map(str, unknown)))}; known: {', '.join(EPISODE_KEYS)}"
            )
        for name in ("task", "block", "bowl", "instruction"):
            if wanted.get(name) is not None and not is_text(wanted[name]):
                raise Refused(f"{name}: {wanted[name]!r} is not a text")
        seed, camera = wanted.get("seed", self.scene.seed + 1), wanted.get("camera", "live")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= 2**53:
            raise Refused(f"seed: {seed!r} is not an integer from 0 to 2^53")
        if camera not in CAMERAS:
            raise Refused(f"camera: {camera!r} is not among {', '.join(CAMERAS)}")
        begin = wanted.get("camera_from_s", 0.0)
        if not is_number(begin, 0, 3600):
            raise Refused(f"camera_from_s: {begin!r} is not a number from 0 to 3600")
        path, count = wanted.get("displaced_after_m"), wanted.get("distractors")
        if path is not None and not is_number(path, 0, 100):
            raise Refused(f"displaced_after_m: {path!r} is not a number from 0 to 100")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
            raise Refused(f"distractors: {count!r} is not an integer")
        faults = read_faults(wanted.get("faults", []), self.streams)
        return wanted | dict(seed=seed, camera=camera, camera_from_s=begin, faults=faults)

    def take_episode(self, message):
        try:
            self.begin(json.loads(message.data))
        except (Refused, ValueError, RecursionError) as error:
            self.refuse(f"~/episode: {error}")

    def take_faults(self, message):
        try:
            faults = read_faults(json.loads(message.data), self.streams)
        except (Refused, ValueError, RecursionError) as error:
            self.refuse(f"~/faults: {error}")
            return
        for stream in self.streams.values():
            stream.set_faults(faults)

    def refuse(self, text):
        self.error, self.refusals = one_line(text), self.refusals + 1
        self.node.get_logger().warning(self.error)
        self.publish_state()

    def take_parameters(self, parameters):
        """Validates a change. A seed is for the next ~/reset, also when its value is the same."""
        problems = [
            problem
            for p in parameters
            if p.name in SETTABLE and (problem := problem_of(p.name, p.value))
        ]
        if not problems and any(p.name == "seed" for p in parameters):
            self.seed_is_new = True
        return SetParametersResult(successful=not problems, reason="; ".join(problems))

    def reset(self, _, response):
        wanted = {name: self.node.get_parameter(name).value for name in SETTABLE}
        if not self.seed_is_new:
            wanted["seed"] = self.scene.seed + 1
        try:
            self.begin(wanted)
            self.seed_is_new = False
            response.success, response.message = (
                True,
                f"seed {self.scene.seed}: {self.scene.instruction}",
            )
        except Refused as error:
            response.success, response.message = False, one_line(error)
        return response

    def answer_success(self, _, response):
        response.success = self.succeeded_at is not None
        response.message = f"{self.scene.instruction}: " + (
            f"done after {self.succeeded_at:.2f} s"
            if response.success
            else f"not done after {self.scene.time:.2f} s"
        )
        return response

    # -- Simulation

    def catch_up(self):
        """Timer callback: advances the simulation to the present."""
        due = int((time.monotonic() - self.started) * self.settings["real_time_factor"] / PERIOD)
        # After a suspension of the process at most five periods are caught up with.
        if due - self.ticks > 5:
            self.lost_periods += due - self.ticks - 5
            self.started += (due - self.ticks - 5) * PERIOD / self.settings["real_time_factor"]
            due = self.ticks + 5
        for _ in range(due - self.ticks):
            self.ticks += 1
            self.advance()

    def advance(self):
        """One period of the driver."""
        if self.joint_motion is None:
            self.scene.apply(self.arm.command(), self.arm.gripper, PERIOD)
        else:
            self.arm.drive(self.scene, self.time_of_period())
            self.joint_motion.take(self.joint_positions())
        self.simulated += PERIOD
        self.motion.take(self.scene.ee_pose()[0])
        if self.clock is not None:
            self.clock.publish(ClockMessage(clock=self.stamp()))
        if self.succeeded_at is None and self.scene.success():
            self.succeeded_at = self.scene.time
            self.publish_state()
        self.publish_arm()
        if self.next_image <= self.simulated + 1e-9:
            self.next_image = (
                max(self.next_image, self.simulated - PERIOD) + 1.0 / self.settings["image_hz"]
            )
            self.publish_images()
        for stream in self.streams.values():
            stream.flush(self.simulated)
        if self.next_state <= self.simulated + 1e-9:
            self.next_state = self.simulated + STATE_PERIOD
            self.publish_state()
        if self.viewer is not None and self.viewer.is_running():
            self.viewer.sync()

    def stamp(self):
        """Present time for a header: simulated with publish_clock, else the system's."""
        if not self.settings["publish_clock"]:
            return self.node.get_clock().now().to_msg()
        nanoseconds = round(self.simulated * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def time_of_period(self):
        """Time of the stamps at the end of the present period [ns], also when it is late."""
        if self.settings["publish_clock"]:
            return round((self.simulated + PERIOD) * 1e9)
        end = self.started + self.ticks * PERIOD / self.settings["real_time_factor"]
        behind = time.monotonic() - end
        return self.node.get_clock().now().nanoseconds - round(behind * 1e9)

    # -- Publications

    def offer(self, topic, make, stamp):
        self.streams[topic].offer(make, stamp, self.scene.time, self.simulated)

    def publish_arm(self):
        stamp = self.stamp()
        self.offer("ee_pose", self.pose_message, stamp)
        if self.simulated + 1e-9 < self.next_joints:
            return
        self.next_joints = (
            max(self.next_joints, self.simulated - PERIOD) + 1.0 / self.settings["joint_state_hz"]
        )
        self.offer("joint_states", self.joints_message, stamp)
        self.offer("gripper_state", lambda: Float64(data=self.scene.gripper_opening()), stamp)

    def pose_message(self):
        pose = PoseStamped()
        pose.header.frame_id = self.settings["frame_id"]
        position, orientation = self.scene.ee_pose()
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = map(float, position)
        o = pose.pose.orientation
        o.x, o.y, o.z, o.w = map(float, orientation)
        return pose

    def joints_message(self):
        names, positions, velocities = self.scene.joint_states()
        return JointState(name=names, position=positions.tolist(), velocity=velocities.tolist())

    def publish_images(self):
        stamp = self.stamp()  # of the rendered state, not of the end of rendering
        self.offer("image", lambda: self.picture("camera"), stamp)
        if self.settings["wrist_camera"]:
            self.offer("wrist_image", lambda: self.picture("wrist_camera"), stamp)

    def picture(self, camera):
        pixels = self.scene.render(camera)
        message = Image(
            height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=3 * pixels.shape[1]
        )
        message.header.frame_id, message.data = camera, pixels.tobytes()
        return message

    def publish_state(self):
        scene = self.scene
        tasks = scene.possible_tasks()

        def rounded(values):
            return [round(float(x), 4) for x in values]

        state = dict(
            episode=self.episode,
            seed=scene.seed,
            task=scene.task,
            target=scene.target,
            bowl=scene.bowl,
            instruction=self.instruction_text,
            camera=self.camera,
            success=self.succeeded_at is not None,
            success_s=self.succeeded_at,
            first_touched=scene.first_touched,
            displaced=scene.displaced,
            distractors=scene.distractors(),
            time_s=round(scene.time, 3),
            done={
                colour: [task for task in tasks if scene.success(task, colour)]
                for colour in scene.colours
            },
            path_length_m=round(scene.path_length, 4),
            tool=rounded(scene.ee_pose()[0]),
            gripper=round(scene.gripper_opening(), 3),
            blocks={colour: rounded(place) for colour, place in scene.targets().items()},
            bowls={colour: rounded(place) for colour, place in scene.bowl_places().items()},
            commands=self.arm.received,
            refused=self.arm.refused,
            command_timeouts=self.arm.timeouts,
            peaks={name: round(value, 4) for name, value in self.arm.peaks.items()},
            measured={name: round(value, 4) for name, value in self.motion.peaks.items()},
            lost_periods=self.lost_periods,
            refusals=self.refusals,
            error=self.error,
        )
        if self.joint_motion is not None:
            state["joints"] = dict(
                positions=rounded(self.joint_positions()),
                commanded=self.arm.referee.report(),
                measured=self.joint_motion.peaks.report(),
                late=self.arm.late,
            )
        self.state.publish(String(data=json.dumps(state)))

    def close(self):
        if self.viewer is not None:
            self.viewer.close()
        self.scene.close()


def start():
    """Creates the node; raises Refused or an exception of rclpy for invalid input of the user."""
    unknown = remove_ros_args(sys.argv)[1:]
    if unknown:
        raise Refused(
            f"unknown argument '{unknown[0]}'; parameters follow --ros-args, as in"
            " --ros-args -p seed:=7"
        )
    # Signals end the loop between two callbacks. rclpy's own handlers would destroy the context
    # during a publication.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    return RobotSimNode()


def main():
    signals = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: signals.append(True))
    # RuntimeError: ROS arguments that cannot be parsed.
    invalid = (ValueError, RuntimeError, NameValidationException, ParameterException)
    try:
        robot = start()
    except invalid as error:
        # A renderer whose construction failed prints a traceback when it is deleted.
        sys.unraisablehook = lambda _: None
        sys.exit(f"tabletop: {one_line(error)}")
    executor = SingleThreadedExecutor()
    executor.add_node(robot.node)
    while not signals and (robot.viewer is None or robot.viewer.is_running()):
        executor.spin_once(timeout_sec=0.2)
    robot.close()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
