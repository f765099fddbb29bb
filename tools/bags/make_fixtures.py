#!/usr/bin/env python3
"""Writes tests/data/bags: small rosbag2 recordings of two writers that share no code with
crates/rosbag2-reader.

    pip install -r tools/bags/requirements.txt
    python3 tools/bags/make_fixtures.py

The content is the same in each bag; `expected.json` contains it. It is seeded: running the script
again gives the same content; file bytes may differ with the writers' versions.
"""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
from mcap.writer import CompressionType, Writer as McapWriter
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/data/bags"
START = 1_700_000_000_000_000_000
PERIOD = 200_000_000
FRAMES = 6
HEIGHT, WIDTH, STEP = 12, 16, 16 * 3 + 5

store = get_typestore(Stores.ROS2_HUMBLE)
for name in ("Action", "Status"):
    text = (ROOT / f"msg/msg/{name}.msg").read_text()
    store.register(get_types_from_msg(text, f"openvla_tt_msgs/msg/{name}"))
types = store.types


def new(kind, /, **fields):
    return types[kind](**fields)


def header(nanoseconds, frame):
    stamp = new(
        "builtin_interfaces/msg/Time", sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9
    )
    return new("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def vector(values):
    return new("geometry_msgs/msg/Vector3", x=values[0], y=values[1], z=values[2])


def content():
    """(topic, type, log time, message) in order of log time, and what a reader must find in it."""
    rng = np.random.default_rng(7)
    messages, expected = [], {"start": START, "frames": [], "topics": {}}

    def add(topic, kind, at, message):
        messages.append((topic, kind, at, message))
        expected["topics"].setdefault(topic, {"type": kind, "messages": 0})["messages"] += 1

    add(
        "/instruction",
        "std_msgs/msg/String",
        START - 1_000_000,
        new("std_msgs/msg/String", data="pick up the café cup ☕"),
    )
    for i in range(FRAMES):
        at = START + i * PERIOD
        stamp = at - 3_000_000
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        rows = rng.integers(0, 256, (HEIGHT, STEP), dtype=np.uint8)
        rows[:, : WIDTH * 3] = pixels.reshape(HEIGHT, -1)
        add(
            "/camera/image",
            "sensor_msgs/msg/Image",
            at,
            new(
                "sensor_msgs/msg/Image",
                header=header(stamp, "camera_optical"),
                height=HEIGHT,
                width=WIDTH,
                encoding="rgb8",
                is_bigendian=0,
                step=STEP,
                data=rows.reshape(-1),
            ),
        )
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        add(
            "/camera/image/compressed",
            "sensor_msgs/msg/CompressedImage",
            at + 1,
            new(
                "sensor_msgs/msg/CompressedImage",
                header=header(stamp, "camera_optical"),
                format="rgb8; png compressed rgb8",
                data=np.frombuffer(png.getvalue(), np.uint8),
            ),
        )
        action = rng.normal(0, 0.01, 7)
        action[6] = i % 2
        add(
            "/action_array",
            "std_msgs/msg/Float64MultiArray",
            at + 2,
            new(
                "std_msgs/msg/Float64MultiArray",
                layout=new(
                    "std_msgs/msg/MultiArrayLayout",
                    dim=[new("std_msgs/msg/MultiArrayDimension", label="action", size=7, stride=7)],
                    data_offset=0,
                ),
                data=action,
            ),
        )
        add(
            "/twist",
            "geometry_msgs/msg/TwistStamped",
            at + 3,
            new(
                "geometry_msgs/msg/TwistStamped",
                header=header(stamp, "base_link"),
                twist=new(
                    "geometry_msgs/msg/Twist",
                    linear=vector(action[:3] * 5),
                    angular=vector(action[3:6] * 5),
                ),
            ),
        )
        add(
            "/gripper",
            "std_msgs/msg/Float64",
            at + 4,
            new("std_msgs/msg/Float64", data=float(action[6])),
        )
        tokens = rng.integers(31744, 32000, 7, dtype=np.uint32)
        normalized = rng.uniform(-1, 1, 7)
        add(
            "/vla/action",
            "openvla_tt_msgs/msg/Action",
            at + 5,
            new(
                "openvla_tt_msgs/msg/Action",
                header=header(stamp, "base_link"),
                generation=i + 1,
                instruction="pick up the café cup ☕",
                unnorm_key="bridge_orig",
                horizon=1,
                dimension=7,
                token_ids=tokens,
                logit_margins=np.arange(7, dtype=np.float32) / 4,
                normalized=normalized,
                action=action,
                policy_hz=5.0,
                device="cpu",
                precision="f32",
                latency_s=0.25,
                stage_names=["preprocess", "vision"],
                stage_ms=np.array([1.5, 2.25], np.float32),
            ),
        )
        expected["frames"].append(
            {
                "log_time": at,
                "stamp": stamp,
                "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                "data_sha256": hashlib.sha256(rows.tobytes()).hexdigest(),
                "png_sha256": hashlib.sha256(png.getvalue()).hexdigest(),
                "action": action.tolist(),
                "twist": (action[:6] * 5).tolist(),
                "token_ids": tokens.tolist(),
                "normalized": normalized.tolist(),
            }
        )
    add(
        "/ee_pose",
        "geometry_msgs/msg/PoseStamped",
        START + 7,
        new(
            "geometry_msgs/msg/PoseStamped",
            header=header(START, "base_link"),
            pose=new(
                "geometry_msgs/msg/Pose",
                position=new("geometry_msgs/msg/Point", x=0.1, y=-0.2, z=0.3),
                orientation=new("geometry_msgs/msg/Quaternion", x=0.0, y=0.6, z=0.0, w=0.8),
            ),
        ),
    )
    # Odd string lengths: alignment after each of them is what decoders get wrong.
    add(
        "/joint_states",
        "sensor_msgs/msg/JointState",
        START + 8,
        new(
            "sensor_msgs/msg/JointState",
            header=header(START, ""),
            name=["a", "bb", "ccc"],
            position=np.array([0.5, -1.5, 2.5]),
            velocity=np.array([]),
            effort=np.array([1.0]),
        ),
    )
    add(
        "/vla/status",
        "openvla_tt_msgs/msg/Status",
        START + 9,
        new(
            "openvla_tt_msgs/msg/Status",
            header=header(START + 9, ""),
            state=4,
            reason=201,
            detail="image age 0.7 s > 0.5 s",
            latched=False,
            enabled=True,
            dry_run=False,
            instruction="pick up the café cup ☕",
            image_age_s=0.7,
            inference_ms=180.0,
            command_hz=50.0,
            generation=3,
            images_received=10,
            images_dropped=1,
            images_rejected=2,
            inferences=3,
            late_results=0,
            faults=1,
            overruns=0,
            interventions=np.array([4, 5], np.uint64),
            intervention_names=["velocity", "jerk"],
        ),
    )
    messages.sort(key=lambda message: message[2])
    return messages, expected


def rosbag(name, messages, storage, mode=CompressionMode.NONE, version=9, little_endian=True):
    path = OUT / name
    writer = Writer(path, version=version, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, at, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(
                connections[topic],
                at,
                store.serialize_cdr(message, kind, little_endian=little_endian),
            )
    return path


def foxglove(name, messages, compression, chunk_size=20_000, indexed=True, chunked=True):
    with open(OUT / name, "wb") as stream:
        writer = McapWriter(
            stream,
            chunk_size=chunk_size,
            compression=compression,
            use_chunking=chunked,
            use_statistics=indexed,
            use_summary_offsets=indexed,
            repeat_channels=indexed,
            repeat_schemas=indexed,
        )
        writer.start("ros2", "fixtures")
        channels, schemas = {}, {}
        for topic, kind, at, message in messages:
            if kind not in schemas:
                text, _ = store.generate_msgdef(kind, ros_version=2)
                schemas[kind] = writer.register_schema(kind, "ros2msg", text.encode())
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "cdr", schemas[kind])
            writer.add_message(channels[topic], at, bytes(store.serialize_cdr(message, kind)), at)
        writer.finish()


def split(name, messages, storage, suffix):
    """Two halves of a recording in one folder, as `ros2 bag record --max-bag-size` writes them."""
    half = len(messages) // 2
    parts = [
        rosbag(f"{name}_{i}", part, storage)
        for i, part in enumerate((messages[:half], messages[half:]))
    ]
    folder = OUT / name
    folder.mkdir()
    yaml = YAML(typ="safe")
    documents = [yaml.load(part / "metadata.yaml") for part in parts]
    joined = documents[0]["rosbag2_bagfile_information"]
    other = documents[1]["rosbag2_bagfile_information"]
    for i, part in enumerate(parts):
        shutil.move(part / f"{part.name}.{suffix}", folder / f"{name}_{i}.{suffix}")
        shutil.rmtree(part)
    joined["message_count"] += other["message_count"]
    known = {
        topic["topic_metadata"]["name"]: topic for topic in joined["topics_with_message_count"]
    }
    for topic in other["topics_with_message_count"]:
        if topic["topic_metadata"]["name"] in known:
            known[topic["topic_metadata"]["name"]]["message_count"] += topic["message_count"]
        else:
            joined["topics_with_message_count"].append(topic)
    joined["relative_file_paths"] = [f"{name}_{i}.{suffix}" for i in range(2)]
    with open(folder / "metadata.yaml", "w") as stream:
        yaml.dump(documents[0], stream)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    messages, expected = content()
    mcap, sqlite = StoragePlugin.MCAP, StoragePlugin.SQLITE3
    rosbag("mcap_plain", messages, mcap)
    rosbag("mcap_chunk_zstd", messages, mcap, CompressionMode.STORAGE)
    rosbag("mcap_message_zstd", messages, mcap, CompressionMode.MESSAGE)
    rosbag("mcap_file_zstd", messages, mcap, CompressionMode.FILE)
    rosbag("mcap_big_endian", messages, mcap, little_endian=False)
    rosbag("sqlite_plain", messages, sqlite)
    rosbag("sqlite_version_8", messages, sqlite, version=8)
    rosbag("sqlite_message_zstd", messages, sqlite, CompressionMode.MESSAGE)
    rosbag("sqlite_file_zstd", messages, sqlite, CompressionMode.FILE)
    split("split_mcap", messages, mcap, "mcap")
    split("split_sqlite", messages, sqlite, "db3")
    foxglove("lz4.mcap", messages, CompressionType.LZ4)
    foxglove("zstd.mcap", messages, CompressionType.ZSTD)
    foxglove("unchunked.mcap", messages, CompressionType.NONE, chunked=False)
    foxglove("no_summary.mcap", messages, CompressionType.LZ4, indexed=False)
    # A recorder that wrote two neighbours in the wrong order, and one message three seconds late.
    unsorted = list(messages)
    unsorted[3], unsorted[4] = unsorted[4], unsorted[3]
    topic, kind, _, message = unsorted[-1]
    late = START - 3_000_000_000
    unsorted[-1] = (topic, kind, late, message)
    foxglove("unsorted.mcap", unsorted, CompressionType.NONE)
    expected["unsorted_late"] = late
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
    size = sum(file.stat().st_size for file in OUT.rglob("*") if file.is_file())
    print(f"{OUT.relative_to(ROOT)}: {size} bytes")


if __name__ == "__main__":
    main()
