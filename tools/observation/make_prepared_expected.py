#!/usr/bin/env python3
"""Hashes of images after each step of image preparation, by the libraries that trained checkpoints
saw, and of camera encodings by OpenCV; for the tests of vla-inference.

    python3 tools/observation/make_prepared_expected.py
        (Python 3.11; pip install numpy==1.26.4 Pillow==10.3.0 opencv-python-headless==4.9.0.80
         tensorflow-cpu==2.15.0)

Sizes from 1 pixel on, black and white squares that make TensorFlow's JPEG wrap, odd edges.
"""

import hashlib
import json
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import cv2
import numpy as np
import PIL
import tensorflow as tf
from PIL import Image

MODULUS = 0x7FFFFFFF


def noise(count, seed):
    """Bytes of MINSTD, in places stretched to 0 or 255."""
    states = np.array([seed * 48271 % MODULUS], np.uint64)
    while states.size < count:
        factor = pow(48271, states.size, MODULUS)
        states = np.concatenate([states, states * np.uint64(factor) % np.uint64(MODULUS)])
    values = (states[:count] >> np.uint64(8) & np.uint64(0x1FF)).astype(np.int64)
    return np.clip(values - 128, 0, 255).astype(np.uint8)


def picture(width, height, seed):
    """Noise for even seeds, squares of 1 to 8 pixels in black and white for odd ones."""
    if seed % 2 == 0:
        return noise(width * height * 3, seed).reshape(height, width, 3)
    side = 1 + seed // 2 % 8
    rows, columns = np.indices((height, width)) // side
    white = (rows + columns) % 2 * 255
    return np.repeat(white[..., None], 3, axis=2).astype(np.uint8)


def jpeg(image):
    return tf.io.decode_image(tf.image.encode_jpeg(image), expand_animations=False).numpy()


def lanczos3(side):
    def step(image):
        floats = tf.image.resize(image, (side, side), method="lanczos3", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(floats), 0, 255), tf.uint8).numpy()

    return step


def center_crop(image):
    """openvla's crop_and_resize, with the image's own size in place of 224."""
    height, width = image.shape[:2]
    floats = tf.image.convert_image_dtype(tf.constant(image), tf.float32)[None]
    side = tf.clip_by_value(tf.sqrt(0.9), 0, 1)
    offset = (1 - side) / 2
    box = tf.stack([offset, offset, offset + side, offset + side])[None]
    floats = tf.image.crop_and_resize(floats, box, [0], (height, width))[0]
    floats = tf.clip_by_value(floats, 0, 1)
    return tf.image.convert_image_dtype(floats, tf.uint8, saturate=True).numpy()


def pillow(filter, side):
    return lambda image: np.asarray(Image.fromarray(image).resize((side, side), filter))


def bilinear_pad(side):
    """openpi-client's resize_with_pad."""

    def step(image):
        height, width = image.shape[:2]
        if (width, height) == (side, side):
            return image
        ratio = max(width / side, height / side)
        inner = (int(width / ratio), int(height / ratio))
        out = Image.new("RGB", (side, side), 0)
        small = Image.fromarray(image).resize(inner, Image.Resampling.BILINEAR)
        out.paste(small, (max(0, int((side - inner[0]) / 2)), max(0, int((side - inner[1]) / 2))))
        return np.asarray(out)

    return step


def area(side):
    return lambda image: cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


SMALL = [(w, h) for w in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33) for h in (1, 2, 3, 8, 17, 30)]
LARGE = [(640, 480), (1280, 720), (223, 225), (321, 243), (100, 500), (1000, 2), (2, 700)]
REDUCED = [(30, 30), (31, 30), (30, 60), (60, 60), (60, 90), (90, 90), (45, 45), (61, 59),
           (640, 480), (333, 30), (300, 1000), (1920, 1080), (119, 121), (89, 31)]  # fmt: skip
STEPS = [
    ("jpeg", 0, jpeg, SMALL + LARGE),
    ("lanczos3", 30, lanczos3(30), SMALL + LARGE),
    ("lanczos3", 224, lanczos3(224), LARGE),
    ("center_crop", 0, center_crop, SMALL + LARGE),
    ("bilinear", 30, pillow(Image.Resampling.BILINEAR, 30), SMALL + LARGE),
    ("bicubic", 30, pillow(Image.Resampling.BICUBIC, 30), SMALL + LARGE),
    ("bilinear_pad", 40, bilinear_pad(40), [(w, h) for w, h in SMALL if w < 40 * h < 1600 * w]),
    ("bilinear_pad", 224, bilinear_pad(224), LARGE[:5]),
    ("area", 30, area(30), REDUCED),
]
CAMERAS = [(4, 4), (6, 4), (8, 6), (20, 10), (66, 34), (640, 480)]
ODD = [(3, 3), (5, 4), (7, 9), (31, 33)]


def sha256(image):
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def cameras():
    """sensor_msgs name, bytes of a row, rows, and OpenCV's conversion."""
    for width, height in CAMERAS:
        for name, code in [("uyvy", cv2.COLOR_YUV2RGB_UYVY), ("yuyv", cv2.COLOR_YUV2RGB_YUY2)]:
            yield name, width, height, 2 * width, height, (height, width, 2), code
        for name, code in [("nv12", cv2.COLOR_YUV2RGB_NV12), ("nv21", cv2.COLOR_YUV2RGB_NV21)]:
            rows = height * 3 // 2
            yield name, width, height, width, rows, (rows, width), code
    # OpenCV names a pattern by the second row's second pixel.
    for name, code in [
        ("bayer_rggb8", cv2.COLOR_BayerBG2RGB),
        ("bayer_bggr8", cv2.COLOR_BayerRG2RGB),
        ("bayer_gbrg8", cv2.COLOR_BayerGR2RGB),
        ("bayer_grbg8", cv2.COLOR_BayerGB2RGB),
    ]:
        for width, height in CAMERAS + ODD:
            yield name, width, height, width, height, (height, width), code


def main():
    cases, seed = [], 0
    for name, side, step, sizes in STEPS:
        for width, height in sizes:
            seed += 1
            out = step(picture(width, height, seed))
            case = {"step": name, "side": side, "width": width, "height": height, "seed": seed}
            cases.append(case | {"sha256": sha256(out)})
    messages = []
    for name, width, height, step, rows, shape, code in cameras():
        seed += 1
        data = noise(step * rows, seed)
        rgb = cv2.cvtColor(data.reshape(shape), code)
        case = {"encoding": name, "width": width, "height": height, "step": step, "rows": rows}
        messages.append(case | {"seed": seed, "sha256": sha256(rgb)})
    versions = {"tensorflow": tf.__version__, "pillow": PIL.__version__, "opencv": cv2.__version__}
    path = Path(__file__).resolve().parents[2] / "tests/data/observation/prepared.json"
    lines = [",\n".join(f"  {json.dumps(case)}" for case in part) for part in (cases, messages)]
    path.write_text(
        f'{{"versions": {json.dumps(versions)},\n"cases": [\n{lines[0]}\n],\n'
        f'"cameras": [\n{lines[1]}\n]}}\n'
    )
    print(len(cases), "steps,", len(messages), "camera messages")


main()
