"""A robot with a workspace: activation needs fresh poses, and motion stays within the box."""

import pathlib
import tempfile
import time

import numpy

import peer
import yaml
from geometry_msgs.msg import PoseStamped
from peer import POLICY_FILE, KIT, ROOT, NodeProcess, Peer, kit_cases, pixels
from rclpy.qos import qos_profile_sensor_data

ROBOT_FILE = ROOT / "config/robots/widowx_250.yaml"
POSE_TIMEOUT_S, SLACK_S = 0.5, 0.25


def scenario(executable, logs):
    robot = yaml.safe_load(ROBOT_FILE.read_text())
    frame, box = robot["frames"]["base"], robot["workspace"]
    limits = robot["limits"].values()
    stop_s = (
        max(g["velocity"] / g["acceleration"] + g["acceleration"] / g["jerk"] for g in limits)
        + 0.02
    )
    middle = (numpy.array(box["min"]) + numpy.array(box["max"])) / 2
    logs.append(f"{tempfile.mkdtemp()}/node.log")
    # The robot's own file, but for the topics that the peer listens to.
    robot_file = pathlib.Path(tempfile.mkdtemp()) / "robot.yaml"
    text = ROBOT_FILE.read_text().replace("/servo_node/delta_twist_cmds", "~/command/twist")
    robot_file.write_text(text.replace("/wx250s/gripper_command", "~/command/gripper"))
    node = NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(KIT / "ckpt"),
        policy_file=POLICY_FILE,
        robot_file=str(robot_file),
        unnorm_key="bridge_orig",
        dry_run=False,
        overrun_s=0.4,
        observation_timeout_s=2.0,
        inference_timeout_s=5.0,
        pose_timeout_s=POSE_TIMEOUT_S,
    )
    graph = Peer()
    poses = graph.node.create_publisher(PoseStamped, "ee_pose", qos_profile_sensor_data)
    arm = {"frame": frame, "position": middle, "stamp": None, "on": False}

    def send_pose():
        if arm["on"]:
            message = PoseStamped()
            message.header.frame_id, message.header.stamp = (
                arm["frame"],
                arm["stamp"] or graph.stamp(),
            )
            message.pose.position.x, message.pose.position.y, message.pose.position.z = map(
                float, arm["position"]
            )
            poses.publish(message)

    graph.node.create_timer(0.05, send_pose)
    try:
        assert graph.change("configure")
        refused(graph, "no fresh ee_pose arrives")
        arm.update(on=True, frame="camera_link")
        graph.spin(0.5)
        refused(graph, f"ee_pose is in frame 'camera_link', but the workspace in '{frame}'")
        arm.update(frame=frame, stamp=graph.stamp())
        graph.spin(POSE_TIMEOUT_S + 0.5)
        refused(graph, "ee_pose")
        arm.update(stamp=None)
        graph.spin(0.5)
        assert graph.change("activate"), graph.shown()
        graph.run(kit_cases()[0])

        arm.update(on=False)
        at = time.monotonic()
        took = graph.time_to_stop(at)
        graph.until("the cause is named", lambda: graph.reason == "EE_POSE_STALE")
        assert took <= POSE_TIMEOUT_S + stop_s + SLACK_S, f"{took:.3f} s"
        print(
            f"ee_pose stops: zero after {took:.3f} s, promised {POSE_TIMEOUT_S + stop_s:.3f} s; "
            f"{graph.status.detail}"
        )
        arm.update(on=True)
        graph.resume()
        # The pose is repeated with an old stamp: the position of the arm is unknown.
        arm.update(stamp=graph.stamp())
        at = time.monotonic()
        took = graph.time_to_stop(at)
        graph.until(
            "the cause is named", lambda: graph.reason in ("EE_POSE_STALE", "EE_POSE_INVALID")
        )
        print(f"ee_pose frozen: zero after {took:.3f} s; {graph.status.detail}")
        arm.update(stamp=None)
        graph.resume()

        # This action goes forward, left and down; at the front face the arm does not go on forward.
        face = middle.copy()
        face[0] = box["max"][0] - box["margin"]
        arm.update(position=face)
        graph.spin(1.0)
        begin = len(graph.twists)
        graph.spin(2.0)
        forward = max(m.twist.linear.x for _, m in graph.twists[begin:])
        assert forward <= 1e-9, f"{forward} m/s out of the box"
        counted = dict(zip(graph.status.intervention_names, graph.status.interventions))
        assert counted["workspace"] > 0, counted
        print(
            f"at the face of the box: forward {forward:.6f} m/s, "
            f"{counted['workspace']} interventions"
        )
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


def refused(graph, why):
    assert not graph.change("activate") and graph.lifecycle() == "inactive"
    graph.until(f"'{why}' is said", lambda: why in graph.status.detail)
    print(f"activation refused: {graph.status.detail}")


if __name__ == "__main__":
    peer.main(scenario)
