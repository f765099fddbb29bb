#!/usr/bin/env python3
"""Writes a rosbag2 folder of the golden kit's images, instructions and actions, repeated as needed.

    python3 tools/bags/make_golden_bag.py OUT [--frames N] [--storage mcap|sqlite3]
        [--compression none|zstd] [--raw WIDTHxHEIGHT]

`openvla eval run` on it with the kit's checkpoint has a token accuracy of exactly 1, except with
--raw, which resizes the images.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

KIT = Path(__file__).resolve().parents[2] / "tests/data/openvla_tiny"
START, PERIOD = 1_700_000_000_000_000_000, 200_000_000

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--frames", type=int, default=12)
parser.add_argument("--storage", choices=["mcap", "sqlite3"], default="mcap")
parser.add_argument("--compression", choices=["none", "zstd"], default="none")
parser.add_argument("--raw", metavar="WIDTHxHEIGHT")
arguments = parser.parse_args()

store = get_typestore(Stores.ROS2_HUMBLE)
types = store.types
cases = json.loads((KIT / "cases.json").read_text())["cases"]
storage = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[arguments.storage]
writer = Writer(arguments.out, version=9, storage_plugin=storage)
if arguments.compression == "zstd":
    writer.set_compression(
        CompressionMode.STORAGE if arguments.storage == "mcap" else CompressionMode.MESSAGE,
        CompressionFormat.ZSTD,
    )


def header(at):
    stamp = types["builtin_interfaces/msg/Time"](sec=at // 10**9, nanosec=at % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")


def image(case, at):
    path = KIT / case["image"]
    if not arguments.raw:
        return types["sensor_msgs/msg/CompressedImage"](
            header=header(at), format="png", data=np.fromfile(path, np.uint8)
        )
    width, height = map(int, arguments.raw.split("x"))
    pixels = np.asarray(Image.open(path).convert("RGB").resize((width, height)))
    return types["sensor_msgs/msg/Image"](
        header=header(at),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=width * 3,
        data=pixels.reshape(-1),
    )


kinds = {
    "/instruction": "std_msgs/msg/String",
    "/camera/image": "sensor_msgs/msg/Image"
    if arguments.raw
    else "sensor_msgs/msg/CompressedImage",
    "/action": "std_msgs/msg/Float64MultiArray",
}
with writer:
    topics = {
        topic: writer.add_connection(topic, kind, typestore=store) for topic, kind in kinds.items()
    }
    payloads = []
    for case in cases:
        layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        action = types["std_msgs/msg/Float64MultiArray"](
            layout=layout, data=np.array(case["actions"]["bridge_orig"])
        )
        text = types["std_msgs/msg/String"](data=case["instruction"])
        messages = {"/instruction": text, "/camera/image": image(case, START), "/action": action}
        payloads.append(
            {
                topic: bytearray(store.serialize_cdr(message, kinds[topic]))
                for topic, message in messages.items()
            }
        )
    for i in range(arguments.frames):
        at, payload = START + i * PERIOD, payloads[i % len(payloads)]
        # The stamp follows the CDR header of four bytes: seconds and nanoseconds.
        payload["/camera/image"][4:12] = np.array([at // 10**9, at % 10**9], "<u4").tobytes()
        writer.write(topics["/instruction"], at - 1_000_000, payload["/instruction"])
        writer.write(topics["/camera/image"], at, payload["/camera/image"])
        writer.write(topics["/action"], at + 5_000_000, payload["/action"])
