"""OpenVLA-OFT, pi0 and pi0.5 in the node: two cameras and a state give the chunk of `predict`, on
the CPU and, for pi0 and pi0.5, on a simulated N300.

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
execute: {execute}
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


def policy_file(folder, kit, execute):
    """Writes the kit's policy file."""
    path = pathlib.Path(folder) / "policy.yaml"
    text = POLICY.format(
        kit=kit["kit"].name,
        cameras=", ".join(f"{{name: {name}, topic: {name}}}" for name in kit["images"]),
        joints=", ".join(JOINTS),
        execute=execute,
        **{key: kit[key] for key in ("key", "horizon", "steps", "more")},
    )
    path.write_text(text)
    return path


class Robot:
    """The cameras and the joints of a kit, ten times a second."""

    def __init__(self, graph, kit, change=lambda array, _: array):
        create = graph.node.create_publisher
        self.graph, self.kit, self.change, self.shots = graph, kit, change, 0
        self.images = {name: create(Image, name, qos_profile_sensor_data) for name in kit["images"]}
        self.joints = create(JointState, "joint_states", qos_profile_sensor_data)
        self.pictures = {name: pixels(path) for name, path in kit["images"].items()}
        graph.instructions = create(String, "instruction", LATCHED)

    def publish(self):
        message = JointState(name=JOINTS[::-1], position=list(self.kit["state"])[::-1])
        message.header.stamp = self.graph.stamp()
        self.joints.publish(message)
        self.shots += 1
        for name, publisher in self.images.items():
            array = self.change(self.pictures[name], self.shots)
            publisher.publish(image_message(array, "rgb8", self.graph.stamp()))
        return 0.1


def offline(openvla, kit, policy_file, device, seed):
    """The chunk of `openvla predict` from the same observation."""
    command = [openvla, "predict", "--checkpoint", str(kit["kit"] / "ckpt"), "--json"]
    command += ["--policy-file", policy_file, "--instruction", kit["instruction"]]
    command += ["--device", device]
    command += ["--state=" + ",".join(repr(value) for value in kit["state"])]
    for camera, path in kit["images"].items():
        command += ["--image", f"{camera}={path}"]
    if seed is not None:
        command += ["--seed", str(seed)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return numpy.array(json.loads(answer.stdout)["actions"])


def answers_as_offline(executable, logs, kit, device="cpu", seed=None):
    """The first chunk is that of `predict`; with a seed, it starts from it."""
    folder = tempfile.mkdtemp()
    path = policy_file(folder, kit, kit["horizon"])
    logs.append(f"{folder}/node.log")
    node = NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(kit["kit"] / "ckpt"),
        policy_file=str(path),
        device=device,
        autostart=True,
        # One picture again and again, and a machine that does other things.
        observation_timeout_s=5.0,
        inference_timeout_s=60.0,
        state_timeout_s=5.0,
        **({} if seed is None else {"seed": seed}),
    )
    graph = Peer(listen=False, publish=False)
    try:
        graph.camera = Robot(graph, kit).publish
        graph.say(kit["instruction"])
        action = graph.until("an action", lambda: graph.actions and graph.actions[0], 120.0)
        live = numpy.array(action.action).reshape(action.horizon, action.dimension)
        assert live.shape[0] == kit["horizon"], live.shape
        drawn = action.seed[0] if len(action.seed) else None
        assert seed is None or (seed, 1) == (drawn, action.generation), (seed, drawn)
        openvla = executable[0].replace("vla_node", "openvla")
        wanted = offline(openvla, kit, str(path), device, drawn)
        error = numpy.abs(live - wanted).max()
        name = f"{kit['kit'].name} on {device}"
        print(f"{name}: {live.shape[0]} steps, seed {drawn}, live - offline {error:.1e}")
        assert error == 0.0, (live - wanted, action.instruction)
        assert drawn is None or f"has the seed {drawn} " in node.text(), "the seed is not logged"
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


def scenario(executable, logs):
    answers_as_offline(executable, logs, openvla_oft())
    for name in ("pi0_lerobot_tiny", "pi05_lerobot_tiny"):
        answers_as_offline(executable, logs, pi(name, "action"))
        answers_as_offline(executable, logs, pi(name, "action"), "sim:n300", seed=7)


if __name__ == "__main__":
    peer.main(scenario)
