"""OpenVLA-OFT, pi0 and pi0.5 in the node: two cameras and a state give the chunk of `predict`.

The checkpoints are the golden kits (random weights), the state comes from joint_states. Nothing
moves: dry_run is true.
"""

import json
import pathlib
import subprocess
import tempfile

import numpy
import peer
from peer import LATCHED, ROOT, NodeProcess, Peer, image_message
from PIL import Image as Picture
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

JOINTS = [f"joint{i}" for i in range(8)]
POLICY = """
name: {kit}
unnorm_keys: [{key}]
cameras: [{cameras}]
state: [{{from: joint_position, joints: [{joints}]}}]
action:
  frame: base
  rotation: rotation_vector
  composition: left
  translation_scale_m: 0.01
  rotation_scale_rad: 0.01
gripper: {{polarity: one_is_open}}
policy_hz: 5.0
horizon: {horizon}
execute: {horizon}
image: {{steps: [{steps}]}}
{more}
"""


def openvla_oft():
    kit = ROOT / "tests/data/oft_tiny"
    case = json.loads((kit / "cases.json").read_text())["cases"][0]
    steps = "{step: rotate_180}, {step: jpeg}, {step: lanczos3, size: 224}, "
    steps += "{step: center_crop, area: 0.9}"
    return dict(
        kit=kit,
        key=case["unnorm_key"],
        images={image["camera"]: kit / image["file"] for image in case["images"]},
        state=case["proprio"]["raw"],
        instruction=case["instruction"],
        horizon=len(case["actions"]),
        steps=steps,
        more="oft: {bounds: q01_q99, answers: regression}",
    )


def pi(name, key):
    kit = ROOT / "tests/data" / name
    document = json.loads((kit / "cases.json").read_text())
    case = document["cases"][0]
    short = lambda feature: feature.removeprefix("observation.images.")
    return dict(
        kit=kit,
        key=key,
        images={short(feature): kit / file for feature, file in case["images"].items()},
        state=case["state"],
        instruction=case["instruction"],
        horizon=document["chunk_size"],
        steps="{step: torch_bilinear_pad, size: 224}",
        more=f"flow: {{tokenizer: {kit / 'tokenizer'}}}",
    )


def pixels(path):
    return numpy.asarray(Picture.open(path).convert("RGB"))


def offline(openvla, kit, policy_file, seed):
    """The chunk of `openvla predict` from the same observation."""
    command = [openvla, "predict", "--checkpoint", str(kit["kit"] / "ckpt"), "--json"]
    command += ["--policy-file", policy_file, "--instruction", kit["instruction"]]
    command += ["--state=" + ",".join(repr(value) for value in kit["state"])]
    for camera, path in kit["images"].items():
        command += ["--image", f"{camera}={path}"]
    if seed is not None:
        command += ["--seed", str(seed)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return numpy.array(json.loads(answer.stdout)["actions"])


def answers_as_offline(executable, logs, kit):
    folder = tempfile.mkdtemp()
    cameras = ", ".join(f"{{name: {name}, topic: {name}}}" for name in kit["images"])
    path = pathlib.Path(folder) / "policy.yaml"
    keys = ("key", "horizon", "steps", "more")
    path.write_text(
        POLICY.format(
            kit=kit["kit"].name,
            cameras=cameras,
            joints=", ".join(JOINTS),
            **{key: kit[key] for key in keys},
        )
    )
    logs.append(f"{folder}/node.log")
    node = NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(kit["kit"] / "ckpt"),
        policy_file=str(path),
        autostart=True,
        # One picture again and again, and a machine that does other things.
        observation_timeout_s=5.0,
        inference_timeout_s=60.0,
        state_timeout_s=5.0,
    )
    graph = Peer(listen=False, publish=False)
    create = graph.node.create_publisher
    images = {name: create(Image, name, qos_profile_sensor_data) for name in kit["images"]}
    joints = create(JointState, "joint_states", qos_profile_sensor_data)
    graph.instructions = create(String, "instruction", LATCHED)

    def publish():
        message = JointState(name=JOINTS[::-1], position=list(kit["state"])[::-1])
        message.header.stamp = graph.stamp()
        joints.publish(message)
        for name, publisher in images.items():
            array = pixels(kit["images"][name])
            publisher.publish(image_message(array, "rgb8", graph.stamp()))
        return 0.1

    try:
        graph.camera = publish
        graph.say(kit["instruction"])
        action = graph.until("an action", lambda: graph.actions and graph.actions[-1], 120.0)
        live = numpy.array(action.action).reshape(action.horizon, action.dimension)
        assert live.shape[0] == kit["horizon"], live.shape
        seed = action.seed[0] if len(action.seed) else None
        wanted = offline(executable[0].replace("vla_node", "openvla"), kit, str(path), seed)
        error = numpy.abs(live - wanted).max()
        print(f"{kit['kit'].name}: {live.shape[0]} steps, seed {seed}, live - offline {error:.1e}")
        assert error == 0.0, (live - wanted, action.instruction)
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


def scenario(executable, logs):
    answers_as_offline(executable, logs, openvla_oft())
    answers_as_offline(executable, logs, pi("pi0_lerobot_tiny", "action"))
    answers_as_offline(executable, logs, pi("pi05_lerobot_tiny", "action"))


if __name__ == "__main__":
    peer.main(scenario)
