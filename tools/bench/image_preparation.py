#!/usr/bin/env python3
"""Image preparation next to Pillow, OpenCV and TensorFlow doing the same, on one core, in one run.

    python3 tools/bench/image_preparation.py [--binary FILE] [--cpu N]
        (pip install numpy==1.26.4 Pillow==10.3.0 opencv-python-headless==4.9.0.80
         tensorflow-cpu==2.15.0; without TensorFlow its columns are left out)

Runs `cargo bench -p vla-inference --bench image_preparation` (or the given binary of it), pins
itself and it to one core, and prints the shortest of repeated calls in microseconds, with the ratio
of the fastest other library to ours: above 1, ours is faster. The shortest call is compared because
others may use the machine's cores.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import cv2
import numpy as np
from PIL import Image

try:
    import tensorflow as tf
except ImportError:
    tf = None

BUDGET_S = 0.4


def picture(width, height):
    """The same as in the benchmark."""
    y, x = np.indices((height, width))
    channels = []
    for channel, value in enumerate([x * 255 // width, y * 255 // height, (x * y >> 5) & 255]):
        texture = (x * 73856093) ^ (y * 19349663) ^ (channel * 83492791)
        channels.append((value + (texture >> 7 & 15)) & 255)
    return np.stack(channels, axis=2).astype(np.uint8)


def shortest(work):
    work()
    best, end, count = float("inf"), time.perf_counter() + BUDGET_S, 0
    while time.perf_counter() < end or count < 5:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best * 1e6


def pillow_jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling="4:2:0")
    file.seek(0)
    return Image.open(file).convert("RGB")


def opencv_jpeg(image):
    return cv2.imdecode(cv2.imencode(".jpg", image)[1], cv2.IMREAD_COLOR)


def inner_size(image):
    height, width = image.shape[:2]
    ratio = max(width / 224, height / 224)
    return int(width / ratio), int(height / ratio)


def pad(image, inner):
    out = np.zeros((224, 224, 3), image.dtype)
    left, top = (224 - inner[0]) // 2, (224 - inner[1]) // 2
    out[top : top + inner[1], left : left + inner[0]] = image
    return out


def opencv_crop(image):
    height, width = image.shape[:2]
    x, y = round(width * 0.02566), round(height * 0.02566)
    return cv2.resize(image[y : height - y, x : width - x], (width, height))


def opencv_float_pad(image):
    inner = inner_size(image)
    floats = image.astype(np.float32) / 255.0
    floats = pad(cv2.resize(floats, inner, interpolation=cv2.INTER_LINEAR), inner) * 2.0 - 1.0
    return np.ascontiguousarray(floats.transpose(2, 0, 1))


def pillow_pad(image):
    inner = inner_size(np.asarray(image))
    out = Image.new("RGB", (224, 224), 0)
    small = image.resize(inner, Image.Resampling.BILINEAR)
    out.paste(small, ((224 - inner[0]) // 2, (224 - inner[1]) // 2))
    return out


def tensorflow_crop(image):
    floats = tf.image.convert_image_dtype(image, tf.float32)[None]
    side = 0.9**0.5
    box = [[(1 - side) / 2, (1 - side) / 2, (1 + side) / 2, (1 + side) / 2]]
    floats = tf.image.crop_and_resize(floats, box, [0], image.shape[:2])[0]
    floats = tf.clip_by_value(floats, 0, 1)
    return tf.image.convert_image_dtype(floats, tf.uint8, saturate=True).numpy()


def tensorflow_lanczos3(image):
    floats = tf.image.resize(image, (224, 224), method="lanczos3", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(floats), 0, 255), tf.uint8)


def tensorflow_jpeg(image):
    return tf.io.decode_image(tf.image.encode_jpeg(image), expand_animations=False)


def tensorflow_pipeline(image, name):
    if name == "libero":
        image = image[::-1, ::-1]
    elif name == "oft_aloha":
        resized = Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC)
        image = np.asarray(resized)
    image = tensorflow_lanczos3(tensorflow_jpeg(image)).numpy()
    return image if name == "bridge" else tensorflow_crop(image)


def others(name, width, height):
    """Library -> microseconds; OpenCV and Pillow do what they have that is nearest."""
    array = picture(width, height)
    image = Image.fromarray(array)
    size = (224, 224)
    pillow = lambda filter: image.resize(size, filter)
    work = {
        "rotate_180": {
            "opencv": lambda: cv2.rotate(array, cv2.ROTATE_180),
            "pillow": lambda: image.transpose(Image.Transpose.ROTATE_180),
            "numpy": lambda: np.ascontiguousarray(array[::-1, ::-1]),
        },
        "jpeg": {"opencv": lambda: opencv_jpeg(array), "pillow": lambda: pillow_jpeg(image)},
        "center_crop": {"opencv": lambda: opencv_crop(array)},
        "bicubic": {"pillow": lambda: pillow(Image.Resampling.BICUBIC)},
        "bilinear": {"pillow": lambda: pillow(Image.Resampling.BILINEAR)},
        "bilinear_pad": {"pillow": lambda: pillow_pad(image)},
        "lanczos3": {"pillow": lambda: pillow(Image.Resampling.LANCZOS)},
        "area": {"opencv": lambda: cv2.resize(array, size, interpolation=cv2.INTER_AREA)},
        "torch_bilinear_pad": {"opencv": lambda: opencv_float_pad(array)},
        "bgr8": {"opencv": opencv_camera(array, (height, width, 3), cv2.COLOR_BGR2RGB)},
        "bgra8": {"opencv": opencv_camera(array, (height, width, 4), cv2.COLOR_BGRA2RGB)},
        "yuyv": {"opencv": opencv_camera(array, (height, width, 2), cv2.COLOR_YUV2RGB_YUY2)},
        "nv12": {"opencv": opencv_camera(array, (height * 3 // 2, width), cv2.COLOR_YUV2RGB_NV12)},
        "bayer_rggb8": {"opencv": opencv_camera(array, (height, width), cv2.COLOR_BayerBG2RGB)},
    }.get(name, {})
    if tf is not None:
        exact = {
            "jpeg": lambda: tensorflow_jpeg(array),
            "center_crop": lambda: tensorflow_crop(array),
            "lanczos3": lambda: tensorflow_lanczos3(array),
        }
        if name in exact:
            work["tensorflow"] = exact[name]
        if name in ("libero", "bridge", "oft_aloha"):
            work["tensorflow"] = lambda: tensorflow_pipeline(array, name)
    return {library: shortest(call) for library, call in work.items()}


def opencv_camera(array, shape, code):
    data = np.resize(array.reshape(-1), shape)
    return lambda: cv2.cvtColor(data, code)


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", help="the built benchmark")
    parser.add_argument("--cpu", type=int, default=0, help="core to use")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cpu})
    cv2.setNumThreads(1)
    if tf is not None:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    command = ["cargo", "bench", "-q", "-p", "vla-inference", "--bench", "image_preparation", "--"]
    command = [options.binary] if options.binary else command
    print(f"{processor()}, core {options.cpu}, load {os.getloadavg()[0]:.1f}")
    ours = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    print(f"{'step':<20} {'size':<11} {'ours us':>9}  {'ratio':>6}  others, us")
    slower = []
    for line in ours.stdout.splitlines():
        case = json.loads(line)
        name, width, height = case["name"], case["width"], case["height"]
        times = others(name, width, height)
        ratio = min(times.values()) / case["shortest_us"] if times else float("nan")
        if ratio < 1:
            slower.append(f"{name} {width}x{height}")
        listed = ", ".join(f"{library} {value:.0f}" for library, value in times.items())
        size = f"{width}x{height}"
        print(f"{name:<20} {size:<11} {case['shortest_us']:>9.0f}  {ratio:>6.2f}  {listed}")
    print("slower than another library:", ", ".join(slower) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
