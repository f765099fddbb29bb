#!/usr/bin/env python3
"""Hashes of images resized by Pillow, for the tests of vla-inference.

    python3 tools/observation/make_resize_expected.py
        (needs numpy and Pillow: tools/bags/requirements.txt)

Sizes that shrink, grow, keep a side, or have odd edges. Needs Pillow before 13: since 13 an image
whose height shrinks much more than its width is resized vertically first, with other rounding
(python-pillow/Pillow#9549). Checkpoints were trained with the older order.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

if int(PIL.__version__.split(".")[0]) >= 13:
    raise SystemExit(f"Pillow {PIL.__version__} resizes in another order; pip install 'Pillow<13'")

SIZES = [
    (640, 480, 224),
    (480, 640, 224),
    (1280, 720, 224),
    (224, 224, 224),
    (224, 480, 224),
    (640, 224, 224),
    (256, 256, 224),
    (1920, 1080, 224),
    (100, 75, 224),
    (1, 1, 224),
    (2, 3, 7),
    (1, 500, 5),
    (500, 1, 5),
    (9, 10, 3),
    (10, 9, 3),
    (10, 10, 10),
    (11, 11, 10),
    (17, 31, 8),
    (33, 29, 9),
    (64, 20, 32),
    (65, 21, 33),
    (640, 481, 224),
    (641, 479, 224),
    (639, 490, 336),
    (320, 240, 384),
    (8192, 3, 4),
    (3, 8192, 4),
    (50, 40, 1),
    (7, 1000, 2),
    (223, 225, 224),
]


def picture(width, height, seed):
    """Noise that saturates sums at both ends: bytes of MINSTD, in places stretched to 0 or 255."""
    state, values = seed, np.empty(width * height * 3, np.uint8)
    for i in range(values.size):
        state = state * 48271 % 0x7FFFFFFF
        value = state >> 8 & 0x1FF
        values[i] = min(max(value - 128, 0), 255)
    return values.reshape(height, width, 3)


cases = []
for seed, (width, height, side) in enumerate(SIZES, 1):
    image = Image.fromarray(picture(width, height, seed)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    cases.append(
        {
            "width": width,
            "height": height,
            "side": side,
            "seed": seed,
            "sha256": hashlib.sha256(image.tobytes()).hexdigest(),
        }
    )
path = Path(__file__).resolve().parents[2] / "tests/data/observation/resized_by_pillow.json"
lines = ",\n".join(f"  {json.dumps(case)}" for case in cases)
path.write_text(f'{{"pillow": "{PIL.__version__}", "cases": [\n{lines}\n]}}\n')
