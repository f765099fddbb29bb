"""LeRobot's own classes as the judge of `openvla convert` and `openvla eval run`; see check.

Bags are written with rosbags, which shares no code with the program.
"""

import io
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import lerobot
import numpy as np
from lerobot.datasets.compute_stats import compute_episode_stats
from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / "tests/data/openvla_tiny"
START = 1_700_000_000_000_000_000
STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"]
logging.disable(logging.WARNING)

openvla = sys.argv[1]


def program(*arguments, fails=False):
    command = [openvla, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if (done.returncode != 0) != fails:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
    return done


def say(text):
    print(f"lerobot: {text}", flush=True)


def header(at):
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=at // 10**9, nanosec=at % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")


def jpeg(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=90)
    return data.getvalue()


class Bag:
    """A bag by its topics."""

    def __init__(self, path):
        self.writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self.topics = {}
        self.writer.open()

    def write(self, topic, kind, at, **fields):
        if topic not in self.topics:
            self.topics[topic] = self.writer.add_connection(topic, kind, typestore=STORE)
        message = STORE.serialize_cdr(TYPES[kind](**fields), kind)
        self.writer.write(self.topics[topic], at, message)

    def text(self, topic, at, text):
        self.write(topic, "std_msgs/msg/String", at, data=text)

    def array(self, topic, at, values):
        layout = TYPES["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        data = np.array(values, np.float64)
        self.write(topic, "std_msgs/msg/Float64MultiArray", at, layout=layout, data=data)

    def raw(self, topic, at, pixels):
        height, width, _ = pixels.shape
        fields = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0}
        fields |= {"step": width * 3, "data": pixels.reshape(-1)}
        self.write(topic, "sensor_msgs/msg/Image", at, header=header(at), **fields)

    def compressed(self, topic, at, data):
        data = np.frombuffer(data, np.uint8)
        kind = "sensor_msgs/msg/CompressedImage"
        self.write(topic, kind, at, header=header(at), format="jpeg", data=data)

    def joints(self, topic, at, names, positions):
        none = np.array([], np.float64)
        fields = {"name": names, "position": np.array(positions, np.float64)}
        fields |= {"velocity": none, "effort": none}
        self.write(topic, "sensor_msgs/msg/JointState", at, header=header(at), **fields)


def load(path, **options):
    return LeRobotDataset("local/check", root=path, **options)


def table(dataset):
    """The rows as they are stored, without decoding of pictures."""
    return dataset.hf_dataset.with_format("arrow")[:].to_pydict()


def check_loaded(folder):
    """Two bags of a six-joint arm with two cameras at 30 Hz -> LeRobot's rows, against the bags."""
    random = np.random.default_rng(1)
    episodes = []
    for number in range(2):
        bag = Bag(folder / f"bag{number}")
        rows = []
        task = ["pick the cube", "open the drawer"][number]
        for i in range(12 + 5 * number):
            at = START + number * 10**12 + round(i * 1e9 / 30)
            front = random.integers(0, 256, (48, 64, 3), np.uint8)
            wrist = random.integers(0, 256, (36, 48, 3), np.uint8)
            joints, gripper = random.normal(size=5), random.uniform()
            action = random.normal(size=6) * 30
            if i == 0:
                bag.text("/instruction", at - 5_000_000, task)
            bag.joints("/joint_states", at - 4_000_000, JOINTS, joints)
            bag.write("/gripper_state", "std_msgs/msg/Float64", at - 3_000_000, data=gripper)
            bag.raw("/wrist", at - 2_000_000, wrist)
            file = jpeg(front)
            bag.compressed("/front", at, file)
            bag.array("/action", at + 1_000_000, action)
            state = [*(joints * 57.29577951308232), gripper * 100.0]
            rows.append({"front": file, "wrist": wrist, "state": state, "action": action})
        bag.writer.close()
        episodes.append((task, rows))
    out = folder / "converted"
    arguments = ["convert", "--bag", folder / "bag0", folder / "bag1", "--out", out]
    arguments += ["--camera", "front=/front", "--camera", "wrist=/wrist"]
    arguments += ["--instruction-topic", "/instruction", "--action-topic", "/action"]
    arguments += ["--policy-file", ROOT / "config/policies/lerobot-so101.yaml"]
    program(*arguments, "--robot-type", "so101")
    dataset = load(out)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (2, 29, 30)
    assert dataset.meta.robot_type == "so101"
    assert dataset.meta.features["action"]["names"] == [*JOINTS, "gripper"]
    stored = table(dataset)
    place = 0
    for number, (task, rows) in enumerate(episodes):
        for i, row in enumerate(rows):
            item = dataset[place]
            assert item["task"] == task, item["task"]
            counters = [item[name].item() for name in ("episode_index", "frame_index", "index")]
            assert counters == [number, i, place], counters
            assert abs(item["timestamp"].item() - i / 30) < 1e-6
            for name, values in [("observation.state", row["state"]), ("action", row["action"])]:
                wanted = np.array(values, np.float64).astype(np.float32)
                assert np.array_equal(item[name].numpy(), wanted), (name, place)
            wrist = (item["observation.images.wrist"] * 255).round().numpy()
            assert np.array_equal(wrist.transpose(1, 2, 0).astype(np.uint8), row["wrist"])
            assert stored["observation.images.front"][place]["bytes"] == row["front"]
            pixels = (item["observation.images.front"] * 255).round().numpy()
            decoded = np.asarray(Image.open(io.BytesIO(row["front"])))
            assert np.array_equal(pixels.transpose(1, 2, 0).astype(np.uint8), decoded)
            place += 1
    say(f"loads {place} converted rows: frames, states, actions, tasks, counters and times equal")
    check_stats(dataset, stored, episodes)
    check_tools(dataset, out, folder)


def check_stats(dataset, stored, episodes):
    """Our statistics against LeRobot's of the same rows."""
    vectors = {"observation.state": "state", "action": "action"}
    for name, key in vectors.items():
        own = dataset.meta.stats[name]
        values = np.concatenate([[row[key] for row in rows] for _, rows in episodes])
        feature = {name: dataset.meta.features[name]}
        spread = values.max() - values.min()
        per_episode = [
            compute_episode_stats({name: np.array([row[key] for row in rows])}, feature)[name]
            for _, rows in episodes
        ]
        counts = np.array([len(rows) for _, rows in episodes])
        for stat in ("mean", "std", "min", "max"):
            exact = getattr(values, stat)(axis=0)
            assert np.abs(own[stat] - exact).max() < 1e-4 * spread, (name, stat)
        for stat in ("q01", "q10", "q50", "q90", "q99"):
            # LeRobot takes quantiles from a histogram, ours are exact: with few rows they differ
            # by up to the distance of two neighbouring values.
            theirs = sum(s[stat] * n for s, n in zip(per_episode, counts)) / counts.sum()
            assert np.abs(own[stat] - theirs).max() < 0.25 * spread, (name, stat)
        assert own["count"] == [counts.sum()]
    for camera in ("front", "wrist"):
        own = dataset.meta.stats[f"observation.images.{camera}"]
        files = [row["bytes"] for row in stored[f"observation.images.{camera}"]]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files]) / 255
        for stat in ("mean", "std", "min", "max"):
            exact = getattr(pixels, stat)(axis=(0, 1, 2)).reshape(3, 1, 1)
            assert own[stat].shape == (3, 1, 1)
            assert np.abs(own[stat] - exact).max() < 0.02, (camera, stat, own[stat], exact)
    say("statistics of vectors and pictures equal those of the rows")


def check_tools(dataset, out, folder):
    """LeRobot's loader with windows, and its tools on the files that we wrote."""
    windows = {"action": [0.0, 1 / 30, 2 / 30]}
    loader = DataLoader(load(out, delta_timestamps=windows), batch_size=8)
    batches = [batch["action"].shape for batch in loader]
    assert batches[0] == (8, 3, 6) and sum(shape[0] for shape in batches) == 29, batches
    single = load(out, episodes=[1])
    assert (len(single), single[0]["episode_index"].item()) == (17, 1)
    rest = delete_episodes(dataset, [0], output_dir=folder / "rest", repo_id="local/rest")
    assert (rest.num_episodes, rest.num_frames) == (1, 17)
    both = merge_datasets([load(out), rest], "local/both", output_dir=folder / "both")
    assert (both.num_episodes, both.num_frames) == (3, 46)
    say("windows, selection, delete_episodes and merge_datasets work on the converted files")


def evaluate(out, *arguments):
    checkpoint = ["--checkpoint", KIT / "ckpt", "--unnorm-key", "bridge_orig"]
    program("eval", "run", *checkpoint, "--decode", "actions", *arguments, "--out", out, "--quiet")
    return json.loads((out / "report.json").read_text())


def kit_rows():
    """The kit's images in one size, with its instructions and float32 actions."""
    cases = json.loads((KIT / "cases.json").read_text())["cases"]
    for i in range(24):
        case = cases[i % len(cases)]
        image = Image.open(KIT / case["image"]).convert("RGB").resize((64, 48))
        action = np.array(case["actions"]["bridge_orig"], np.float32)
        noise = np.random.default_rng(i).normal(size=7).astype(np.float32) * 0.01
        yield np.asarray(image), case["instruction"].strip(), action + noise


def lerobots(folder, episodes, dtype="image"):
    """A dataset that LeRobot writes."""
    camera = {"dtype": dtype, "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    names = [f"a{i}" for i in range(7)]
    action = {"dtype": "float32", "shape": (7,), "names": names}
    state = {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]}
    features = {"observation.images.top": camera, "action": action, "observation.state": state}
    dataset = LeRobotDataset.create(
        "local/own", fps=5, features=features, root=folder, use_videos=dtype == "video"
    )
    for rows in episodes:
        for image, task, action in rows:
            frame = {"observation.images.top": image, "action": action, "task": task}
            dataset.add_frame(frame | {"observation.state": action[:3]})
        dataset.save_episode()
    dataset.finalize()


def check_evaluated(folder):
    """The same rows as bags and as LeRobot's own dataset: the same metrics."""
    rows = list(kit_rows())
    episodes = [rows[:9], rows[9:10], rows[10:]]
    bags = []
    for number, episode in enumerate(episodes):
        bags.append(folder / f"kit{number}")
        bag = Bag(bags[-1])
        for i, (image, task, action) in enumerate(episode):
            at = START + i * 200_000_000
            bag.text("/instruction", at - 1_000_000, task)
            bag.raw("/camera", at, image)
            bag.array("/action", at + 5_000_000, action)
        bag.writer.close()
    topics = ["--image-topic", "/camera", "--instruction-topic", "/instruction"]
    topics += ["--action-topic", "/action"]
    of_bags = evaluate(folder / "of_bags", "--bag", *bags, *topics)
    lerobots(folder / "own", episodes)
    of_dataset = evaluate(folder / "of_dataset", "--bag", folder / "own")
    assert of_dataset["frames"] == of_bags["frames"], of_dataset["frames"]
    assert of_dataset["overall"] == of_bags["overall"]
    for theirs, ours in zip(of_dataset["episodes"], of_bags["episodes"], strict=True):
        assert theirs["metrics"] == ours["metrics"]
    assert of_dataset["frames"]["matched"] == 24 and not of_dataset["incomplete"]
    mae = of_dataset["overall"]["dimensions"][0]["mae"]
    accuracy = of_dataset["overall"]["token_accuracy"]
    say(
        f"eval of its own dataset equals eval of the bags: 24 rows, 3 episodes, "
        f"token accuracy {accuracy:.4f}, MAE of dx {mae:.6f}"
    )
    # And back: the bags converted and evaluated.
    program("convert", "--bag", *bags, *topics, "--out", folder / "back")
    again = evaluate(folder / "of_back", "--bag", folder / "back")
    assert again["overall"] == of_bags["overall"]
    say("eval of the converted bags equals eval of the bags")
    lerobots(folder / "video", episodes, "video")
    refused = program(
        "eval",
        "run",
        "--checkpoint",
        KIT / "ckpt",
        "--unnorm-key",
        "bridge_orig",
        "--decode",
        "actions",
        "--bag",
        folder / "video",
        "--out",
        folder / "x",
        fails=True,
    )
    lines = refused.stderr.strip().splitlines()
    assert len(lines) == 1 and "stored as video" in lines[0], refused.stderr
    subprocess.run(
        [sys.executable, ROOT / "tools/lerobot/to_pictures", folder / "video", folder / "pictures"],
        check=True,
        capture_output=True,
    )
    of_video = evaluate(folder / "of_video", "--bag", folder / "pictures")
    assert of_video["frames"]["matched"] == 24
    say("video is refused in one line; to_pictures makes of it a dataset that is evaluated")


with tempfile.TemporaryDirectory() as temporary:
    say(f"LeRobot {lerobot.__version__}")
    check_loaded(Path(temporary))
    check_evaluated(Path(temporary))
    say("all checks passed")
