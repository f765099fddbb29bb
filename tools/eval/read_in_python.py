#!/usr/bin/env python3
"""Reference for benches/bag_throughput.rs: rosbags reads a bag, Pillow decodes and resizes. Prints
frames/s, milliseconds of processor time per frame, and the sum of all pixels.

    read_in_python.py BAG TOPIC      (needs rosbags, numpy, Pillow)
"""

import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

bag, topic = Path(sys.argv[1]), sys.argv[2]
store = get_typestore(Stores.ROS2_HUMBLE)


def messages():
    with Reader(bag) as reader:
        wanted = [connection for connection in reader.connections if connection.topic == topic]
        for connection, _, data in reader.messages(wanted):
            yield connection.msgtype, data


started, worked, frames, total = time.perf_counter(), time.process_time(), 0, 0
for kind, data in messages():
    message = store.deserialize_cdr(data, kind)
    if kind.endswith("CompressedImage"):
        image = Image.open(io.BytesIO(message.data)).convert("RGB")
    else:
        image = Image.fromarray(
            message.data.reshape(message.height, message.step)[:, : message.width * 3].reshape(
                message.height, message.width, 3
            )
        )
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
    total += int(pixels.sum(dtype=np.uint64))
    frames += 1
print(
    frames / (time.perf_counter() - started), (time.process_time() - worked) * 1e3 / frames, total
)
